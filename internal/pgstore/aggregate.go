// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	// aggregationTurn is how long the chore goes on when there is much to do, so
	// that other chores have their turn, too.
	aggregationTurn = 20 * time.Second
	// aggregationPass is about how long one transaction is to take: in that time
	// no partition can be made or dropped.
	aggregationPass     = time.Second
	aggregationMaxHours = 31 * 24
)

// Aggregation is what AggregateMetrics has done.
type Aggregation struct {
	Passes  int   // transactions
	Hours   int   // hours of samples whose rollups were computed
	Samples int64 // samples that were read for it
	Pending int64 // hours that are left
}

// aggregateMetrics rolls up what is new. Another cluster's leader that is at it
// already does so for this one, too.
func (s *session) aggregateMetrics(ctx context.Context) error {
	if !s.store.Settings().AggregateMetrics {
		return nil
	}
	_, err := AggregateMetrics(ctx, s.pool, aggregationTurn)
	return err
}

// AggregateMetrics brings the rollups up to date with the samples, in short
// transactions of as many hours as can be had in about a second, the newest
// first, until nothing is left or the time is over. It writes nothing when
// nothing is new, and returns at once when another session is at it.
func AggregateMetrics(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) (Aggregation, error) {
	var done Aggregation
	queries := dbsql.New(pool)
	began := time.Now()
	for hours := int32(1); ; {
		due, err := queries.MetricsAggregationDue(ctx)
		if err != nil {
			return done, fmt.Errorf("look for new samples in dgm.performance_metrics: %w", err)
		}
		if !due {
			return done, nil
		}
		passBegan := time.Now()
		pass, err := queries.AggregateMetrics(ctx, hours)
		if err != nil {
			return done, fmt.Errorf("aggregate dgm.performance_metrics: %w", err)
		}
		if pass.Busy {
			return done, nil
		}
		done.Passes++
		done.Hours += int(pass.Hours)
		done.Samples += pass.Samples
		done.Pending = pass.PendingHours
		if time.Since(began) >= limit {
			return done, nil
		}
		hours = nextHours(hours, time.Since(passBegan))
	}
}

// nextHours is how many hours the pass after one of so many hours takes on.
func nextHours(hours int32, took time.Duration) int32 {
	switch {
	case took < aggregationPass/2:
		return min(2*hours, aggregationMaxHours)
	case took > 2*aggregationPass:
		return max(hours/2, 1)
	}
	return hours
}
