// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// metricsDatabase is a migrated database with a pool to aggregate through.
func metricsDatabase(t testing.TB, url string) (*observer, *pgxpool.Pool) {
	t.Helper()
	m, err := NewMigrator(testContext(t), url)
	must(t, err)
	defer m.Close() //nolint:errcheck // nothing is left to do on it
	_, err = m.Up(testContext(t))
	must(t, err)
	pool, err := pgxpool.New(context.Background(), url)
	must(t, err)
	t.Cleanup(pool.Close)
	db := openDatabase(t, url)
	db.exec("DELETE FROM dgm.performance_metrics") // what a new installation begins with
	return db, pool
}

// aggregate goes on until all samples are folded: those of other tests' long
// transactions, on the same server, hold it up.
func (d *observer) aggregate(pool *pgxpool.Pool) {
	d.t.Helper()
	eventually(d.t, "all samples are aggregated", func() error {
		if _, err := AggregateMetrics(testContext(d.t), pool, math.MaxInt64); err != nil {
			return err
		}
		if d.text("SELECT dgm.metrics_folded('-infinity', 'infinity')") != "true" {
			return errors.New(d.text("SELECT to_json(v) FROM dgm.v_metric_aggregation v"))
		}
		return nil
	})
}

// sample inserts one as another service does.
func (d *observer) sample(at, value, service, tags string) {
	d.t.Helper()
	d.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, tags, "timestamp")
		VALUES ('p99', 'latency', 'service', $1::text::numeric, NULLIF($2, ''), NULLIF($3, '')::jsonb, $4::text::timestamptz)`, value, service, tags, at)
}

// differingRollups are the windows in which rollups and a direct GROUP BY over all
// samples differ: in anything for 1m and 5m, by more than 1 % in percentiles for 1h and 1d.
const differingRollups = `
WITH windows (name, seconds) AS (VALUES ('1m', 60), ('5m', 300), ('1h', 3600), ('1d', 86400)),
direct AS (
	SELECT m.metric_name, m.metric_type, m.service_name, m.tags, w.name AS time_window, to_timestamp(floor(extract(epoch FROM m."timestamp") / w.seconds) * w.seconds) AS window_start,
		w.seconds, count(*) AS n, sum(m.value) AS total, min(m.value) AS low, max(m.value) AS high,
		percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY m.value) AS p
	FROM dgm.performance_metrics m, windows w GROUP BY 1, 2, 3, 4, 5, 6, 7
)
SELECT format('%s %s %s %s: %s samples, rolled up %s; sum %s, %s; p50 %s, %s; p99 %s, %s', d.time_window, COALESCE(d.window_start, r.window_start), d.service_name, d.tags,
	d.n, r.count, d.total, r.sum, d.p[1], r.p50, d.p[3], r.p99)
FROM direct d
FULL JOIN dgm.metric_rollups r ON r.metric_name = d.metric_name AND r.metric_type = d.metric_type AND r.time_window = d.time_window AND r.window_start = d.window_start
	AND COALESCE(r.service_name, '') = COALESCE(d.service_name, '') AND COALESCE(r.tags, '0') = COALESCE(d.tags, '0')
