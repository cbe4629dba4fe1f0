// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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
	return openDatabase(t, url), pool
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
