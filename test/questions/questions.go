// SPDX-License-Identifier: Apache-2.0

// Package questions asks the database what dashboards and services ask it, over
// as many rows as one likes, and judges by the plans whether each question was
// answered by its index, from the partitions and rows that it is about alone.
package questions

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Question is what somebody asks again and again.
type Question struct {
	Name string
	// Table that it is about, and the index that it is to be answered by.
	Table, Index string
	// Service: it is asked by a member of dgm_service, else by one of dgm_readonly.
	Service bool
	SQL     string
	// Rows that it returns; 0: some.
	Rows int
	// Args of the nth time that it is asked.
	Args func(v Volume, n int) []any
}

// All are at least one for each of the indexes that the contract names.
var All = []Question{{
	Name:  "samples of a service and type, the latest",
	Table: "performance_metrics", Index: "idx_performance_metrics_composite", Rows: 100,
	SQL: `SELECT "timestamp", metric_name, value, unit, tags FROM dgm.performance_metrics
		WHERE service_name = $1 AND metric_type = $2 AND "timestamp" >= $3 AND "timestamp" < $4 ORDER BY "timestamp" DESC LIMIT 100`,
	Args: func(v Volume, n int) []any { return v.window(n, v.End().Add(-200*v.Interval()), 200) },
}, {
	Name:  "samples of a service and type, all of a while last month",
	Table: "performance_metrics", Index: "idx_performance_metrics_composite",
	SQL: `SELECT "timestamp", metric_name, value, unit, tags FROM dgm.performance_metrics
		WHERE service_name = $1 AND metric_type = $2 AND "timestamp" >= $3 AND "timestamp" < $4 ORDER BY "timestamp" DESC`,
	Args: func(v Volume, n int) []any {
		return v.window(n, month(v.End(), -1).Add(time.Duration(n%200)*time.Hour), 50)
	},
}, {
	Name:  "samples of a service and type, the latest across the turn of a month",
	Table: "performance_metrics", Index: "idx_performance_metrics_composite", Rows: 100,
	SQL: `SELECT "timestamp", metric_name, value, unit, tags FROM dgm.performance_metrics
		WHERE service_name = $1 AND metric_type = $2 AND "timestamp" >= $3 AND "timestamp" < $4 ORDER BY "timestamp" DESC LIMIT 100`,
	Args: func(v Volume, n int) []any { return v.window(n, month(v.End(), 0).Add(-200*v.Interval()), 250) },
}, {
	Name:  "improvements that failed, the latest",
	Table: "dgm_archive", Index: "idx_dgm_archive_status_timestamp", Rows: 50,
	SQL: `SELECT improvement_id, namespace, name, attempt, is_newest_attempt, target_service, outcome_reason, started_at, completed_at
		FROM dgm.v_improvements WHERE archive_status = $1 ORDER BY started_at DESC LIMIT 50`,
	Args: func(_ Volume, n int) []any { return []any{[]string{"failed", "rolled_back", "completed"}[n%3]} },
}, {
	Name:  "improvements that run now",
	Table: "dgm_archive", Index: "idx_dgm_archive_status_timestamp", Rows: 2 * open,
	SQL: `SELECT cluster, namespace, name, workspace_status, started_at FROM dgm.v_improvements
		WHERE archive_status IN ('pending', 'running') AND deleted_at IS NULL ORDER BY started_at`,
	Args: func(Volume, int) []any { return nil },
}, {
	Name:  "violations of a service, the latest",
	Table: "constitutional_compliance_logs", Index: "idx_compliance_logs_service_level", Rows: 20,
	SQL: `SELECT id, namespace, name, attempt, operation_type, compliance_score, violations, assessed_at
		FROM dgm.v_compliance WHERE service_name = $1 AND compliance_level = $2 ORDER BY assessed_at DESC LIMIT 20`,
	Args: func(_ Volume, n int) []any { return []any{service(n), []string{"major_violation", "warning"}[n%2]} },
}, {
	Name:  "arms of a context",
	Table: "bandit_states", Index: "idx_bandit_states_context_arm", Rows: arms,
	SQL:  `SELECT arm_id, total_pulls, pull_share, average_reward, last_updated FROM dgm.v_bandit_arms WHERE context_key = $1 ORDER BY arm_id`,
	Args: func(v Volume, n int) []any { return []any{v.context(n)} },
}, {
	Name:  "state of an arm, the latest",
	Table: "bandit_states", Index: "idx_bandit_states_context_arm", Service: true, Rows: 1,
	SQL: `SELECT id, algorithm_type, total_pulls, total_reward, algorithm_state FROM dgm.bandit_states
		WHERE context_key = $1 AND arm_id = $2 ORDER BY last_updated DESC LIMIT 1`,
	Args: func(v Volume, n int) []any { return []any{v.context(n), fmt.Sprintf("arm-%d", n%arms)} },
}, {
	Name:  "workspaces in a status, the latest",
	Table: "improvement_workspaces", Index: "idx_workspaces_status_created", Service: true, Rows: 50,
	SQL: `SELECT improvement_id, namespace, name, target_service, priority, created_at FROM dgm.improvement_workspaces
		WHERE status = $1 ORDER BY created_at DESC LIMIT 50`,
	Args: func(_ Volume, n int) []any { return []any{[]string{"validating", "archived"}[n%2]} },
}}

