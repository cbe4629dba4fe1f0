// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartArchiving is Start for a server that archives its write-ahead log, so
// that RestoreTo can go to any moment after a BaseBackup.
func StartArchiving(t TB, settings ...string) *Server {
	t.Helper()
	s, err := New(context.Background(), Options{Settings: settings, Archive: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// makeArchive makes the directory of the archive and returns the settings that
// have the server fill it. A segment is never overwritten.
func (s *Server) makeArchive() ([]string, error) {
	s.archive = filepath.Join(s.dir, "archive")
	if err := os.Mkdir(s.archive, 0o700); err != nil {
		return nil, fmt.Errorf("pgtest: archive: %w", err)
	}
	if err := s.give(s.archive); err != nil {
		return nil, err
	}
	return []string{"archive_mode=on", "archive_command=test ! -f " + s.archive + "/%f && cp %p " + s.archive + "/%f"}, nil
}

// Target is the moment to which RestoreTo goes. Exactly one field is set.
type Target struct {
	// Time is inclusive: what was committed at that microsecond is there.
	Time time.Time
	// Name is that of a restore point.
	Name string
	// LSN is a position of the log.
	LSN string
}

func (to Target) setting() string {
	switch {
	case to.Name != "":
		return "recovery_target_name = '" + to.Name + "'"
	case to.LSN != "":
		return "recovery_target_lsn = '" + to.LSN + "'"
	}
	return "recovery_target_time = '" + to.Time.UTC().Format("2006-01-02 15:04:05.999999") + "+00'"
}

// Moment is the server's clock, as a Target.
func (s *Server) Moment(t TB) Target {
	t.Helper()
	var now time.Time
	s.ask(t, &now, "SELECT clock_timestamp()")
	return Target{Time: now}
}

// RestorePoint puts a named restore point into the log.
func (s *Server) RestorePoint(t TB, name string) Target {
	t.Helper()
	var lsn string
	s.ask(t, &lsn, "SELECT pg_create_restore_point($1)::text", name)
	return Target{Name: name}
}

// Position is how far the log is, as a Target.
func (s *Server) Position(t TB) Target {
	t.Helper()
	var lsn string
	s.ask(t, &lsn, "SELECT pg_current_wal_insert_lsn()::text")
	return Target{LSN: lsn}
}

// Archive waits until all of the log so far is in the archive.
func (s *Server) Archive(t TB) {
	t.Helper()
	var segment string
	s.ask(t, &segment, "SELECT pg_walfile_name(pg_switch_wal())")
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(s.archive, segment)); err == nil {
			return
		}
	}
	t.Fatalf("pgtest: log segment %s is not archived: %s", segment, s.logTail())
}

// Destroy kills the server and removes its data directory. Backups and the
// archive are left.
func (s *Server) Destroy(t TB) {
	t.Helper()
	if s.running() {
		s.Kill(t)
	}
	if err := os.RemoveAll(s.data); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}

// RestoreTo starts a copy of the backup, has it replay the archive up to the
// target and promotes it, on the same port and on a new timeline. What ran on it
// is killed.
func (s *Server) RestoreTo(t TB, b Backup, to Target) {
	t.Helper()
	if s.running() {
		s.Kill(t)
	}
	s.data = filepath.Join(s.dir, "restored-"+randomHex(4))
	settings := fmt.Sprintf("restore_command = 'cp %s/%%f %%p'\n%s\nrecovery_target_action = 'promote'\n", s.archive, to.setting())
	if err := s.copyBackup(b, settings); err != nil {
		t.Fatalf("%v", err)
	}
	s.Start(t)
	var recovering bool
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if s.ask(t, &recovering, "SELECT pg_is_in_recovery()"); !recovering {
			return
		}
	}
	t.Fatalf("pgtest: recovery does not end: %s", s.logTail())
}

func (s *Server) copyBackup(b Backup, settings string) error {
	cp := exec.Command("cp", "-a", b.data, s.data)
	cp.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	if out, err := cp.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: copy the backup: %w: %s", err, out)
	}
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer conf.Close() //nolint:errcheck // the write below tells
	if _, err := conf.WriteString(settings); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	signal := filepath.Join(s.data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return s.give(signal)
}

// Program runs a PostgreSQL program (pg_dump, psql, …) of this server's version
// to its end, with input on its standard input, and returns what it wrote to its
// standard output.
func (s *Server) Program(t TB, input, name string, args ...string) string {
	t.Helper()
	cmd := s.command(context.Background(), name, args...)
	var failure strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &failure
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pgtest: %s: %v: %s", name, err, failure.String())
	}
	return string(out)
}

// give makes a file the server's own.
func (s *Server) give(path string) error {
	if s.owner == nil {
		return nil
	}
	return os.Chown(path, int(s.owner.Uid), int(s.owner.Gid))
}

func (s *Server) ask(t TB, into any, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	if err := conn.QueryRow(ctx, sql, args...).Scan(into); err != nil {
		t.Fatalf("pgtest: %s: %v", sql, err)
	}
}

// Shell runs a script with bash, as the user of the server and as somebody at
// its console: its programs are in PATH, PGDATA and the way to connect are in the
// environment, as is what env adds. The first failure ends it. It may restart the
// server, which the Server's own methods must not be used after.
func (s *Server) Shell(t TB, script string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"), "PGDATA="+s.data, "PGHOST=127.0.0.1",
		fmt.Sprintf("PGPORT=%d", s.port), "PGUSER="+User, "PGPASSWORD="+s.password, "LC_ALL=C.UTF-8")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Setsid: true}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ConfigureConsole writes into the server's own configuration what Start gives
// it on the command line, so that Shell can start it.
func (s *Server) ConfigureConsole(t TB) {
	t.Helper()
	settings := fmt.Sprintf("port = %d\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '%s'\nfsync = off\nshared_buffers = '64MB'\n", s.port, s.dir)
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer conf.Close() //nolint:errcheck // the write below tells
	if _, err := conf.WriteString(settings); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}

// Directory is the server's own, for what a script is to leave behind.
func (s *Server) Directory() string { return s.dir }
