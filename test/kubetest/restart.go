package kubetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/discovery"
)

// KillAPIServer ends the API server of this process with SIGKILL. Call start to have it back, on its address and with
// its data; it returns when the server is ready.
func KillAPIServer(t TB) (start func()) {
	t.Helper()
	p := running(t)
	pid, arguments, err := p.server()
	if err == nil {
		err = killed(pid)
	}
	if err != nil {
		t.Fatalf("kubetest: kill the API server: %v", err)
	}
	return func() {
		t.Helper()
		if err := p.restart(arguments); err != nil {
			t.Fatalf("kubetest: start the API server again: %v%s", err, lastLines(p.dir))
		}
	}
}

// server is the API server's process, and its arguments.
func (p *plane) server() (pid int, arguments []string, err error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "kube-apiserver.pid"))
	if err != nil {
		return 0, nil, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return 0, nil, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, nil, err
	}
	return pid, strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")[1:], nil
}

// killed ends a process and waits until it is gone.
func killed(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for range 1000 {
		if err := syscall.Kill(pid, 0); err != nil {
			return nil //nolint:nilerr // there is no such process any more
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("process %d does not end", pid)
}

func (p *plane) restart(arguments []string) error {
	command := exec.Command(filepath.Join(p.dir, "kube-apiserver.sh"), arguments...)
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }()
	client, err := discovery.NewDiscoveryClientForConfig(p.environment.Config)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		err := client.RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
