// Package kubetest gives tests a real API server on a real etcd: one for each test process, with RBAC on, gone when
// the process ends, however it ends. There is no controller manager: nothing collects garbage and no namespace ends.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TB is the part of testing.TB that is used here, so that programs outside of tests can bring one of their own.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

const startTimeout = 2 * time.Minute

// shared is the control plane of this process.
var shared struct {
	sync.Mutex
	plane *plane
	err   error
	crds  bool
}

type plane struct {
	environment *envtest.Environment
	watchdog    *watchdog
	dir         string
}

// Start returns the address and credentials of a cluster administrator; the first call starts the API server, with
// the binaries that KUBEBUILDER_ASSETS names, else with those that hack/onenode/build.sh builds.
func Start(t TB) *rest.Config {
	t.Helper()
	return rest.CopyConfig(running(t).environment.Config)
}

// UserConfig returns credentials of a user who has no rights but those that RBAC gives to the name and the groups.
func UserConfig(t TB, name string, groups ...string) *rest.Config {
	t.Helper()
	user, err := running(t).environment.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		t.Fatalf("kubetest: add user %s: %v", name, err)
	}
	return user.Config()
}

// InstallCRDs installs the kinds of config/crd/bases, once.
func InstallCRDs(t TB) {
	t.Helper()
	p := running(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.crds {
		return
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("kubetest: %v", err)
	}
	_, err = envtest.InstallCRDs(p.environment.Config, envtest.CRDInstallOptions{
		Paths: []string{filepath.Join(root, "config", "crd", "bases")}, ErrorIfPathMissing: true,
	})
	if err != nil {
		t.Fatalf("kubetest: install the kinds of config/crd/bases: %v", err)
	}
	shared.crds = true
}

// Namespace creates a namespace of its own for a test and returns its name.
func Namespace(t TB) string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(Start(t))
	if err != nil {
		t.Fatalf("kubetest: %v", err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	created, err := clients.CoreV1().Namespaces().Create(context.Background(), namespace, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("kubetest: create a namespace: %v", err)
	}
	return created.Name
}

// Main runs the tests of a package and stops the API server before it exits: call it from TestMain. Without it, the
// API server is gone a moment after the process.
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop ends the API server and removes its data. The next Start begins with an empty one.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.plane != nil {
		shared.plane.watchdog.finish()
	}
	shared.plane, shared.err, shared.crds = nil, nil, false
}

func running(t TB) *plane {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.plane == nil && shared.err == nil {
		shared.plane, shared.err = start()
	}
	if shared.err != nil {
		t.Fatalf("kubetest: %v", shared.err)
	}
	return shared.plane
}

func start() (*plane, error) {
	assets, err := assetsDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		return nil, err
	}
	guard, err := startWatchdog(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	environment, err := newEnvironment(assets, dir)
	if err != nil {
		guard.finish()
		return nil, err
	}
	config, err := environment.Start()
	if err != nil {
		guard.finish()
		return nil, fmt.Errorf("start the API server: %w%s", err, lastLines(dir))
	}
	// Its certificates for webhooks are used by nobody here.
	if err := environment.WebhookInstallOptions.Cleanup(); err != nil {
		guard.finish()
		return nil, err
	}
	// Tests share the server with nobody: no client-side throttling.
	config.QPS = -1
	return &plane{environment: environment, watchdog: guard, dir: dir}, nil
}

func newEnvironment(assets, dir string) (*envtest.Environment, error) {
	environment := &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		ControlPlaneStartTimeout: startTimeout, ControlPlaneStopTimeout: startTimeout,
	}
	server := environment.ControlPlane.GetAPIServer()
	etcd := &envtest.Etcd{}
	environment.ControlPlane.Etcd = etcd
	server.CertDir, etcd.DataDir = filepath.Join(dir, "kube-apiserver"), filepath.Join(dir, "etcd")
	for _, directory := range []string{server.CertDir, etcd.DataDir} {
		if err := os.Mkdir(directory, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if server.Path, err = writeLauncher(assets, dir, "kube-apiserver"); err != nil {
		return nil, err
	}
	if etcd.Path, err = writeLauncher(assets, dir, "etcd"); err != nil {
		return nil, err
	}
	return environment, nil
}

func assetsDir() (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "kube-apiserver")); err != nil {
			return "", fmt.Errorf("KUBEBUILDER_ASSETS holds no kube-apiserver: %w", err)
		}
		return dir, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	script := filepath.Join(root, "hack", "onenode", "build.sh")
	build := exec.Command(script)
	build.Stderr = os.Stderr
	out, err := build.Output()
	if err != nil {
		return "", fmt.Errorf("KUBEBUILDER_ASSETS is unset and %s failed: %w", script, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], nil
}

// moduleRoot is the nearest directory above with a go.mod: tests run in the directory of their package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("no go.mod in this directory or above: run from inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}