WHERE ((d.n, d.total, d.low, d.high, d.total / d.n, d.window_start + make_interval(secs => d.seconds)) IS DISTINCT FROM (r.count, r.sum, r.min_value, r.max_value, r.avg, r.window_end)
	OR CASE WHEN d.time_window IN ('1m', '5m') THEN d.p IS DISTINCT FROM ARRAY[r.p50, r.p95, r.p99]
		ELSE abs(r.p50 - d.p[1]) > 0.01 * abs(d.p[1]) OR abs(r.p95 - d.p[2]) > 0.01 * abs(d.p[2]) OR abs(r.p99 - d.p[3]) > 0.01 * abs(d.p[3]) END)`

func (d *observer) wantExactRollups() {
	d.t.Helper()
	if differing := d.text("SELECT count(*) || ' windows, such as ' || min(line) FROM (" + differingRollups + ") x (line) HAVING count(*) > 0"); differing != "" {
		d.t.Errorf("rollups differ from the samples: %s", differing)
	}
}

func TestRollupsAtTheBordersOfWindows(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, migratedDatabase(t))
	for _, zone := range []string{"UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"} {
		db.exec("SET timezone = '" + zone + "'")
		for _, at := range []string{
			"2026-03-29 00:59:59.999999+00", "2026-03-29 01:00:00+00", // clocks go forward in Berlin
			"2026-10-25 00:30:00+00", "2026-10-25 01:30:00+00", // and back: 02:30 twice
			"2026-11-22 23:59:59.999+00", "2026-11-23 00:00:00+00", "2026-11-30 23:59:59.999999+00", "2026-12-01 00:00:00+00",
			"1999-12-31 23:59:59.999999+00", "2000-01-01 00:00:00+00", "1969-12-31 23:59:00+00",
		} {
			db.sample(at, "1.5", "checkout", "")
		}
		db.aggregate(pool)
		db.wantExactRollups()
	}
	db.want("4", `SELECT count FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start = '2026-11-22 00:00+00'`)
	db.want("8", `SELECT count FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start = '2026-10-25 00:00+00'`)
}

func TestRollupsOfUnusualValuesAndSeries(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, migratedDatabase(t))
	for i, value := range []string{"-3", "0", "-0.000001", "1e-7", "100000000000000000000", "-1e-310", "1e-310", "7", "7", "-1e250", "0.1", "0.2", "0.3", "12345678901234567890.123456789"} {
		at := time.Date(2026, 11, 23, 10, i%3, i, 0, time.UTC).Format(time.RFC3339)
		db.sample(at, value, "", "")
		db.sample(at, value, "checkout", `{"pod": "a", "zone": 1}`)
		db.sample(at, value, "checkout", `{"zone": 1, "pod": "a"}`)
		db.sample(at, value, "checkout", `{"zone": 2, "pod": "a"}`)
		db.sample(at, value, "checkout", `{}`)
	}
	db.aggregate(pool)
	db.wantExactRollups()
	db.want("28", `SELECT count FROM dgm.metric_rollups WHERE time_window = '1d' AND tags = '{"pod": "a", "zone": 1}'`)
	db.want("exact,log histogram 1.02,log histogram 1.02, merged", `SELECT string_agg(DISTINCT percentile_method, ',' ORDER BY percentile_method) FROM dgm.metric_rollups`)
}

func TestAggregatingWritesNothingWhenNothingIsNew(t *testing.T) { // P12
	t.Parallel()
	db, pool := metricsDatabase(t, migratedDatabase(t))
	db.sample("2026-11-23 10:00:00+00", "1", "checkout", "")
	db.aggregate(pool)
	before := db.text("SELECT passes || ' ' || xmin FROM dgm.aggregation_state")
	done, err := AggregateMetrics(testContext(t), pool, time.Minute)
	must(t, err)
	if done != (Aggregation{}) {
		t.Errorf("nothing was new, and yet there was %+v", done)
	}
	db.text("SELECT dgm.aggregate_metrics(10)")
	db.want(before, "SELECT passes || ' ' || xmin FROM dgm.aggregation_state")
}

// What is off catches up when it is switched on again; a long transaction
// delays its samples, and is seen.
func TestAggregationCatchesUpAndShowsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	db, pool := metricsDatabase(t, url)
	db.sample("2026-11-23 10:00:00+00", "1", "checkout", "")
	db.aggregate(pool)
	long := openDatabase(t, url)
	long.exec("BEGIN")
	long.sample("2026-11-23 10:00:30+00", "2", "checkout", "")
	db.sample("2026-11-23 10:00:40+00", "3", "checkout", "")
	_, err := AggregateMetrics(testContext(t), pool, time.Minute)
	must(t, err)
	db.want("1", "SELECT count FROM dgm.metric_rollups WHERE time_window = '1m'")
	db.want("true", "SELECT held_back_by_transaction AND lag_seconds > 0 FROM dgm.v_metric_aggregation")
	db.want("false", "SELECT dgm.metrics_folded('-infinity', 'infinity')")
	long.exec("COMMIT")
	db.aggregate(pool)
	db.want("3 6", "SELECT count || ' ' || sum FROM dgm.metric_rollups WHERE time_window = '1m'")
	db.want("false 0", "SELECT held_back_by_transaction || ' ' || lag_seconds FROM dgm.v_metric_aggregation")
	// Off for a while, with samples by the year.
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp")
		SELECT 'm', 'latency', 'service', n, '2026-11-01 00:00+00'::timestamptz - n * interval '7 hours' FROM generate_series(1, 1500) n`)
	db.aggregate(pool)
	db.wantExactRollups()
}

