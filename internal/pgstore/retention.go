// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// retentionBatch bounds how many rows one transaction of a chore changes.
const retentionBatch = 1000

// purgeSnapshots empties the exact rollback bytes of attempts that ended longer
// ago than rollback_retention_days; their digests stay.
func (s *session) purgeSnapshots(ctx context.Context) error {
	retention := s.store.Settings().RollbackRetention
	found, err := s.queries.SnapshotsToPurge(ctx, dbsql.SnapshotsToPurgeParams{RetentionSeconds: retention.Seconds(), Cluster: s.cluster})
	if err != nil || !found {
		return err
	}
	return s.inBatches(ctx, "Purged exact rollback bytes", func(tx pgx.Tx) (int64, error) {
		purged, err := dbsql.New(tx).PurgeSnapshots(ctx, dbsql.PurgeSnapshotsParams{
			Cluster: s.cluster, RetentionSeconds: retention.Seconds(), AtMost: retentionBatch,
		})
		return int64(purged), err
	})
}

// archiveWorkspaces marks workspaces that ended longer ago than
// workspace_retention_hours, also those whose object is gone.
func (s *session) archiveWorkspaces(ctx context.Context) error {
	settings := s.store.Settings()
	if !settings.ArchiveWorkspaces {
		return nil
	}
	retention := settings.WorkspaceRetention.Seconds()
	found, err := s.queries.WorkspacesToArchive(ctx, dbsql.WorkspacesToArchiveParams{Cluster: s.cluster, RetentionSeconds: retention})
	if err != nil || !found {
		return err
	}
	return s.inBatches(ctx, "Archived workspaces", func(tx pgx.Tx) (int64, error) {
		return dbsql.New(tx).ArchiveWorkspaces(ctx, dbsql.ArchiveWorkspacesParams{
			Cluster: s.cluster, RetentionSeconds: retention, AtMost: retentionBatch,
		})
	})
}

// inBatches repeats a step, each in a transaction under the fence, until one
// changes less than a batch.
func (s *session) inBatches(ctx context.Context, what string, step func(pgx.Tx) (int64, error)) error {
	began, total := time.Now(), int64(0)
	for {
		var changed int64
		err := s.transaction(ctx, func(tx pgx.Tx) (err error) {
			changed, err = step(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("after %d rows: %w", total, err)
		}
		if total += changed; changed < retentionBatch {
			break
		}
	}
	if total > 0 {
		s.store.config.Log.Info(what, "rows", total, "took", time.Since(began).String())
	}
	return nil
}
