// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// What the views of 00018_monitoring say; their columns are described there.
type (
	// StatementUse is a statement on schema dgm; Statement is empty unless it is one of the operator's.
	StatementUse = dbsql.SlowestStatementsRow
	// IndexUse is an index, with those of all partitions added up; LastUsed is in Unix seconds, 0 when not known.
	IndexUse = dbsql.IndexUsageRow
	// TableStorage is a table, with all partitions added up.
	TableStorage = dbsql.StorageRow
	// Partition is one of performance_metrics.
	Partition = dbsql.PartitionsRow
	// OpenTransactions sums up the transactions that have been open for more than five seconds; ages are in seconds.
	OpenTransactions = dbsql.LongTransactionsRow
	// Sessions counts those of this database.
	Sessions = dbsql.DgmVSession
	// KeySnapshots is how many snapshots are encrypted with a key.
	KeySnapshots = dbsql.SnapshotsByKeyRow
	// UnmatchedMetrics are the samples that name an improvement which the archive does not know.
	UnmatchedMetrics = dbsql.UnmatchedMetricsRow
	// AggregationStanding is how the aggregation of metrics stands; LastPassAt is in Unix seconds.
	AggregationStanding = dbsql.AggregationStandingRow
)

// SlowestStatements returns the statements on schema dgm that took the most
// time; none without pg_stat_statements.
func (s *Store) SlowestStatements(ctx context.Context, most int32) ([]StatementUse, error) {
	return observe(ctx, s, func(q *dbsql.Queries) ([]StatementUse, error) { return q.SlowestStatements(ctx, most) })
}

// IndexUsage returns the largest indexes.
func (s *Store) IndexUsage(ctx context.Context, most int32) ([]IndexUse, error) {
	return observe(ctx, s, func(q *dbsql.Queries) ([]IndexUse, error) { return q.IndexUsage(ctx, most) })
}

// Storage returns the largest tables.
func (s *Store) Storage(ctx context.Context, most int32) ([]TableStorage, error) {
	return observe(ctx, s, func(q *dbsql.Queries) ([]TableStorage, error) { return q.Storage(ctx, most) })
}

// Partitions returns the default partition of performance_metrics and then the
// others, the latest month first. monthsAhead is how many months after this one
// have a partition without a gap; -1 when this one has none.
func (s *Store) Partitions(ctx context.Context) (partitions []Partition, monthsAhead int32, err error) {
	partitions, err = observe(ctx, s, func(q *dbsql.Queries) ([]Partition, error) {
		var err error
		if monthsAhead, err = q.MonthsAhead(ctx); err != nil {
			return nil, err
		}
		return q.Partitions(ctx)
	})
	return partitions, monthsAhead, err
}

// OpenTransactions returns what has been open for long.
func (s *Store) OpenTransactions(ctx context.Context) (OpenTransactions, error) {
	return observe(ctx, s, func(q *dbsql.Queries) (OpenTransactions, error) { return q.LongTransactions(ctx) })
}

// Sessions returns how many sessions the database has.
func (s *Store) Sessions(ctx context.Context) (Sessions, error) {
	return observe(ctx, s, func(q *dbsql.Queries) (Sessions, error) { return q.Sessions(ctx) })
}

// SnapshotsByKey returns how many snapshots each key encrypts, so that it can be
// seen when a key is needed no more.
func (s *Store) SnapshotsByKey(ctx context.Context, most int32) ([]KeySnapshots, error) {
	return observe(ctx, s, func(q *dbsql.Queries) ([]KeySnapshots, error) { return q.SnapshotsByKey(ctx, most) })
}

// UnmatchedMetrics returns how many improvements metrics name that the archive
// does not know, a thousand at most, and how many samples name one of these.
func (s *Store) UnmatchedMetrics(ctx context.Context) (UnmatchedMetrics, error) {
	return observe(ctx, s, func(q *dbsql.Queries) (UnmatchedMetrics, error) { return q.UnmatchedMetrics(ctx) })
}

// AggregationStanding returns how the aggregation of metrics stands; nil before
// the first pass.
func (s *Store) AggregationStanding(ctx context.Context) (*AggregationStanding, error) {
	rows, err := observe(ctx, s, func(q *dbsql.Queries) ([]AggregationStanding, error) { return q.AggregationStanding(ctx) })
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// observe reads in a transaction that writes nothing and waits for nobody long.
func observe[T any](ctx context.Context, s *Store, read func(*dbsql.Queries) (T, error)) (T, error) {
	var result T
	sess, err := s.current()
	if err != nil {
		return result, err
	}
	err = pgx.BeginTxFunc(ctx, sess.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if err := q.LimitMonitoring(ctx); err != nil {
			return err
		}
		var err error
		result, err = read(q)
		return err
	})
	if err != nil {
		return result, s.failure(err)
	}
	return result, nil
}
