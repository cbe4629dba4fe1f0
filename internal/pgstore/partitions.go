// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// ensurePartitions makes the partitions of the months to come. Until it has, rows
// of a month without one land in the default partition, and are not lost.
func (s *session) ensurePartitions(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if err := q.LimitWaiting(ctx); err != nil {
			return err
		}
		if err := q.LetPartitionsTakeLonger(ctx); err != nil {
			return err
		}
		_, err := q.EnsureMetricPartitions(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("make partitions of dgm.performance_metrics: %w", err)
	}
	return nil
}

// Work of one turn, so that other chores come to theirs.
const (
	partitionsPerTurn = 12
	deletionsPerTurn  = 20
)

// dropExpiredMetrics drops the partitions of months that are past their
// retention, deletes what the default partition has of such months, and forgets
// old batches. Each is a short transaction of its own.
func (s *session) dropExpiredMetrics(ctx context.Context) error {
	now := s.store.Settings()
	p := dbsql.DropExpiredMetricPartitionsParams{
		RetentionDays: int32(now.MetricsRetention / (24 * time.Hour)), WaitForAggregation: now.AggregateMetrics, //nolint:gosec // at most 3650 days
	}
	for _, step := range []struct {
		what  string
		turns int
		do    func(*dbsql.Queries) (int32, error)
	}{
		{"drop expired partitions of dgm.performance_metrics", partitionsPerTurn, func(q *dbsql.Queries) (int32, error) {
			return q.DropExpiredMetricPartitions(ctx, p)
		}},
		{"delete expired rows of dgm.performance_metrics_default", deletionsPerTurn, func(q *dbsql.Queries) (int32, error) {
			return q.DeleteExpiredMetrics(ctx)
		}},
		{"purge dgm.metric_batches", deletionsPerTurn, func(q *dbsql.Queries) (int32, error) {
			return q.PurgeMetricBatches(ctx)
		}},
	} {
		total, err := s.repeat(ctx, step.turns, step.do)
		if total > 0 {
			s.store.config.Log.Info("Retention of metrics", "did", step.what, "count", total)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// repeat does something in transactions of its own until there is nothing left
// to do, and returns how much it did in all.
func (s *session) repeat(ctx context.Context, turns int, do func(*dbsql.Queries) (int32, error)) (total int, err error) {
	for range turns {
		var done int32
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			q := dbsql.New(tx)
			if err := q.LimitWaiting(ctx); err != nil {
				return err
			}
			var err error
			done, err = do(q)
			return err
		})
		if err != nil || done == 0 {
			return total, err
		}
		total += int(done)
	}
	return total, nil
}
