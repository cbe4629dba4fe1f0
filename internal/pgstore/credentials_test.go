// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// secret is a mounted Secret: files that are rewritten while they are used.
type secret struct {
	t         testing.TB
	directory string
}

func newSecret(t testing.TB, databaseURL string) *secret {
	t.Helper()
	s := &secret{t: t, directory: t.TempDir()}
	s.write("url", pgtest.ServiceURL(databaseURL))
	s.write("migration-url", pgtest.MigrationURL(databaseURL))
	return s
}

func (s *secret) write(key, value string) {
	s.t.Helper()
	file := filepath.Join(s.directory, key)
	must(s.t, os.WriteFile(file+".new", []byte(value), 0o600))
	must(s.t, os.Rename(file+".new", file))
}

func (s *secret) read(key string) func() (string, error) {
	return func() (string, error) {
		content, err := os.ReadFile(filepath.Join(s.directory, key))
		return string(content), err
	}
}

func (s *secret) config() Config {
	c := testConfig("")
	c.URL, c.MigrationURL = s.read("url"), s.read("migration-url")
	return c
}

// logLines is a logger and what it was told.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, args)
	}, funcr.Options{})
}

func (l *logLines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// withUser is a database's URL for another login.
func withUser(t testing.TB, databaseURL, user, password string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	must(t, err)
	u.User = url.UserPassword(user, password)
	return u.String()
}

// Passwords, the role itself and the CA are changed while it writes; the old
// ones are revoked as soon as nobody uses them.
func TestP3_CredentialsAreRotatedWithoutRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.StartTLS(t)
	databaseURL := server.Database(t)
	files, db := newSecret(t, databaseURL), openDatabase(t, databaseURL)
	s := startReady(t, files.config())
	<-s.Resyncs()
	epoch := db.text("SELECT epoch FROM dgm.writer_fences")
	l := startLoad(s.Store, 20)
	watched := make(chan error, 1)
	stopWatching := make(chan struct{})
	go func() {
		for {
			select {
			case <-stopWatching:
				watched <- nil
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := s.Ready(); err != nil {
				watched <- err
				return
			}
		}
	}()
	l.waitForMore(t, 100)
	replaced := func(what string) {
		t.Helper()
		before, began := db.text("SELECT clock_timestamp()"), time.Now()
		eventually(t, "no connection is left that was made before "+what, func() error {
			if n := db.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dgm-operator' AND backend_start < $1::text::timestamptz", before); n != "0" {
				return errors.New(n + " are")
			}
			return nil
		})
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s took %s", what, took)
		} else {
			t.Logf("%s took %s", what, took)
		}
		l.waitForMore(t, 100)
	}

	db.exec("ALTER ROLE dgm_operator PASSWORD 'rotated'")
	files.write("url", withUser(t, databaseURL, pgtest.ServiceUser, "rotated"))
	replaced("the new password")

	db.exec("CREATE ROLE dgm_operator_2 LOGIN PASSWORD 'second' IN ROLE dgm_service")
	files.write("url", withUser(t, databaseURL, "dgm_operator_2", "second"))
	replaced("the new role")
	eventually(t, "nobody uses the old role", func() error {
		if n := db.text("SELECT count(*) FROM pg_stat_activity WHERE usename = 'dgm_operator'"); n != "0" {
			return errors.New(n + " sessions do")
		}
		return nil
	})
	db.exec("DROP ROLE dgm_operator")
	l.waitForMore(t, 100)

	server.ReplaceCA(t)
	name, _, _ := strings.Cut(databaseURL, "?")
	name = name[strings.LastIndex(name, "/")+1:]
	files.write("url", withUser(t, server.URL(name), "dgm_operator_2", "second"))
	replaced("the new CA")

	close(stopWatching)
	if err := <-watched; err != nil {
		t.Errorf("meanwhile it was not ready: %v", err)
	}
	l.stop()
	l.group.Wait()
	l.verify(t, db)
	db.want(epoch, "SELECT epoch FROM dgm.writer_fences")
}

// A Secret that was written with a mistake is no outage.
func TestWrongNewCredentialsKeepTheConnectionsThatWork(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	databaseURL := server.Database(t)
	files, log := newSecret(t, databaseURL), &logLines{}
	c := files.config()
	c.Log = log.logger()
	s := startReady(t, c)
	files.write("url", withUser(t, databaseURL, pgtest.ServiceUser, "mistyped-secret"))
	eventually(t, "it says that they do not work", func() error {
		if !strings.Contains(log.all(), "The new database URL does not work") || !strings.Contains(log.all(), "password authentication failed") {
			return errors.New(log.all())
		}
		return nil
	})
	time.Sleep(3 * watchInterval)
	must(t, s.Ready())
	must(t, s.MirrorImprovement(testContext(t), improvement(1)))
	if strings.Contains(log.all(), "mistyped-secret") || strings.Count(log.all(), "The new database URL does not work") != 1 {
		t.Errorf("the log is\n%s", log.all())
	}
}

