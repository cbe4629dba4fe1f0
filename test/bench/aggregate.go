// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// measureAggregation compares a pass over the newest 1 % of all samples, and
// over 1 % that is spread over all hours, with the pass over everything.
func measureAggregation(h *harness, o options) ([]result, error) {
	url, err := h.migrated()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(h.ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if _, err := pool.Exec(h.ctx, "SELECT dgm.ensure_metric_partitions(12, 6)"); err != nil {
		return nil, err
	}
	series := history{rows: o.history, end: time.Now().UTC().Truncate(time.Hour)}
	percent := o.history / 100
	pass := func(what string, load func() error) (time.Duration, pgstore.Aggregation, error) {
		h.progress("aggregation: loading %s", what)
		if err := load(); err != nil {
			return 0, pgstore.Aggregation{}, err
		}
		for _, sql := range []string{"VACUUM ANALYZE dgm.performance_metrics", "CHECKPOINT"} {
			if _, err := pool.Exec(h.ctx, sql); err != nil {
				return 0, pgstore.Aggregation{}, err
			}
		}
		began := time.Now()
		done, err := pgstore.AggregateMetrics(h.ctx, pool, math.MaxInt64)
		took := time.Since(began)
		h.progress("aggregation: %s took %.2fs, %d samples read in %d passes", what, took.Seconds(), done.Samples, done.Passes)
		return took, done, err
	}
	full, all, err := pass("everything", func() error { return series.load(h.ctx, pool, 0, o.history-percent) })
	if err != nil {
		return nil, err
	}
	newest, _, err := pass("the newest 1 %", func() error { return series.load(h.ctx, pool, o.history-percent, o.history) })
	if err != nil {
		return nil, err
	}
	spread, _, err := pass("1 % spread over everything", func() error { return series.loadSpread(h.ctx, pool, percent) })
	if err != nil {
		return nil, err
	}
	if lost := h.query(url, "SELECT ((SELECT count(*) FROM dgm.performance_metrics) - (SELECT sum(count) FROM dgm.metric_rollups WHERE time_window = '1d'))::text"); lost != "0" {
		return nil, fmt.Errorf("%s samples are not in the rollups of 1d", lost)
	}
	rollups := h.query(url, "SELECT (round(count(*)::numeric / $1, 3) || ' rollups for each sample, ' || pg_size_pretty(pg_total_relation_size('dgm.metric_rollups')))::text FROM dgm.metric_rollups", o.history)
	limit := 0.07
	return []result{{
		name: "aggregation: newest 1 % against everything", value: newest.Seconds() / full.Seconds(), atMost: &limit,
		detail: fmt.Sprintf("%.2fs against %.1fs for %d samples in %d passes; %s", newest.Seconds(), full.Seconds(), all.Samples, all.Passes, rollups),
	}, {
		name: "aggregation: 1 % spread against everything", value: spread.Seconds() / full.Seconds(), detail: fmt.Sprintf("%.1fs; every hour has some", spread.Seconds()),
	}}, nil
}

// historySeries are measured every 10 s each.
const historySeries = 20

// history is a number of samples of historySeries series up to a time.
type history struct {
	rows int
	end  time.Time
}

const loadHistory = `
INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp", constitutional_hash)
SELECT 'request_duration', 'latency', 'service', round((50 * exp(random() * random() * 4))::numeric, 3), 'ms', 'service-' || i % @series / 4,
	jsonb_build_object('pod', 'pod-' || i % @series, 'zone', 'z1'), @end::timestamptz - (@rows::bigint - i) / @series * interval '10 seconds' - random() * interval '10 seconds', @hash
FROM generate_series(@first::bigint, @last::bigint) AS i`

// load makes the samples from one number to before another, in transactions of
// a million.
func (hi history) load(ctx context.Context, pool *pgxpool.Pool, from, to int) error {
	for ; from < to; from += 1000000 {
		if _, err := pool.Exec(ctx, loadHistory, pgx.NamedArgs{
			"series": historySeries, "rows": hi.rows, "end": hi.end, "first": from, "last": min(from+1000000, to) - 1, "hash": constitutionalHash,
		}); err != nil {
			return err
		}
	}
	return nil
}

// loadSpread makes late samples at times all over the history.
func (hi history) loadSpread(ctx context.Context, pool *pgxpool.Pool, count int) error {
	_, err := pool.Exec(ctx, `
INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp", constitutional_hash)
SELECT 'request_duration', 'latency', 'service', 77, 'ms', 'service-' || i % $1 / 4, jsonb_build_object('pod', 'pod-' || i % $1, 'zone', 'z1'),
	$2::timestamptz - random() * ($3::bigint / $1 * interval '10 seconds'), $4
FROM generate_series(1, $5::bigint) AS i`, historySeries, hi.end, hi.rows, constitutionalHash, count)
	return err
}
