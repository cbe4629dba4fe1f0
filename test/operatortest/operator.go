// SPDX-License-Identifier: Apache-2.0

// Package operatortest runs the real manager as a process of its own, with the
// rights that config/rbac gives it and no others, so that tests can kill it at
// any moment.
package operatortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// TB is the part of testing.TB that is used here, so that programs outside of
// tests can bring one of their own.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	TempDir() string
}

// User is the operator's own ServiceAccount.
const User = "system:serviceaccount:dgm-system:dgm-operator"

// Options of an operator.
type Options struct {
	// DatabaseURL is where it mirrors to. That of pgtest's superuser stands for two:
	// it migrates as a member of dgm_owner and works as a member of dgm_service.
	DatabaseURL string
	// ClusterName is its --cluster-name; "test" when empty.
	ClusterName string
	// Name identifies the replica; "replica-0" when empty.
	Name string
	// Args are further flags of `manager run`.
	Args []string
	// Cluster is how it reaches the API server; nil: straight, as User.
	Cluster *rest.Config
}

// Operator is one running manager.
type Operator struct {
	command *exec.Cmd
	exited  chan struct{}
	probes  string
	logFile string
	dir     string
}

// Start starts a manager; it ends with the test at the latest.
func Start(t TB, o Options) *Operator {
	t.Helper()
	dir := t.TempDir()
	if o.ClusterName == "" {
		o.ClusterName = "test"
	}
	if o.Name == "" {
		o.Name = "replica-0"
	}
	op := &Operator{exited: make(chan struct{}), probes: freeAddress(t), logFile: filepath.Join(dir, "manager.log"), dir: dir}
	op.SetDatabaseURL(t, o.DatabaseURL)
	if o.Cluster == nil {
		o.Cluster = ClusterConfig(t)
	}
	writeKubeconfig(t, o.Cluster, filepath.Join(dir, "kubeconfig"))
	logs, err := os.Create(op.logFile)
	if err != nil {
		t.Fatalf("operatortest: %v", err)
	}
	defer func() { _ = logs.Close() }()
	args := append([]string{
		"run", "--cluster-name=" + o.ClusterName, "--database-url-file=" + filepath.Join(dir, "url"),
		"--migration-url-file=" + filepath.Join(dir, "migration-url"),
		"--leader-election-namespace=dgm-system", "--metrics-bind-address=0", "--health-probe-bind-address=" + op.probes,
		"--lease-duration=4s",
	}, o.Args...)
	op.command = exec.Command(binary(t), args...)
	op.command.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"), "POD_NAME="+o.Name, "POD_NAMESPACE=dgm-system")
	op.command.Stdout, op.command.Stderr = logs, logs
	op.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := op.command.Start(); err != nil {
		t.Fatalf("operatortest: start the manager: %v", err)
	}
	go func() {
		_ = op.command.Wait()
		close(op.exited)
	}()
	t.Cleanup(op.Kill)
	return op
}

// Run runs the manager's program with these arguments to its end and returns
// what it wrote.
func Run(t TB, args ...string) (output string, err error) {
	t.Helper()
	written, err := exec.Command(binary(t), args...).CombinedOutput()
	return string(written), err
}

// RunAsAdmin is Run with a kubeconfig that may do everything in the cluster.
func RunAsAdmin(t TB, args ...string) (output string, err error) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeKubeconfig(t, kubetest.Start(t), kubeconfig)
	command := exec.Command(binary(t), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	written, err := command.CombinedOutput()
	return string(written), err
}

// SetDatabaseURL changes the files that the manager reads the URLs from.
func (o *Operator) SetDatabaseURL(t TB, url string) {
	t.Helper()
	for file, content := range map[string]string{"url": pgtest.ServiceURL(url), "migration-url": pgtest.MigrationURL(url)} {
		if err := os.WriteFile(filepath.Join(o.dir, file), []byte(content), 0o600); err != nil {
			t.Fatalf("operatortest: %v", err)
		}
	}
}