// After an outage both URLs are read anew.
func TestMigrationCredentialsAreRotatedWithoutRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	databaseURL := server.Database(t)
	files, db := newSecret(t, databaseURL), openDatabase(t, databaseURL)
	s := startReady(t, files.config())
	db.exec("ALTER ROLE dgm_migrate PASSWORD 'rotated'")
	db.exec("ALTER ROLE dgm_operator PASSWORD 'rotated'")
	db.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'dgm_operator'")
	eventually(t, "the old password is refused", func() error {
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), `password authentication failed for user "dgm_migrate"`) {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	files.write("migration-url", withUser(t, databaseURL, pgtest.MigrateUser, "rotated"))
	eventually(t, "the old run-time password is refused", func() error {
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), `password authentication failed for user "dgm_operator"`) {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	files.write("url", withUser(t, databaseURL, pgtest.ServiceUser, "rotated"))
	waitReady(t, s.Store)
}

func TestTLSTroubleIsNamed(t *testing.T) {
	t.Parallel()
	server := pgtest.StartTLS(t)
	databaseURL := server.Database(t)
	plain := pgtest.Shared(t).Database(t)
	otherCA := pgtest.StartTLS(t).CAFile()
	rubbish := filepath.Join(t.TempDir(), "rubbish.crt")
	must(t, os.WriteFile(rubbish, []byte("no certificate"), 0o600))
	with := func(databaseURL, parameter, value string) string {
		u, err := url.Parse(databaseURL)
		must(t, err)
		query := u.Query()
		query.Set(parameter, value)
		u.RawQuery = query.Encode()
		return u.String()
	}
	s := startReady(t, testConfig(databaseURL)) // the certificate is right
	must(t, s.stop())
	must(t, New(testConfig(databaseURL)).Ping(testContext(t)))
	for _, c := range []struct {
		name, url, want string
		certificate     pgtest.Certificate
	}{
		{name: "no CA file", url: with(databaseURL, "sslrootcert", "/no/such/ca.crt"), want: "the file /no/such/ca.crt that it names cannot be read: no such file or directory"},
		{name: "no certificate in the CA file", url: with(databaseURL, "sslrootcert", rubbish), want: "the file of its sslrootcert holds no certificate in PEM form"},
		{name: "another CA", url: with(databaseURL, "sslrootcert", otherCA), want: "its certificate is not signed by a CA that is trusted"},
		{name: "unknown sslmode", url: with(databaseURL, "sslmode", "verify-everything"), want: "write sslmode=verify-full"},
		{name: "a pool parameter", url: with(databaseURL, "pool_max_conns", "many"), want: "it cannot be parsed"},
		{name: "no TLS there", url: with(with(plain, "sslmode", "verify-full"), "sslrootcert", otherCA), want: "it does not speak TLS"},
		{name: "another host", url: databaseURL, certificate: pgtest.Certificate{Hosts: []string{"db.example.com", "10.1.2.3"}},
			want: "its certificate is not for the host 127.0.0.1 of the URL, but for db.example.com, 10.1.2.3"},
		{name: "expired", url: databaseURL, certificate: pgtest.Certificate{NotAfter: time.Now().Add(-time.Hour)}, want: "is valid from"},
	} {
		if c.certificate.Hosts != nil || !c.certificate.NotAfter.IsZero() {
			server.Certify(t, c.certificate)
		}
		config, err := pgx.ParseConfig(pgtest.ServiceURL(databaseURL))
		must(t, err)
		log := &logLines{}
		unready := testConfig(c.url)
		unready.Log = log.logger()
		s := startLeader(t, unready)
		eventually(t, c.name+" is named", func() error {
			for _, err := range []error{s.Ready(), s.Ping(testContext(t))} {
				if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrUnavailable) {
					return fmt.Errorf("it says %w", err)
				}
			}
			return nil
		})
		if strings.Contains(log.all()+s.Ready().Error(), config.Password) {
			t.Errorf("%s: the password shows in %v\n%s", c.name, s.Ready(), log.all())
		}
		must(t, s.stop())
	}
	server.Certify(t, pgtest.Certificate{})
	waitReady(t, startLeader(t, testConfig(databaseURL)).Store)
}

func TestBlindTrustIsWarnedOf(t *testing.T) {
	t.Parallel()
	for address, blind := range map[string]bool{
		"postgres://u:p@db.example.com/dgm":                                  true,
		"postgres://u:p@db.example.com/dgm?sslmode=disable":                  true,
		"postgres://u:p@db.example.com/dgm?sslmode=require":                  true,
		"postgres://u:p@db.example.com/dgm?sslmode=verify-ca":                true,
		"postgres://u:p@db.example.com/dgm?sslmode=verify-full":              false,
		"postgres://u:p@127.0.0.1/dgm?sslmode=disable":                       false,
		"postgres://u:p@localhost/dgm":                                       false,
		"postgres://u:p@[::1]:5432/dgm":                                      false,
		"host=/run/postgresql user=u dbname=dgm":                             false,
		"postgres://u:p@localhost,db.example.com/dgm?sslmode=require":        true,
		"postgres://u:p@a.example.com,b.example.com/dgm?sslmode=verify-full": false,
	} {
		config, err := pgx.ParseConfig(address)
		must(t, err)
		if got := trustsBlindly(config); got != blind {
			t.Errorf("%s trusts blindly: %v, want %v", address, got, blind)
		}
	}
	log := &logLines{}
	c := testConfig("postgres://u:hunter2@192.0.2.1:1/dgm?sslmode=require")
	c.Log = log.logger()
	s := New(c)
	config, err := s.poolConfig()
	must(t, err)
	for range 3 {
		s.warnOfBlindTrust("url", config.ConnConfig)
	}
	if all := log.all(); strings.Count(all, "verify-full") != 1 || !strings.Contains(all, "192.0.2.1") || strings.Contains(all, "hunter2") {
		t.Errorf("the log is %q", all)
	}
}
