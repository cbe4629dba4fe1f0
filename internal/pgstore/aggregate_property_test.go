// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// cleanAndDiffering are windows that differ from their samples although no pass
// has anything left to do there.
const cleanAndDiffering = differingRollups + `
	AND NOT EXISTS (SELECT FROM dgm.aggregation_pending p WHERE p.hour_start < COALESCE(d.window_start, r.window_start) + make_interval(secs => COALESCE(d.seconds, 86400))
		AND p.hour_start + interval '1 hour' > COALESCE(d.window_start, r.window_start))
	AND NOT EXISTS (SELECT FROM dgm.performance_metrics m, dgm.aggregation_state s WHERE m.ingest_xid >= s.marked_below
		AND m."timestamp" >= COALESCE(d.window_start, r.window_start) AND m."timestamp" < COALESCE(d.window_start, r.window_start) + make_interval(secs => COALESCE(d.seconds, 86400)))
	AND EXISTS (SELECT FROM dgm.aggregation_state)`

// Samples come from short and long transactions, late and out of order, some of
// which are rolled back, while passes of two leaders run and are killed.
func TestRollupsStayExactUnderConcurrentWritersAndKilledPasses(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	db, pool := metricsDatabase(t, url)
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	writing, stop := context.WithCancel(testContext(t))
	var writers, others sync.WaitGroup
	for n := range uint64(5) {
		writers.Go(func() { writeSamples(t, url, rand.New(rand.NewPCG(seed, n))) }) //nolint:gosec // not for secrets
	}
	for range 2 {
		others.Go(func() { aggregateUntil(writing, t, url) })
	}
	kills := 0
	others.Go(func() {
		killer := openDatabase(t, url)
		for random := rand.New(rand.NewPCG(seed, 100)); writing.Err() == nil; { //nolint:gosec // not for secrets
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
			if killer.text("SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'aggregator' AND state = 'active'") != "0" {
				kills++
			}
		}
	})
	others.Go(func() {
		checker := openDatabase(t, url)
		for writing.Err() == nil {
			checker.exec("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
			if line := checker.text("SELECT min(line) FROM (" + cleanAndDiffering + ") x (line)"); line != "" {
				t.Errorf("a window with nothing left to do differs from its samples: %s", line)
			}
			checker.exec("COMMIT")
			time.Sleep(50 * time.Millisecond)
		}
	})
	writers.Wait()
	stop()
	others.Wait()
	db.aggregate(pool)
	db.wantExactRollups()
	t.Logf("%s samples, %s rollups, %d passes killed, %s done", db.text("SELECT count(*) FROM dgm.performance_metrics"), db.text("SELECT count(*) FROM dgm.metric_rollups"), kills,
		db.text("SELECT passes FROM dgm.aggregation_state"))
	if kills == 0 {
		t.Error("no pass was killed: the test shows less than it says")
	}
}

func aggregateUntil(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Error(err)
		return
	}
	config.ConnConfig.RuntimeParams["application_name"] = "aggregator"
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Error(err)
		return
	}
	defer pool.Close()
	for ctx.Err() == nil {
		_, _ = AggregateMetrics(ctx, pool, time.Second) // killed: the next one goes on
	}
}

// writeSamples inserts samples in transactions of all kinds.
func writeSamples(t *testing.T, url string, random *rand.Rand) {
	t.Helper()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	for range 40 {
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		for range 1 + random.IntN(3) {
			err = insertSamples(ctx, tx, random)
			if err == nil && random.IntN(5) == 0 {
				err = rolledBackPart(ctx, tx, random)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if random.IntN(4) == 0 { // long ones
				time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
			}
		}
		end := tx.Commit
		if random.IntN(5) == 0 {
			end = tx.Rollback
		}
		if err := end(ctx); err != nil {
			t.Error(err)
			return
		}
	}
}

// rolledBackPart inserts samples in a subtransaction that comes to nothing.
func rolledBackPart(ctx context.Context, tx pgx.Tx, random *rand.Rand) error {
	part, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if err := insertSamples(ctx, part, random); err != nil {
		return err
	}
	return part.Rollback(ctx)
}

func insertSamples(ctx context.Context, tx pgx.Tx, random *rand.Rand) error {
	services, tags := []string{"", "checkout", "search"}, []string{"", `{"pod": "a", "zone": "z"}`, `{"zone": "z", "pod": "a"}`, `{"pod": "b"}`}
	base := time.Now().UTC().Truncate(time.Hour)
	back := 20 * time.Minute
	if random.IntN(6) == 0 { // late, also by months: into the default partition
		back = 70 * 24 * time.Hour
	}
	for range 1 + random.IntN(12) {
		value := fmt.Sprintf("%.3f", random.NormFloat64()*100)
		if random.IntN(10) == 0 {
			value = "0"
		}
		if _, err := tx.Exec(ctx, `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, tags, "timestamp")
			VALUES ('m', 'latency', 'service', $1::text::numeric, NULLIF($2, ''), NULLIF($3, '')::jsonb, $4)`,
			value, services[random.IntN(len(services))], tags[random.IntN(len(tags))], base.Add(-time.Duration(random.Int64N(int64(back))))); err != nil {
			return err
		}
	}
	return nil
}
