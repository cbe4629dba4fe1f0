// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"fmt"
	"time"

	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/settings"
)

// Limits on series, so that no database can make too many of them.
const (
	mostStatements = 20
	mostIndexes    = 150
	mostTables     = 75
	mostPartitions = 60
	mostKeys       = 20
)

// part is something that is read at a time.
type part struct {
	name  string
	every time.Duration
	read  func(context.Context, *pgstore.Store, *series) error
}

const (
	often     = 30 * time.Second
	sometimes = time.Minute
	seldom    = 10 * time.Minute // what must look at many rows
)

func parts() []part {
	return []part{
		{"statements", often, readStatements},
		{"indexes", often, readIndexes},
		{"storage", often, readStorage},
		{"partitions", often, readPartitions},
		{"transactions", often, readTransactions},
		{"sessions", often, readSessions},
		{"snapshots", seldom, readSnapshots},
		{"unmatched metrics", seldom, readUnmatchedMetrics},
		{"aggregation", often, readAggregation},
		{"success", sometimes, readSuccess},
		{"compliance", sometimes, readCompliance},
		{"bandits", sometimes, readBandits},
	}
}

func readStatements(ctx context.Context, store *pgstore.Store, s *series) error {
	statements, err := store.SlowestStatements(ctx, mostStatements)
	for _, v := range statements {
		id := fmt.Sprint(v.QueryID)
		s.set(statementCalls, float64(v.Calls), v.Statement, id)
		s.set(statementSeconds, v.TotalSeconds, v.Statement, id)
		s.set(statementMean, v.MeanSeconds, v.Statement, id)
		s.set(statementRows, float64(v.RowsAffected), v.Statement, id)
	}
	return err
}

func readIndexes(ctx context.Context, store *pgstore.Store, s *series) error {
	indexes, err := store.IndexUsage(ctx, mostIndexes)
	for _, v := range indexes {
		s.set(indexScans, float64(v.Scans), v.TableName, v.IndexName)
		s.set(indexTuples, float64(v.TuplesRead), v.TableName, v.IndexName)
		s.set(indexSize, float64(v.Bytes), v.TableName, v.IndexName)
		s.set(indexUnused, truth(v.Unused), v.TableName, v.IndexName)
		s.set(indexValid, truth(v.Valid), v.TableName, v.IndexName)
		if v.LastUsed > 0 {
			s.set(indexLastUsed, v.LastUsed, v.TableName, v.IndexName)
		}
	}
	return err
}

func readStorage(ctx context.Context, store *pgstore.Store, s *series) error {
	tables, err := store.Storage(ctx, mostTables)
	for _, v := range tables {
		s.set(tableSize, float64(v.HeapBytes), v.TableName, "heap")
		s.set(tableSize, float64(v.IndexBytes), v.TableName, "index")
		s.set(tableSize, float64(v.ToastBytes), v.TableName, "toast")
		s.set(tableRows, float64(v.LiveRows), v.TableName, "live")
		s.set(tableRows, float64(v.DeadRows), v.TableName, "dead")
		s.set(tableInserted, float64(v.RowsInserted), v.TableName)
	}
	return err
}

func readPartitions(ctx context.Context, store *pgstore.Store, s *series) error {
	all, monthsAhead, err := store.Partitions(ctx)
	if err != nil {
		return err
	}
	expired := 0
	for i, v := range all {
		if v.IsDefault {
			s.set(defaultPartitionRows, float64(v.RowCount))
		}
		if v.IsExpired {
			expired++
		}
		if i < mostPartitions {
			s.set(partitionSize, float64(v.Bytes), v.PartitionName)
			s.set(partitionRows, float64(v.RowCount), v.PartitionName)
		}
	}
	s.set(partitionsThere, float64(len(all)))
	s.set(partitionsExpired, float64(expired))
	s.set(partitionsAhead, float64(monthsAhead))
	return nil
}

func readTransactions(ctx context.Context, store *pgstore.Store, s *series) error {
	v, err := store.OpenTransactions(ctx)
	if err != nil {
		return err
	}
	s.set(longTransactions, float64(v.Open))
	s.set(longestTransaction, v.Longest)
	s.set(longestWriting, v.LongestWriting)
	s.set(snapshotAge, float64(v.XminAge))
	return nil
}

func readSessions(ctx context.Context, store *pgstore.Store, s *series) error {
	v, err := store.Sessions(ctx)
	if err != nil {
		return err
	}
	s.set(sessionsThere, float64(v.Sessions))
	s.set(sessionsMost, float64(v.MaxConnections))
	s.set(sessionsIn, float64(v.Active), "active")
	s.set(sessionsIn, float64(v.IdleInTransaction), "idle_in_transaction")
	s.set(sessionsIn, float64(v.WaitingForLocks), "waiting_for_lock")
	s.set(sessionsIn, float64(v.Hidden), "hidden")
	return nil
}

func readSnapshots(ctx context.Context, store *pgstore.Store, s *series) error {
	keys, err := store.SnapshotsByKey(ctx, mostKeys)
	for _, v := range keys {
		s.set(snapshotsByKey, float64(v.Snapshots), v.KeyID)
	}
	return err
}

func readUnmatchedMetrics(ctx context.Context, store *pgstore.Store, s *series) error {
	v, err := store.UnmatchedMetrics(ctx)
	if err != nil {
		return err
	}
	s.set(unmatchedImprovements, float64(v.Improvements))
	s.set(unmatchedSamples, float64(v.Samples))
	return nil
}

func readAggregation(ctx context.Context, store *pgstore.Store, s *series) error {
	v, err := store.AggregationStanding(ctx)
	if err != nil || v == nil {
		return err
	}
	s.set(aggregationLag, v.LagSeconds)
	s.set(aggregationHeldBack, truth(v.HeldBack))
	s.set(aggregationSlices, float64(v.PendingHours), "pending")
	s.set(aggregationSlices, float64(v.RefusedHours), "refused")
	s.set(aggregationNotFolded, float64(v.RowsNotFolded))
	s.set(aggregationPasses, float64(v.Passes))
	s.set(aggregationPassDuration, v.LastPassSeconds)
	if v.LastPassAt > 0 {
		s.set(aggregationPassAt, v.LastPassAt)
	}
	return nil
}

// showDrift shows what the leader last found, and only whether it is judged
// while the schema is older or newer than this operator.
func showDrift(v pgstore.SchemaDrift, s *series) {
	if v.CheckedAt.IsZero() {
		return
	}
	s.set(schemaJudged, truth(v.NotJudged == ""))
	if v.NotJudged != "" {
		return
	}
	s.set(schemaDrift, float64(len(v.Differences)))
	s.set(schemaExtra, float64(len(v.Extra)))
}

func showSettings(v settings.Settings, s *series) {
	s.set(settingAttempts, float64(v.MaxAttempts))
	s.set(settingConcurrent, float64(v.MaxConcurrent))
	s.set(settingTimeout, v.ImprovementTimeout.Seconds())
	s.set(settingRollbackRetention, v.RollbackRetention.Seconds())
	s.set(settingAggregation, truth(v.AggregateMetrics))
	s.set(settingMetricsRetention, v.MetricsRetention.Seconds())
	s.set(settingCleanup, truth(v.ArchiveWorkspaces))
	s.set(settingWorkspaceRetention, v.WorkspaceRetention.Seconds())
	s.set(settingFreeze, truth(v.Freeze))
}
