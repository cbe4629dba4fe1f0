// SPDX-License-Identifier: Apache-2.0

// Package pgtest starts real PostgreSQL servers for tests and benchmarks: each
// with a data directory and a port of its own, and gone when the process that
// started it ends, however it ends.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the superuser of every server.
const User = "dgm"

const startTimeout = 60 * time.Second

// TB is the part of testing.TB that is used here, so that programs outside of
// tests can bring one of their own.
type TB interface {
	Helper()
	Name() string
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Options of a server.
type Options struct {
	// Settings are given to postgres with -c, as "name=value", after the defaults
	// (fsync=off, small buffers) and so stronger than these.
	Settings []string
	// Archive has it archive its write-ahead log beside its data.
	Archive bool
	// TLS has it speak TLS as well.
	TLS bool
	// WithoutRoles leaves the server with its superuser alone.
	WithoutRoles bool
}

// Server is one PostgreSQL server. Its port and password stay the same when it
// is stopped and started again. Its methods are not safe for concurrent use,
// but for Database and URL.
type Server struct {
	bin      string
	dir      string
	data     string
	archive  string // empty: it archives nothing
	password string
	port     int
	owner    *syscall.Credential
	settings []string
	ca       *authority // nil: no TLS
	// withoutRoles: only the superuser is there.
	withoutRoles bool

	postmaster *exec.Cmd
	exited     chan struct{}
	watchdog   *watchdog
	databases  atomic.Int64
}

var shared struct {
	sync.Mutex
	server *Server
}

// Shared returns the server that all tests of this process have in common,
// started at the first call. It must not be stopped: use Start for that.
func Shared(t TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := New(context.Background(), Options{})
		if err != nil {
			t.Fatalf("%v", err)
		}
		shared.server = s
	}
	return shared.server
}

// Start returns a server that belongs to this test and ends with it.
func Start(t TB, settings ...string) *Server {
	t.Helper()
	s, err := New(context.Background(), Options{Settings: settings})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// New makes a data directory and starts a server on it. The caller ends it with
// Close; when the process dies first, a watchdog does.
func New(ctx context.Context, o Options) (*Server, error) {
	bin, err := binDir()
	if err != nil {
		return nil, err
	}
	owner, err := serverOwner()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "dgm-pg-")
	if err != nil {
		return nil, fmt.Errorf("pgtest: directory for the server: %w", err)
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, fmt.Errorf("pgtest: directory for the server: %w", err)
		}
	}
	w, err := startWatchdog(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		bin: bin, dir: dir, data: filepath.Join(dir, "data"), password: randomHex(12),
		owner: owner, settings: o.Settings, withoutRoles: o.WithoutRoles, watchdog: w,
	}
	if o.Archive {
		archiving, err := s.makeArchive()
		if err != nil {
			s.Close()
			return nil, err
		}
		s.settings = append(archiving, s.settings...)
	}
	if o.TLS {
		speaking, err := s.makeTLS()
		if err != nil {
			s.Close()
			return nil, err
		}
		s.settings = append(speaking, s.settings...)
	}
	if err := s.initdb(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.startOnFreePort(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if o.WithoutRoles {
		return s, nil
	}
	if err := s.makeRoles(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) initdb(ctx context.Context) error {
	pwfile := filepath.Join(s.dir, "password")
	if err := os.WriteFile(pwfile, []byte(s.password), 0o644); err != nil { //nolint:gosec // the directory itself is private
		return err
	}
	out, err := s.command(ctx, "initdb", "--pgdata", s.data, "--username", User, "--pwfile", pwfile,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgtest: initdb: %w: %s", err, out)
	}
	return nil
}

// startOnFreePort tries again when another process takes the port between the
// moment it was found free and the moment postgres listens.
func (s *Server) startOnFreePort(ctx context.Context) error {
	var err error
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.start(ctx); err == nil {
			return nil
		}
	}
	return err
}

// command runs a PostgreSQL program as the owner of the data directory.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PGPASSWORD="+s.password, "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Setsid: true}
	return cmd
}

func (s *Server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // postgres has its own descriptor
	args := []string{"-D", s.data, "-k", s.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)}
	defaults := []string{"fsync=off", "shared_buffers=64MB", "max_connections=100", "max_wal_senders=4",
		"wal_level=replica", "timezone=UTC", "log_min_messages=warning"}
	for _, setting := range append(defaults, s.settings...) {
		args = append(args, "-c", setting)
	}
	cmd := s.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgtest: start postgres: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.postmaster, s.exited = cmd, exited
	return s.waitReady(ctx)
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.exited:
			return fmt.Errorf("pgtest: postgres ended while starting: %s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("pgtest: postgres not ready: %w: %s", err, s.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL is the address of a database of this server, with the superuser's password.
func (s *Server) URL(database string) string {
	query := url.Values{"sslmode": {"disable"}}
	if s.ca != nil {
		query = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {s.ca.file}}
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(User, s.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/" + database,
		RawQuery: query.Encode(),
	}
	return u.String()
}

// Database makes a new, empty database and returns its URL. It stays until the
// server ends, so that a test's connections need no order of closing.
func (s *Server) Database(t TB) string { return s.CopyOf(t, "template1") }

// CopyOf is Database, with what the database of that name holds: nobody may be
// connected to that.
func (s *Server) CopyOf(t TB, template string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	name := fmt.Sprintf("test_%d", s.databases.Add(1))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if !s.withoutRoles {
		if _, err := conn.Exec(ctx, "GRANT CREATE ON DATABASE "+name+" TO dgm_owner"); err != nil {
			t.Fatalf("pgtest: %v", err)
		}
	}
	return s.URL(name)
}

// Close ends the server and removes its files.
func (s *Server) Close() {
	if s.postmaster != nil {
		_ = s.end(syscall.SIGQUIT)
	}
	s.watchdog.finish()
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "postgres.log") }

func (s *Server) logTail() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgtest: free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // only the number is wanted
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("pgtest: free port: not a TCP address")
	}
	return addr.Port, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}