// Kill ends the manager with SIGKILL and waits for its end.
func (o *Operator) Kill() {
	_ = o.command.Process.Kill()
	<-o.exited
}

// Stop ends the manager with SIGTERM, as Kubernetes does, and waits for its end.
func (o *Operator) Stop(t TB) {
	t.Helper()
	_ = o.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-o.exited:
	case <-time.After(30 * time.Second):
		t.Fatalf("operatortest: the manager does not stop; its log ends:\n%s", o.LogTail())
	}
}

// Pause stops the manager's process in the middle of whatever it does, and
// Continue lets it go on.
func (o *Operator) Pause() error { return o.command.Process.Signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (o *Operator) Continue() error { return o.command.Process.Signal(syscall.SIGCONT) }

// Exited is closed when the manager has ended.
func (o *Operator) Exited() <-chan struct{} { return o.exited }

// Pid is the process id.
func (o *Operator) Pid() int { return o.command.Process.Pid }

// Ready asks /readyz once.
func (o *Operator) Ready(ctx context.Context) error { return o.probe(ctx, "readyz") }

// Alive asks /healthz once.
func (o *Operator) Alive(ctx context.Context) error { return o.probe(ctx, "healthz") }

func (o *Operator) probe(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.probes+"/"+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return errors.New(path + ": " + response.Status)
	}
	return nil
}

// WaitReady waits until the manager is ready.
func (o *Operator) WaitReady(t TB) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for o.Ready(context.Background()) != nil {
		select {
		case <-o.exited:
			t.Fatalf("operatortest: the manager ended; its log ends:\n%s", o.LogTail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("operatortest: the manager does not become ready; its log ends:\n%s", o.LogTail())
		}
	}
}

// Log is all that the manager has logged.
func (o *Operator) Log() string {
	content, _ := os.ReadFile(o.logFile)
	return string(content)
}

// LogTail is the end of the log.
func (o *Operator) LogTail() string {
	lines := strings.Split(o.Log(), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

var build struct {
	sync.Once
	path string
	err  error
}

// binary builds the manager once for a test process.
func binary(t TB) string {
	t.Helper()
	build.Do(func() {
		var root string
		if root, build.err = moduleRoot(); build.err != nil {
			return
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(cache, "dgm-operator", "test", fmt.Sprintf("manager-%d", os.Getpid()))
		var output bytes.Buffer
		command := exec.Command("go", "build", "-o", build.path, "./cmd/manager")
		command.Dir, command.Stdout, command.Stderr = root, &output, &output
		if err := command.Run(); err != nil {
			build.err = fmt.Errorf("build the manager: %w\n%s", err, output.String())
		}
	})
	if build.err != nil {
		t.Fatalf("operatortest: %v", build.err)
	}
	return build.path
}

// RemoveBinary deletes what was built; call it at the end of TestMain.
func RemoveBinary() {
	if build.path != "" {
		_ = os.Remove(build.path)
	}
}

func moduleRoot() (string, error) {
	output, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(output))), nil
}

// firstPort and ports are those from which probes are served: below the ones that
// the kernel gives to connections, which would take one that was found free.
const firstPort, ports = 12_000, 18_000

// freeAddress is an address that nobody listens at.
func freeAddress(t TB) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(ports))) //nolint:gosec // not a secret
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = listener.Close()
		return address
	}
	t.Fatalf("operatortest: no port is free")
	return ""
}

// ClusterConfig is the way straight to the API server, as User.
func ClusterConfig(t TB) *rest.Config {
	t.Helper()
	return kubetest.UserConfig(t, User, "system:serviceaccounts", "system:serviceaccounts:dgm-system")
}

func writeKubeconfig(t TB, config *rest.Config, file string) {
	t.Helper()
	content, err := kubeconfigOf(config)
	if err != nil {
		t.Fatalf("operatortest: %v", err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatalf("operatortest: %v", err)
	}
}
