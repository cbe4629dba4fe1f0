// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// Leaders of several clusters that share a schema do all chores at once, each in
// an order of its own, while samples come in. Nothing is done twice, and no chore
// fails but for giving way to a lock.
func TestP3_LeadersOfThreeClustersDoTheirChoresAtOnce(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	db, pool := metricsDatabase(t, url)
	db.text("SELECT dgm.ensure_metric_partitions(12, 6)")
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	keys := newRotatingKeyset(t)
	c := &crashSite{t: t, server: server, url: url, db: db}
	var sessions []*session
	for n := range 3 {
		config := testConfig(url)
		config.AEAD, config.ClusterName, config.ClusterUID = keys.load, []string{"test", "second", "third"}[n], fmt.Sprint("uid-", n)
		sess, err := choreSession(testContext(t), config)
		must(t, err)
		t.Cleanup(sess.pool.Close)
		sessions = append(sessions, sess)
	}
	for n := range 20 {
		db.exec("INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ($1, true, $2, $3)",
			fmt.Sprintf("token_%d", n), seal(t, keys, fmt.Sprintf("token_%d", n)), keys.primary())
	}
	var gaveWay int
	for round := range 4 {
		c.endedAttempts(round)
		keys.rotate(t)
		db.exec("UPDATE dgm.system_configurations SET value = $1 WHERE key = 'metrics_retention_days'", fmt.Sprint(330-round*60))
		db.insertAt(month(-15 - round).Add(time.Minute).Format(time.RFC3339))
		for _, sess := range sessions {
			must(t, sess.readSettings(testContext(t)))
		}
		gaveWay += choresAtOnce(t, url, sessions, seed+uint64(round)) //nolint:gosec // not negative
	}
	// Alone, each finishes what it gave way with.
	for _, sess := range sessions {
		for _, chore := range chores() {
			eventually(t, chore.name, func() error { return chore.do(sess, testContext(t)) })
		}
	}
	t.Logf("gave way to a lock %d times", gaveWay)
	db.want("0", "SELECT count(*) FROM dgm.performance_metrics m WHERE m.\"timestamp\" < (SELECT s.floor FROM dgm.metric_retention_state s)")
	db.want("true", "SELECT count(*) = count(DISTINCT id) AND count(*) >= 1200 FROM dgm.performance_metrics")
	db.aggregate(pool)
	// Windows of months that were dropped have no samples to compare with.
	db.want("0", "SELECT count(*) FROM ("+differingRollups+` AND COALESCE(d.window_start, r.window_start) >= (SELECT s.floor FROM dgm.metric_retention_state s)) x`)
	db.want("0 20", "SELECT count(*) FILTER (WHERE bytes <> '') || ' ' || count(*) FILTER (WHERE purged_at IS NOT NULL) FROM dgm.rollback_snapshots")
	db.want("archived", "SELECT string_agg(DISTINCT status, ',') FROM dgm.improvement_workspaces")
	db.want("20", "SELECT count(*) FROM dgm.system_configurations WHERE key_id = $1", keys.primary())
	eventually(t, "what was written last is in the analytics", func() error { // sessions count what they wrote once a second
		must(t, sessions[0].refreshAnalytics(testContext(t)))
		if n := db.text("SELECT count(*) FROM ((TABLE dgm.current_improvement_success EXCEPT TABLE dgm.mv_improvement_success_daily) UNION ALL (TABLE dgm.mv_improvement_success_daily EXCEPT TABLE dgm.current_improvement_success)) x"); n != "0" {
			return fmt.Errorf("%s rows differ", n)
		}
		return nil
	})
	db.want("0", "SELECT count(*) FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0")
}

func seal(t testing.TB, keys *rotatingKeyset, key string) []byte {
	t.Helper()
	primitive, id, err := keys.load(testContext(t))
	must(t, err)
	sealed, err := (&cipher{primitive, id}).seal(key, secretValue)
	must(t, err)
	return sealed
}

// choresAtOnce has each session do every chore, while somebody inserts samples. It
// returns how many of them gave way.
func choresAtOnce(t *testing.T, url string, sessions []*session, seed uint64) (gaveWay int) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	group.Go(func() {
		conn, err := pgx.Connect(testContext(t), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background()) //nolint:errcheck // nothing depends on it
		for n := range 100 {                   // or aggregation would never be through
			time.Sleep(2 * time.Millisecond)
			if _, err := conn.Exec(testContext(t), `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, "timestamp")
				SELECT 'p99', 'latency', 'service', i, 'checkout', now() - $1 * interval '9 minutes' FROM generate_series(1, 3) i`, n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for n, sess := range sessions {
		group.Go(func() {
			todo := slices.Repeat(chores(), 2)
			rand.New(rand.NewPCG(seed, uint64(n))).Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] }) //nolint:gosec // not for secrets
			for _, chore := range todo {
				err := chore.do(sess, testContext(t))
				var pgErr *pgconn.PgError
				mu.Lock()
				switch {
				case errors.As(err, &pgErr) && pgErr.Code == lockNotAvailable:
					gaveWay++
				case err != nil:
					t.Errorf("%s of cluster %s: %v", chore.name, sess.cluster, err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return gaveWay
}
