package kubetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/acgs/dgm-operator/test/kubetest"
)

// holdVariable makes this test binary start an API server, say so, and wait to be killed.
const holdVariable = "KUBETEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) != "" {
		kubetest.Start(exiting{})
		_, _ = os.Stdout.WriteString("up\n")
		time.Sleep(time.Hour)
	}
	kubetest.Main(m)
}

type exiting struct{}

func (exiting) Helper() {}
func (exiting) Fatalf(format string, _ ...any) {
	_, _ = os.Stderr.WriteString(format + "\n")
	os.Exit(1)
}

func TestUsersHaveOnlyTheRightsThatRBACGivesThem(t *testing.T) {
	namespace := kubetest.Namespace(t)
	kubetest.InstallCRDs(t)
	nobody, err := kubernetes.NewForConfig(kubetest.UserConfig(t, "nobody", "guests"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = nobody.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"nobody"`) {
		t.Fatalf("a user without rights listed ConfigMaps: %v", err)
	}
}

func TestNothingIsLeftAfterTheProcessIsKilled(t *testing.T) {
	dir := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdVariable+"=1", "TMPDIR="+dir)
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("the API server did not start: %v", err)
	}
	if len(servers(t, dir)) != 2 {
		t.Fatalf("expected etcd and kube-apiserver below %s, found %v", dir, servers(t, dir))
	}
	_ = holder.Process.Kill()
	_ = holder.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for {
		left, err := filepath.Glob(filepath.Join(dir, "kubetest-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 && len(servers(t, dir)) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left after the kill: %v, processes %v", left, servers(t, dir))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// servers returns the command lines of the processes that work in the directory, without the watchdog.
func servers(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), dir) && !strings.Contains(string(line), "kubetest-watchdog") {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