func TestLeaderAggregatesUnlessSwitchedOff(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	store := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	sess, err := store.current()
	must(t, err)
	db.sample("2026-11-23 10:00:00+00", "1", "checkout", "")
	off := store.Settings()
	off.AggregateMetrics = false
	store.settings.Store(&off)
	must(t, sess.aggregateMetrics(testContext(t)))
	db.want("0", "SELECT count(*) FROM dgm.metric_rollups WHERE metric_name = 'p99'")
	on := off
	on.AggregateMetrics = true
	store.settings.Store(&on)
	eventually(t, "the sample is aggregated", func() error {
		if err := sess.aggregateMetrics(testContext(t)); err != nil {
			return err
		}
		if n := db.text("SELECT count(*) FROM dgm.metric_rollups WHERE metric_name = 'p99'"); n != "4" {
			return errors.New(n + " rollups")
		}
		return nil
	})
}

// A late sample of a month that was dropped does not replace what was known of it.
func TestLateSamplesOfDroppedMonths(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, newTestDatabase(t))
	db.exec("SELECT dgm.ensure_metric_partitions(8, 1)")
	month := time.Now().UTC().AddDate(0, -7, 0).Format("2006-01")
	for _, value := range []string{"1", "2", "3"} {
		db.sample(month+"-10 10:00:00+00", value, "checkout", "")
	}
	db.aggregate(pool)
	db.want("3", "SELECT count FROM dgm.metric_rollups WHERE time_window = '1d'")
	partition := "dgm.performance_metrics_" + strings.ReplaceAll(month, "-", "")
	db.exec("BEGIN") // what retention does
	db.exec("ALTER TABLE dgm.performance_metrics DETACH PARTITION " + partition)
	db.exec("DROP TABLE " + partition)
	db.exec("UPDATE dgm.metric_retention_state SET floor = $1::text::timestamptz + interval '1 month'", month+"-01 00:00+00")
	db.exec("COMMIT")
	db.sample(month+"-10 10:00:10+00", "100", "checkout", "")
	db.sample(month+"-11 10:00:10+00", "100", "search", "")
	db.sample("9999-12-31 23:59:59+00", "1", "checkout", "")
	db.sample("20000-01-01 00:00:00+00", "1", "checkout", "")
	db.sample("infinity", "1", "checkout", "")
	db.sample("1850-01-01 00:00:00+00", "1", "checkout", "")
	eventually(t, "the late samples are seen", func() error {
		if _, err := AggregateMetrics(testContext(t), pool, time.Minute); err != nil {
			return err
		}
		if n := db.text("SELECT rows_not_folded FROM dgm.v_metric_aggregation"); n != "5" {
			return errors.New(n + " samples counted that are in no rollup, want 5")
		}
		return nil
	})
	db.want("3 6", "SELECT count || ' ' || sum FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start < '2100-01-01'")
	db.want("1", "SELECT count FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start > '2100-01-01'")
	db.exec("SELECT dgm.rebuild_metric_rollups()")
	db.aggregate(pool)
	db.want("3 6", "SELECT count || ' ' || sum FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start < '2100-01-01'")
}

func TestRebuildAfterSamplesWereDeletedByHand(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, newTestDatabase(t))
	for _, at := range []string{"2026-11-20 10:00", "2026-11-20 10:30", "2026-11-20 11:00", "2026-11-21 10:00"} {
		db.sample(at+"+00", "5", "checkout", "")
	}
	db.aggregate(pool)
	db.exec(`DELETE FROM dgm.performance_metrics WHERE "timestamp" IN ('2026-11-20 10:30+00', '2026-11-20 11:00+00', '2026-11-21 10:00+00')`)
	db.sample("2026-11-20 10:00:01+00", "6", "checkout", "") // kept as it was until the rebuild
	db.aggregate(pool)
	db.want("3", "SELECT count FROM dgm.metric_rollups WHERE time_window = '1d' AND window_start = '2026-11-20 00:00+00'")
	db.want("3", "SELECT dgm.rebuild_metric_rollups('2026-11-20 00:00+00', '2026-11-22 00:00+00')")
	db.aggregate(pool)
	db.wantExactRollups()
}

