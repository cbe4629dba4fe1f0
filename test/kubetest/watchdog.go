package kubetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// watchdog is a process that waits for the end of this one, then kills the servers whose process ids are in the
// directory and removes it. A signal on parent death would not do: it follows the thread that forked.
type watchdog struct {
	command *exec.Cmd
	pipe    io.WriteCloser
}

// The servers have the directory in their arguments, which tells them from a later process with the same id.
const watchdogScript = `
cat >/dev/null
for pidfile in "$1"/*.pid; do
  [ -f "$pidfile" ] || continue
  pid=$(cat "$pidfile")
  grep -qF "$1" "/proc/$pid/cmdline" 2>/dev/null || continue
  kill -KILL "$pid" 2>/dev/null
  while grep -qF "$1" "/proc/$pid/cmdline" 2>/dev/null; do sleep 0.05; done
done
rm -rf "$1"
`

func startWatchdog(dir string) (*watchdog, error) {
	command := exec.Command("/bin/sh", "-c", watchdogScript, "kubetest-watchdog", dir)
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	return &watchdog{command: command, pipe: pipe}, nil
}

// finish lets the watchdog clean up now and waits for it.
func (w *watchdog) finish() {
	_ = w.pipe.Close()
	_ = w.command.Wait()
}

// writeLauncher writes a script that records its process id and log and becomes the server.
func writeLauncher(assets, dir, name string) (string, error) {
	path := filepath.Join(dir, name+".sh")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --help ] && exec %[1]q --help\necho $$ >%[2]q\nexec %[1]q \"$@\" >%[3]q 2>&1\n",
		filepath.Join(assets, name), filepath.Join(dir, name+".pid"), filepath.Join(dir, name+".log"))
	return path, os.WriteFile(path, []byte(script), 0o700)
}

// lastLines returns the ends of the servers' logs.
func lastLines(dir string) string {
	var out strings.Builder
	for _, name := range []string{"etcd", "kube-apiserver"} {
		log, err := os.ReadFile(filepath.Join(dir, name+".log"))
		if err != nil {
			continue
		}
		fmt.Fprintf(&out, "\n%s: %s", name, log[max(0, len(log)-2000):])
	}
	return out.String()
}
