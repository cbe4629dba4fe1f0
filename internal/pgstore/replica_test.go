// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// replicated is a leader with the address of a read replica, which can change.
type replicated struct {
	*leader
	t   *testing.T
	url atomic.Value
}

func startReplicated(t *testing.T, url, replicaURL string, maxLag time.Duration) *replicated {
	t.Helper()
	r := &replicated{t: t}
	r.url.Store(replicaURL)
	c := testConfig(url)
	c.AnalyticsMaxLag = maxLag
	c.AnalyticsURL = func() (string, error) {
		if url, _ := r.url.Load().(string); url != "" {
			return url, nil
		}
		return "", fmt.Errorf("analytics-url: %w", fs.ErrNotExist)
	}
	r.leader = startReady(t, c)
	return r
}

// onStandby asks a question and says whether a standby has answered it.
func (r *replicated) onStandby() bool {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(testContext(r.t), 10*time.Second)
	defer cancel()
	answer, err := analyze(ctx, r.Store, func(ctx context.Context, q *dbsql.Queries) (dbsql.ServerIdentityRow, error) {
		return q.ServerIdentity(ctx)
	})
	if err != nil {
		r.t.Errorf("a question failed: %v", err)
	}
	standby := answer.InRecovery
	if state := r.AnalyticsReplica(); state.Used != standby {
		r.t.Errorf("answered by a standby: %t, but the state is %+v", standby, state)
	}
	return standby
}

func (r *replicated) waitFor(standby bool) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("a standby answers: %t", standby), func() error {
		if r.onStandby() != standby {
			return fmt.Errorf("not yet: %+v", r.AnalyticsReplica())
		}
		return nil
	})
}

// databaseOf is the same database on another server.
func databaseOf(url string, server *pgtest.Server) string {
	return server.URL(url[strings.LastIndex(url, "/")+1 : strings.Index(url, "?")])
}

func TestAnalyticsUseTheReplicaWhileItKeepsUp(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	url := primary.Database(t)
	standby := primary.Standby(t)
	ctx := testContext(t)
	r := startReplicated(t, url, databaseOf(url, standby), 3*time.Second)
	r.waitFor(true)
	if state := r.AnalyticsReplica(); !state.LagKnown || state.Lag > 3*time.Second || !state.Configured {
		t.Errorf("state = %+v, want a known lag within the limit", state)
	}

	// It replays no more: as soon as it lags more than it may, the primary answers.
	paused := openDatabase(t, databaseOf(url, standby))
	paused.exec("SELECT pg_wal_replay_pause()")
	eventually(t, "replay is paused", func() error {
		if state := paused.text("SELECT pg_get_wal_replay_pause_state()"); state != "paused" {
			return errors.New(state)
		}
		return nil
	})
	began := time.Now()
	must(t, r.MirrorImprovement(ctx, improvement(1)))
	r.waitFor(false)
	if took := time.Since(began); took > 3*time.Second+3*watchInterval {
		t.Errorf("an old state was shown for %s", took)
	}
	if state := r.AnalyticsReplica(); state.Reason != "it is too far behind" || !state.LagKnown || state.Lag <= 3*time.Second {
		t.Errorf("state = %+v, want a known lag above the limit", state)
	}
	paused.exec("SELECT pg_wal_replay_resume()")
	r.waitFor(true)

	// It is gone, and comes back.
	standby.Kill(t)
	if r.onStandby() {
		t.Error("a standby that was killed has answered")
	}
	standby.Start(t)
	r.waitFor(true)

	// It is promoted: a server of its own, which soon shows another truth.
	standby.Promote(t)
	r.waitFor(false)
	if state := r.AnalyticsReplica(); !strings.Contains(state.Reason, "not a standby") {
		t.Errorf("reason = %q, want that it is no standby", state.Reason)
	}

	// No address any more, and one that comes later.
	r.url.Store("")
	if r.onStandby() || r.AnalyticsReplica().Configured {
		t.Errorf("without an address: %+v", r.AnalyticsReplica())
	}
	r.url.Store(databaseOf(url, primary.Standby(t)))
	r.waitFor(true)
}

// A primary at rest makes no replica look old.
func TestAnalyticsLagOfAPrimaryAtRest(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, "autovacuum=off")
	url := primary.Database(t)
	standby := primary.Standby(t)
	r := startReplicated(t, url, databaseOf(url, standby), time.Second)
	r.waitFor(true)
	time.Sleep(3 * time.Second) // the first maintenance writes
	for until := time.Now().Add(8 * time.Second); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		if r.onStandby(); r.AnalyticsReplica().Lag > 0 {
			t.Errorf("state = %+v, want no lag", r.AnalyticsReplica())
		}
	}
}

func TestAnalyticsRefuseWhatIsNoReplica(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	url := primary.Database(t)
	backup := primary.BaseBackup(t)
	diverged := primary.Standby(t)
	r := startReplicated(t, url, url, time.Minute)
	refused := func(why string) {
		t.Helper()
		eventually(t, "it is refused since "+why, func() error {
			if r.onStandby() {
				return errors.New("it is used")
			}
			if state := r.AnalyticsReplica(); !strings.Contains(state.Reason, why) {
				return fmt.Errorf("%+v", state)
			}
			return nil
		})
	}
	refused("it is not a standby")

	foreign := pgtest.Start(t)
	foreignURL := foreign.Database(t)
	startReady(t, testConfig(foreignURL))
	r.url.Store(foreignURL)
	refused("it is a copy of another server")

	r.url.Store(databaseOf(url, diverged))
	r.waitFor(true)
	// Its primary is replaced by an older copy: the standby cannot follow any more, and is ahead in bytes.
	primary.Failover(t, backup)
	eventually(t, "the failover is noticed", func() error {
		if r.Ready() == nil {
			return errors.New("not yet")
		}
		return nil
	})
	waitReady(t, r.Store)
	refused("it does not have this leader's fence")
}

func TestAnalyticsFallBackInTime(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	// It takes connections and never says a word.
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = hole.Close() })
	r := startReplicated(t, url, "postgres://u:p@"+hole.Addr().String()+"/d?sslmode=disable", time.Minute)
	ctx, cancel := context.WithTimeout(testContext(t), 2*time.Second)
	defer cancel()
	ask := func(ctx context.Context) error {
		_, err := analyze(ctx, r.Store, func(ctx context.Context, q *dbsql.Queries) (dbsql.ServerIdentityRow, error) {
			return q.ServerIdentity(ctx)
		})
		return err
	}
	must(t, ask(ctx))
	if state := r.AnalyticsReplica(); state.Used || state.Reason == "" || !state.Configured {
		t.Errorf("state = %+v, want that the replica does not answer", state)
	}
	// It is left alone for a while.
	began := time.Now()
	for range 10 {
		must(t, ask(ctx))
	}
	if took := time.Since(began); took > time.Second/2 {
		t.Errorf("ten questions took %s while the replica is known to be silent", took)
	}
}
