// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"time"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// measureAggregation compares a pass over the newest 1 % of all samples, and
// over 1 % that is spread over all hours, with the pass over everything.
func measureAggregation(h *harness, o options) ([]result, error) {
	v, err := h.volume(o)
	if err != nil {
		return nil, err
	}
	percent := o.history / 100
	pass := func(what string, load func() error) (time.Duration, pgstore.Aggregation, error) {
		h.progress("aggregation: loading %s", what)
		if err := load(); err != nil {
			return 0, pgstore.Aggregation{}, err
		}
		if err := v.settle(h.ctx, "dgm.performance_metrics"); err != nil {
			return 0, pgstore.Aggregation{}, err
		}
		began := time.Now()
		done, err := pgstore.AggregateMetrics(h.ctx, v.pool, math.MaxInt64)
		took := time.Since(began)
		h.progress("aggregation: %s took %.2fs, %d samples read in %d passes", what, took.Seconds(), done.Samples, done.Passes)
		return took, done, err
	}
	full, all, err := pass("everything", func() error { return v.LoadSamples(h.ctx, v.pool, 0, o.history-percent) })
	if err != nil {
		return nil, err
	}
	newest, _, err := pass("the newest 1 %", func() error { return v.LoadSamples(h.ctx, v.pool, o.history-percent, o.history) })
	if err != nil {
		return nil, err
	}
	v.full = true
	spread, _, err := pass("1 % spread over everything", func() error { return v.LoadLateSamples(h.ctx, v.pool, percent) })
	if err != nil {
		return nil, err
	}
	if lost := h.query(v.url, "SELECT ((SELECT count(*) FROM dgm.performance_metrics) - (SELECT sum(count) FROM dgm.metric_rollups WHERE time_window = '1d'))::text"); lost != "0" {
		return nil, fmt.Errorf("%s samples are not in the rollups of 1d", lost)
	}
	rollups := h.query(v.url, "SELECT (round(count(*)::numeric / $1, 3) || ' rollups for each sample, ' || pg_size_pretty(pg_total_relation_size('dgm.metric_rollups')))::text FROM dgm.metric_rollups", o.history)
	limit := 0.07
	return []result{{
		name: "aggregation: newest 1 % against everything", value: newest.Seconds() / full.Seconds(), digits: 3, atMost: &limit,
		detail: fmt.Sprintf("%.2fs against %.1fs for %d samples in %d passes; %s", newest.Seconds(), full.Seconds(), all.Samples, all.Passes, rollups),
	}, {
		name: "aggregation: 1 % spread against everything", value: spread.Seconds() / full.Seconds(), detail: fmt.Sprintf("%.1fs; every hour has some", spread.Seconds()),
	}}, nil
}
