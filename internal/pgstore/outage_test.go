// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// load mirrors one object per goroutine over and over with a growing
// generation, and remembers the last one that was acknowledged.
type load struct {
	acknowledged []atomic.Int64
	slowest      atomic.Int64 // nanoseconds that one call took
	stop         context.CancelFunc
	group        sync.WaitGroup
}

func startLoad(s *Store, objects int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{acknowledged: make([]atomic.Int64, objects), stop: cancel}
	for n := range objects {
		l.group.Go(func() {
			i := improvement(n)
			for i.Generation = 1; ctx.Err() == nil; {
				began := time.Now()
				err := s.MirrorImprovement(ctx, i)
				took := time.Since(began).Nanoseconds()
				for slowest := l.slowest.Load(); took > slowest && !l.slowest.CompareAndSwap(slowest, took); {
					slowest = l.slowest.Load()
				}
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				l.acknowledged[n].Store(i.Generation)
				i.Generation++
			}
		})
	}
	return l
}

func (l *load) total() (sum int64) {
	for n := range l.acknowledged {
		sum += l.acknowledged[n].Load()
	}
	return sum
}

func (l *load) waitForMore(t *testing.T, more int64) {
	t.Helper()
	from := l.total()
	eventually(t, "more writes are acknowledged", func() error {
		if l.total() < from+more {
			return errors.New("too few")
		}
		return nil
	})
}

// verify checks that the database holds at least what was acknowledged.
func (l *load) verify(t *testing.T, db *observer) {
	t.Helper()
	for n := range l.acknowledged {
		db.want("true", "SELECT generation >= $2::text::bigint FROM dgm.dgm_archive WHERE name = $1", improvement(n).Name, int64Text(l.acknowledged[n].Load()))
	}
}

func TestP3_NothingAcknowledgedIsLostWhenTheDatabaseIsKilled(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	l := startLoad(s.Store, 50)
	for range 3 {
		l.waitForMore(t, 500)
		server.Kill(t)
		time.Sleep(100 * time.Millisecond)
		server.Start(t)
	}
	l.waitForMore(t, 500)
	l.stop()
	l.group.Wait()
	l.verify(t, openDatabase(t, url))
}

func TestP3_OutageIsSatOutAndReported(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	<-s.Resyncs()
	epoch := openDatabase(t, url).text("SELECT epoch FROM dgm.writer_fences")
	l := startLoad(s.Store, 50)
	l.waitForMore(t, 500)

	server.Stop(t)
	eventually(t, "the outage is noticed", func() error {
		if s.Ready() == nil {
			return errors.New("still ready")
		}
		return nil
	})
	seen := map[string]bool{}
	for range 60 { // several attempts to connect
		err := s.Ready()
		if !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Ready during the outage = %v, want ErrUnavailable", err)
		}
		seen[err.Error()] = true
		time.Sleep(50 * time.Millisecond)
	}
	if len(seen) > 2 { // the end of the session, then refused connections
		t.Errorf("Ready kept changing its words: %v", seen)
	}
	began := time.Now()
	if err := s.MirrorImprovement(testContext(t), improvement(1000)); !errors.Is(err, ErrUnavailable) || time.Since(began) > time.Second {
		t.Errorf("MirrorImprovement during the outage = %v after %s, want ErrUnavailable at once", err, time.Since(began))
	}

	server.Start(t)
	if why := <-s.Resyncs(); why != resyncBack {
		t.Errorf("resync because %q, want because it is back", why)
	}
	l.waitForMore(t, 500)
	l.stop()
	l.group.Wait()
	db := openDatabase(t, url)
	l.verify(t, db)
	db.want(epoch, "SELECT epoch FROM dgm.writer_fences")
	if slowest := time.Duration(l.slowest.Load()); slowest > 15*time.Second {
		t.Errorf("a call was blocked for %s", slowest)
	}
}

func TestP10_StartsWithoutTheDatabaseAndCatchesUp(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	server.Stop(t)
	s := startLeader(t, testConfig(url))
	eventually(t, "the refused connection is reported", func() error {
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "refuses connections") {
			return errors.Join(errors.New("not reported"), err)
		}
		return nil
	})
	if err := s.Ping(testContext(t)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ping = %v, want ErrUnavailable", err)
	}
	server.Start(t)
	waitReady(t, s.Store)
	must(t, s.Ping(testContext(t)))
	must(t, s.MirrorImprovement(testContext(t), improvement(1)))
}

