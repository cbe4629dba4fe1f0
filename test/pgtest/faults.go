// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stop shuts the server down as an administrator would (open sessions are
// ended, the data directory is clean).
func (s *Server) Stop(t TB) {
	t.Helper()
	if err := s.end(syscall.SIGINT); err != nil {
		t.Fatalf("%v", err)
	}
}

// Kill ends the postmaster and all its processes with SIGKILL, as a crash of
// the machine would, but for what the operating system had buffered.
func (s *Server) Kill(t TB) {
	t.Helper()
	children := childrenOf(s.postmaster.Process.Pid)
	if err := s.end(syscall.SIGKILL); err != nil {
		t.Fatalf("%v", err)
	}
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Start starts a server that was stopped or killed, on its old port.
func (s *Server) Start(t TB) {
	t.Helper()
	// A killed server's last process may hold its shared memory for a moment.
	var err error
	for range 20 {
		if err = s.start(context.Background()); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%v", err)
}

// Restart stops and starts.
func (s *Server) Restart(t TB) {
	t.Helper()
	s.Stop(t)
	s.Start(t)
}

// Backup is a physical copy of a server at one moment.
type Backup struct{ data string }

// BaseBackup copies the running server.
func (s *Server) BaseBackup(t TB) Backup {
	t.Helper()
	b := Backup{data: filepath.Join(s.dir, "backup-"+randomHex(4))}
	out, err := s.command(context.Background(), "pg_basebackup", "-D", b.data, "-h", "127.0.0.1", "-p",
		strconv.Itoa(s.port), "-U", User, "-X", "stream", "-c", "fast", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("pgtest: pg_basebackup: %v: %s", err, out)
	}
	return b
}

// Failover kills the server and promotes the backup in its place, on the same
// port: what was committed after the backup is lost, and the timeline changes.
func (s *Server) Failover(t TB, b Backup) {
	t.Helper()
	if s.running() {
		s.Kill(t)
	}
	s.data = b.data
	signal := filepath.Join(s.data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if err := s.give(signal); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	s.Start(t)
	if err := s.promote(); err != nil {
		t.Fatalf("pgtest: promote: %v", err)
	}
}

// Restore ends the server if it runs and starts the backup in its place, as one
// who puts an old disk back: system identifier and timeline stay the same.
func (s *Server) Restore(t TB, b Backup) {
	t.Helper()
	if s.running() {
		s.Kill(t)
	}
	s.data = b.data
	s.Start(t)
}

func (s *Server) promote() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&done); err != nil {
		return err
	}
	if !done {
		return errors.New("still a standby after 60 s")
	}
	return nil
}

func (s *Server) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

func (s *Server) end(signal syscall.Signal) error {
	if s.running() {
		if err := s.postmaster.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("pgtest: end postgres: %w", err)
		}
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("pgtest: postgres still there %s after %s: %s", startTimeout, signal, s.logTail())
	}
}

// childrenOf reads /proc: postgres puts each of its processes into a session
// of its own, so that the process group does not reach them.
func childrenOf(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(field); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}
