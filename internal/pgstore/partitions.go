// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"

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
		_, err := q.EnsureMetricPartitions(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("make partitions of dgm.performance_metrics: %w", err)
	}
	return nil
}
