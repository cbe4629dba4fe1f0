// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
	"github.com/acgs/dgm-operator/test/questions"
)

// volume is a database with many rows, which several measurements share.
type volume struct {
	questions.Volume
	url  string
	pool *pgxpool.Pool // of the superuser
	full bool          // all samples are there
}

// volume makes the database at the first call, without rows.
func (h *harness) volume(o options) (*volume, error) {
	if h.filled != nil {
		return h.filled, nil
	}
	url, err := h.migrated()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(h.ctx, url)
	if err != nil {
		return nil, err
	}
	h.Cleanup(pool.Close)
	if _, err := pool.Exec(h.ctx, "SELECT dgm.ensure_metric_partitions(12, 6)"); err != nil {
		return nil, err
	}
	rows := questions.Volume{Samples: o.history, Improvements: o.improvements, Assessments: o.assessments, Arms: o.arms, Hash: constitutionalHash}
	h.filled = &volume{Volume: rows.Ending(time.Now().Truncate(time.Hour)), url: url, pool: pool}
	return h.filled, nil
}

// settle has statistics made, and what was written put on disk.
func (v *volume) settle(ctx context.Context, tables string) error {
	for _, sql := range []string{"VACUUM ANALYZE " + tables, "CHECKPOINT"} {
		if _, err := v.pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// measureQuestions asks what dashboards ask. A plan that is not as it should be
// is an error.
func measureQuestions(h *harness, o options) ([]result, error) {
	v, err := h.volume(o)
	if err != nil {
		return nil, err
	}
	if !v.full {
		h.progress("questions: loading %d samples", v.Samples)
		if err := v.LoadSamples(h.ctx, v.pool, 0, v.Samples); err != nil {
			return nil, err
		}
		v.full = true
	}
	h.progress("questions: loading %d improvements, their workspaces, %d assessments, %d arms", v.Improvements, v.Assessments, v.Arms)
	if err := v.Load(h.ctx, v.pool); err != nil {
		return nil, err
	}
	if err := v.settle(h.ctx, "dgm.performance_metrics, dgm.dgm_archive, dgm.improvement_workspaces, dgm.constitutional_compliance_logs, dgm.bandit_states"); err != nil {
		return nil, err
	}
	h.progress("questions: restarting PostgreSQL, so that its buffers are empty")
	v.pool.Reset()
	h.postgres.Restart(h)
	var results []result
	for _, q := range questions.All {
		r, err := h.ask(v, q)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// timesAsked of each question, with other arguments each time; every tenth time
// its plan is judged as well.
const timesAsked = 100

func (h *harness) ask(v *volume, q questions.Question) (result, error) {
	url := pgtest.ReadonlyURL(v.url)
	if q.Service {
		url = pgtest.ServiceURL(v.url)
	}
	conn, err := pgx.Connect(h.ctx, url)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = conn.Close(h.ctx) }()
	first, err := q.Ask(h.ctx, conn, v.Volume, 0)
	if err != nil {
		return result{}, err
	}
	var took []float64
	var plan questions.Plan
	for n := range timesAsked {
		if n%10 == 0 {
			if plan, err = q.Check(h.ctx, conn, v.Volume, n); err != nil {
				return result{}, err
			}
		}
		t, err := q.Ask(h.ctx, conn, v.Volume, n)
		if err != nil {
			return result{}, err
		}
		took = append(took, milliseconds(t))
	}
	limit := 10.0
	return result{
		name: "question: " + q.Name, value: median(took), unit: "ms", digits: 2, atMost: &limit,
		detail: fmt.Sprintf("%s; cold %.1f ms; %s: %d rows, %d blocks; executing alone %.2f ms", spread(took, "%.2f"), milliseconds(first), q.Index, plan.Returned, plan.Blocks, plan.Milliseconds),
	}, nil
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
