// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// commit writes requests in one transaction under the fence. A row that the
// database refuses fails alone: its request's err is set, the others commit.
func (s *session) commit(ctx context.Context, requests []*request) error {
	for _, r := range requests {
		r.err, r.revision = nil, s.store.revision.Add(1)
	}
	err := s.transaction(ctx, func(tx pgx.Tx) error { return s.apply(ctx, tx, requests) })
	if rowErrorOf(err) == nil {
		return err
	}
	return s.transaction(ctx, func(tx pgx.Tx) error { return s.applyBisecting(ctx, tx, requests) })
}

func (s *session) transaction(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		seen := s.walPosition.Load()
		row, err := dbsql.New(tx).LockFence(ctx, s.cluster)
		state := fenceState{row.Epoch, row.Token, row.Identity, row.InRecovery, row.WalPosition, row.Incarnation}
		if err := s.checkFence(seen, state, err); err != nil {
			return err
		}
		return do(tx)
	})
}

// applyBisecting narrows a failure down to single requests, with savepoints.
func (s *session) applyBisecting(ctx context.Context, tx pgx.Tx, requests []*request) error {
	err := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error { return s.apply(ctx, savepoint, requests) })
	pgErr := rowErrorOf(err)
	if pgErr == nil {
		return err
	}
	if len(requests) == 1 {
		return refuse(ctx, tx, requests[0], pgErr)
	}
	half := len(requests) / 2
	if err := s.applyBisecting(ctx, tx, requests[:half]); err != nil {
		return err
	}
	return s.applyBisecting(ctx, tx, requests[half:])
}

// refuse sets the error of the one request that the database does not take.
func refuse(ctx context.Context, db beginner, r *request, refusal *pgconn.PgError) error {
	rowErr, err := refusedDocument(ctx, db, r, refusal)
	if err == nil {
		r.err = rowErr
	}
	return err
}

// apply writes tables in a fixed order: rows, then deletions.
func (s *session) apply(ctx context.Context, tx pgx.Tx, requests []*request) error {
	q, g := dbsql.New(tx), groupRequests(requests)
	if err := s.applyImprovements(ctx, q, g.improvements); err != nil {
		return err
	}
	if err := s.applySnapshots(ctx, q, g.snapshots); err != nil {
		return err
	}
	if err := s.applyPolicies(ctx, q, g.policies); err != nil {
		return err
	}
	if err := s.applyDeletedImprovements(ctx, q, g.deletedImprovements); err != nil {
		return err
	}
	return s.applyDeletedPolicies(ctx, q, g.deletedPolicies)
}

func (s *session) applyImprovements(ctx context.Context, q *dbsql.Queries, requests []*request) error {
	if len(requests) == 0 {
		return nil
	}
	archive := s.archiveRows(requests)
	archived, err := q.UpsertArchive(ctx, archive)
	if err != nil {
		return err
	}
	workspaces, err := q.UpsertWorkspaces(ctx, s.workspaceRows(requests))
	if err != nil {
		return err
	}
	if archived < int64(len(requests)) {
		if err := q.TouchFinalArchive(ctx, dbsql.TouchFinalArchiveParams{
			WriterEpoch: s.fence.epoch, ImprovementIds: archive.ImprovementIds,
			Uids: archive.Uids, Generations: archive.Generations, Revisions: archive.Revisions,
		}); err != nil {
			return err
		}
	}
	if archived+workspaces == 2*int64(len(requests)) {
		return nil
	}
	newer, err := q.NewerImprovements(ctx, dbsql.NewerImprovementsParams{ImprovementIds: archive.ImprovementIds, WriterEpoch: s.fence.epoch})
	if err != nil {
		return err
	}
	refuseNewer(requests, newer, improvementIDOf)
	return nil
}

// refuseNewer fails requests whose rows a newer leader has written (P4).
func refuseNewer[K comparable](requests []*request, newer []K, key func(*request) K) {
	refused := setOf(newer)
	for _, r := range requests {
		if _, found := refused[key(r)]; found {
			r.err = fmt.Errorf("%w: the row was written under a later epoch", ErrDeposed)
		}
	}
}

func setOf[K comparable](keys []K) map[K]struct{} {
	set := make(map[K]struct{}, len(keys))
	for _, k := range keys {
		set[k] = struct{}{}
	}
	return set
}