func TestReadyNeverShowsThePassword(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	wrong := strings.Replace(url, "postgres://dgm:", "postgres://dgm:hunter2", 1)
	for name, bad := range map[string]string{
		"wrong password": wrong,
		"no such host":   "postgres://dgm:hunter2@no-such-host.invalid/dgm",
		"no URL at all":  "postgres://dgm:hunter2@%zz:port/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startLeader(t, testConfig(bad))
			eventually(t, "the trouble is reported", func() error {
				if err := s.Ready(); err == nil || strings.Contains(err.Error(), "does not lead yet") {
					return errors.New("no report yet")
				}
				return nil
			})
			for _, err := range []error{s.Ready(), s.Ping(testContext(t))} {
				if err == nil || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error = %v, want one without the password", err)
				}
			}
		})
	}
}

func TestPasswordIsReadAtEachConnect(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	var current atomic.Value
	current.Store(server.Database(t))
	c := testConfig("")
	c.URL = func() (string, error) { return current.Load().(string), nil }
	c.MigrationURL = c.URL
	s := startReady(t, c)
	db := openDatabase(t, current.Load().(string))
	db.exec("ALTER ROLE dgm PASSWORD 'rotated'")
	config, err := pgx.ParseConfig(current.Load().(string))
	must(t, err)
	current.Store(strings.Replace(current.Load().(string), config.Password, "rotated", 1))
	db.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", applicationName)
	eventually(t, "it writes with the new password", func() error { return s.MirrorImprovement(testContext(t), improvement(1)) })
}

func TestLockedTableIsWaitedFor(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := startReady(t, testConfig(url))
	db.exec("BEGIN")
	db.exec("LOCK TABLE dgm.dgm_archive IN ACCESS EXCLUSIVE MODE")
	if err := s.MirrorImprovement(ctx, improvement(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("MirrorImprovement into a locked table = %v, want ErrUnavailable", err)
	}
	if err := s.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ready = %v, want ErrUnavailable", err)
	}
	db.exec("COMMIT")
	eventually(t, "the row is written", func() error { return s.MirrorImprovement(ctx, improvement(1)) })
	must(t, s.Ready())
}

func TestMissingColumnMakesUnreadyUntilItIsBack(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := startReady(t, testConfig(url))
	db.exec("ALTER TABLE dgm.dgm_archive RENAME COLUMN description TO renamed")
	if err := s.MirrorImprovement(ctx, improvement(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("MirrorImprovement = %v, want ErrUnavailable", err)
	}
	for range 20 {
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "description") {
			t.Fatalf("Ready = %v, want it to name the column", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	db.exec("ALTER TABLE dgm.dgm_archive RENAME COLUMN renamed TO description")
	waitReady(t, s.Store)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
}

func TestReadOnlyDatabaseIsSatOut(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	db.exec("ALTER SYSTEM SET default_transaction_read_only = on")
	db.exec("SELECT pg_reload_conf()")
	eventually(t, "writes are refused", func() error {
		i := improvement(1)
		i.Generation = time.Now().UnixNano()
		if err := s.MirrorImprovement(ctx, i); !errors.Is(err, ErrUnavailable) {
			return errors.Join(errors.New("not refused"), err)
		}
		return nil
	})
	db.exec("SET default_transaction_read_only = off")
	db.exec("ALTER SYSTEM RESET default_transaction_read_only")
	db.exec("SELECT pg_reload_conf()")
	eventually(t, "it writes again", func() error { return s.MirrorImprovement(ctx, improvement(1)) })
}

func TestCancelledCallerDoesNotSpoilOthers(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	var group sync.WaitGroup
	errs := make([]error, 400)
	for n := range errs {
		group.Go(func() {
			own, cancel := context.WithCancel(ctx)
			defer cancel()
			if n%2 == 0 {
				time.AfterFunc(time.Duration(n)*10*time.Microsecond, cancel)
			}
			errs[n] = s.MirrorImprovement(own, improvement(n))
		})
	}
	group.Wait()
	for n, err := range errs {
		if err != nil && (n%2 == 1 || !errors.Is(err, context.Canceled)) {
			t.Errorf("caller %d = %v", n, err)
		}
	}
	must(t, mirrorAll(ctx, s.Store, len(errs), nil))
	openDatabase(t, url).want("400", "SELECT count(*) FROM dgm.dgm_archive")
}