// Clocks far ahead may make more hours than a turn computes.
func TestThePresentIsAggregatedBeforeWildFutures(t *testing.T) {
	t.Parallel()
	db, _ := metricsDatabase(t, migratedDatabase(t))
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp")
		SELECT 'wild', 'latency', 'service', 1, timestamptz '3000-01-01 00:00+00' + make_interval(hours => i) FROM generate_series(1, 5) i
		UNION ALL SELECT 'now', 'latency', 'service', 1, now()`)
	eventually(t, "one hour is aggregated", func() error {
		if db.text("SELECT hours FROM dgm.aggregate_metrics(1)") != "1" {
			return errors.New("other transactions are open")
		}
		return nil
	})
	db.want("now", "SELECT DISTINCT metric_name FROM dgm.metric_rollups")
	db.want("5", "SELECT count(*) FROM dgm.aggregation_pending")
}

// An hour that cannot be aggregated is told, and holds up no other one.
func TestSamplesThatCannotBeAggregated(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, newTestDatabase(t))
	// Samples of before there were bounds.
	db.exec("ALTER TABLE dgm.performance_metrics DROP CONSTRAINT performance_metrics_value_bounded")
	db.sample("2026-11-20 10:00:00+00", "9e131071", "checkout", "")
	db.sample("2026-11-20 10:00:00+00", "9e131071", "checkout", "")
	db.sample("2026-11-20 11:00:00+00", "5", "checkout", "")
	db.sample("2026-11-20 09:00:00+00", "5", "checkout", "")
	eventually(t, "the other hours are aggregated", func() error {
		if _, err := AggregateMetrics(testContext(t), pool, time.Minute); err != nil {
			return err
		}
		if n := db.text("SELECT count(*) FROM dgm.metric_rollups WHERE time_window = '1h'"); n != "2" {
			return errors.New(n + " hours")
		}
		return nil
	})
	db.want("1 value overflows numeric format", "SELECT refused_hours || ' ' || refused_because FROM dgm.v_metric_aggregation")
	db.exec("DELETE FROM dgm.performance_metrics WHERE value > 1e100")
	db.exec("SELECT dgm.rebuild_metric_rollups()")
	db.aggregate(pool)
	db.wantExactRollups()
}

// Transactions count anew on another server: what raw samples cover is rebuilt.
func TestRollupsAfterARestoreToAnotherServer(t *testing.T) {
	t.Parallel()
	db, pool := metricsDatabase(t, newTestDatabase(t))
	db.sample("2026-11-20 10:00:00+00", "5", "checkout", "")
	db.aggregate(pool)
	// As pg_restore leaves it: rows with the transactions of a server that was far ahead.
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp", ingest_xid)
		VALUES ('m', 'latency', 'service', 1, '2026-11-19 10:00+00', '900000000000'), ('m', 'latency', 'service', 1, '2026-11-20 10:00+00', '3')`)
	db.exec("UPDATE dgm.aggregation_state SET marked_below = '900000000001'")
	db.want("true", "SELECT dgm.metrics_aggregation_due()")
	_, err := AggregateMetrics(testContext(t), pool, time.Minute)
	must(t, err)
	db.wantExactRollups()
	db.exec("UPDATE dgm.aggregation_state SET system_identifier = 1")
	db.exec("DELETE FROM dgm.metric_rollups WHERE time_window = '1h'") // of a dump taken in between
	db.want("true", "SELECT dgm.metrics_aggregation_due()")
	_, err = AggregateMetrics(testContext(t), pool, time.Minute)
	must(t, err)
	db.wantExactRollups()
	db.want("false", "SELECT dgm.metrics_aggregation_due()")
}

func TestAggregatingRefusesAnOldSnapshot(t *testing.T) {
	t.Parallel()
	db, _ := metricsDatabase(t, newTestDatabase(t))
	db.exec("BEGIN ISOLATION LEVEL REPEATABLE READ")
	_, err := db.conn.Exec(testContext(t), "SELECT dgm.aggregate_metrics(1)")
	if err == nil || !strings.Contains(err.Error(), "READ COMMITTED") {
		t.Errorf("want it refused, in words, got %v", err)
	}
}