// Check asks for the nth time and returns the plan, and an error that says what
// is wrong with it.
func (q Question) Check(ctx context.Context, conn *pgx.Conn, v Volume, n int) (Plan, error) {
	args := q.Args(v, n)
	plan, err := Explain(ctx, conn, q.SQL, args...)
	if err != nil {
		return Plan{}, fmt.Errorf("%s: %w", q.Name, err)
	}
	indexes, err := partsOf(ctx, conn, q.Index)
	if err != nil {
		return Plan{}, err
	}
	if problems := plan.problems(q, q.parts(args), indexes); len(problems) > 0 {
		return plan, fmt.Errorf("%s, asked with %v: %s", q.Name, args, strings.Join(problems, "; "))
	}
	return plan, nil
}

// Ask asks for the nth time and returns how long it took until the client had
// the whole answer.
func (q Question) Ask(ctx context.Context, conn *pgx.Conn, v Volume, n int) (time.Duration, error) {
	args := q.Args(v, n)
	began := time.Now()
	rows, err := conn.Query(ctx, q.SQL, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", q.Name, err)
	}
	for rows.Next() {
		if _, err := rows.Values(); err != nil {
			return 0, fmt.Errorf("%s: %w", q.Name, err)
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", q.Name, err)
	}
	return time.Since(began), nil
}

// parts of its table that a question is about: the months from its third
// argument to its fourth, where it is partitioned.
func (q Question) parts(args []any) []string {
	if q.Table != "performance_metrics" {
		return []string{q.Table}
	}
	from, to := args[2].(time.Time), args[3].(time.Time) //nolint:forcetypeassert // the questions above say so
	var out []string
	for m := month(from, 0); m.Before(to); m = month(m, 1) {
		out = append(out, q.Table+"_"+m.Format("200601"))
	}
	return out
}

// partsOf returns an index and, where it is partitioned, its partitions.
func partsOf(ctx context.Context, conn *pgx.Conn, index string) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT relid::text FROM (SELECT replace(t.relid::regclass::text, 'dgm.', '') AS relid
		FROM pg_partition_tree(('dgm.' || $1::text)::regclass) t UNION SELECT $1::text) parts`, index)
	if err != nil {
		return nil, err
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("partitions of %s: %w", index, err)
	}
	return parts, nil
}

// month is the first instant of the month that a time is in, or of one some
// months from it.
func month(t time.Time, offset int) time.Time {
	return time.Date(t.UTC().Year(), t.UTC().Month()+time.Month(offset), 1, 0, 0, 0, 0, time.UTC)
}