func (s *session) applySnapshots(ctx context.Context, q *dbsql.Queries, requests []*request) error {
	for _, r := range requests {
		row := *r.snapshot
		row.WriterEpoch, row.Revision = s.fence.epoch, r.revision
		inserted, err := q.InsertSnapshot(ctx, row)
		if err != nil {
			return err
		}
		if inserted == 1 {
			continue
		}
		stored, err := q.SnapshotDigest(ctx, row.ImprovementID)
		if err != nil {
			return err
		}
		if stored != row.Sha256 {
			r.err = differentSnapshot(row.ImprovementID)
		}
	}
	return nil
}

func (s *session) applyPolicies(ctx context.Context, q *dbsql.Queries, requests []*request) error {
	if len(requests) == 0 {
		return nil
	}
	arms := s.armRows(requests)
	written, err := q.UpsertArms(ctx, arms)
	if err != nil {
		return err
	}
	namespaces, policies, _ := names(requests)
	if err := q.TombstoneStrayArms(ctx, dbsql.TombstoneStrayArmsParams{
		WriterEpoch: s.fence.epoch, Revision: s.store.revision.Add(1), Cluster: s.cluster,
		PolicyNamespaces: namespaces, PolicyNames: policies, Uids: arms.Uids, AlgorithmTypes: arms.AlgorithmTypes, ContextKeys: arms.ContextKeys, ArmIds: arms.ArmIds,
	}); err != nil {
		return err
	}
	if written == int64(len(arms.Ids)) {
		return nil
	}
	newer, err := q.NewerArms(ctx, dbsql.NewerArmsParams{PolicyUids: uids(requests), Cluster: s.cluster, WriterEpoch: s.fence.epoch})
	if err != nil {
		return err
	}
	refuseNewer(requests, newer, func(r *request) string { return escapeText(r.object.UID) })
	return nil
}

func (s *session) applyDeletedImprovements(ctx context.Context, q *dbsql.Queries, requests []*request) error {
	if len(requests) == 0 {
		return nil
	}
	namespaces, objects, keep := names(requests)
	archived, err := q.TombstoneArchive(ctx, dbsql.TombstoneArchiveParams{
		WriterEpoch: s.fence.epoch, Revision: s.store.revision.Add(1), Cluster: s.cluster,
		Namespaces: namespaces, Names: objects, KeepUids: keep,
	})
	if err != nil {
		return err
	}
	workspaces, err := q.TombstoneWorkspaces(ctx, dbsql.TombstoneWorkspacesParams{
		WriterEpoch: s.fence.epoch, Revision: s.store.revision.Add(1), Cluster: s.cluster,
		Namespaces: namespaces, Names: objects, KeepUids: keep,
	})
	if err != nil {
		return err
	}
	s.forget(KindImprovementWorkspace, append(archived, workspaces...))
	return nil
}

func (s *session) applyDeletedPolicies(ctx context.Context, q *dbsql.Queries, requests []*request) error {
	if len(requests) == 0 {
		return nil
	}
	namespaces, objects, keep := names(requests)
	deleted, err := q.TombstonePolicies(ctx, dbsql.TombstonePoliciesParams{
		WriterEpoch: s.fence.epoch, Revision: s.store.revision.Add(1), Cluster: s.cluster,
		Namespaces: namespaces, Names: objects, KeepUids: keep,
	})
	if err != nil {
		return err
	}
	s.forget(KindBanditPolicy, deleted)
	return nil
}

func (s *session) forget(kind Kind, deleted []string) {
	for _, uid := range deleted {
		s.store.digests.forget(kind, uid)
		s.store.announcements.forget(kind, uid)
	}
}

// probe finds out whether schema and rights allow what the writer will do,
// without writing anything.
func (s *session) probe(ctx context.Context) error {
	rollback := errors.New("probed")
	err := s.transaction(ctx, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if _, err := q.UpsertArchive(ctx, s.archiveRows(nil)); err != nil {
			return err
		}
		if _, err := q.UpsertWorkspaces(ctx, s.workspaceRows(nil)); err != nil {
			return err
		}
		if _, err := q.UpsertArms(ctx, s.armRows(nil)); err != nil {
			return err
		}
		return rollback
	})
	if errors.Is(err, rollback) {
		return nil
	}
	return err
}
