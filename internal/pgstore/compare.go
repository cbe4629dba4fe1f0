// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// compare returns the requests whose rows in the database are not what they
// should be. It only reads. A request that the database cannot even compare has
// its err set and is not returned.
func (s *session) compare(ctx context.Context, requests []*request) ([]*request, error) {
	if err := s.readFence(ctx); err != nil {
		return nil, err
	}
	return s.compareBisecting(ctx, requests)
}

func (s *session) compareBisecting(ctx context.Context, requests []*request) ([]*request, error) {
	var changed []*request
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		q := dbsql.New(tx)
		if err := q.LimitWaiting(ctx); err != nil {
			return err
		}
		changed, err = s.compareAll(ctx, q, requests)
		return err
	})
	pgErr := rowErrorOf(err)
	if pgErr == nil {
		return changed, err
	}
	if len(requests) == 1 {
		return nil, refuse(ctx, s.pool, requests[0], pgErr)
	}
	half := len(requests) / 2
	first, err := s.compareBisecting(ctx, requests[:half])
	if err != nil {
		return nil, err
	}
	second, err := s.compareBisecting(ctx, requests[half:])
	return append(first, second...), err
}

func (s *session) compareAll(ctx context.Context, q *dbsql.Queries, requests []*request) ([]*request, error) {
	g := groupRequests(requests)
	compares := []func() ([]*request, error){
		func() ([]*request, error) { return s.compareImprovements(ctx, q, g.improvements) },
		func() ([]*request, error) { return s.comparePolicies(ctx, q, g.policies) },
		func() ([]*request, error) { return s.compareDeletedImprovements(ctx, q, g.deletedImprovements) },
		func() ([]*request, error) { return s.compareDeletedPolicies(ctx, q, g.deletedPolicies) },
	}
	var changed []*request
	for _, compare := range compares {
		found, err := compare()
		if err != nil {
			return nil, err
		}
		changed = append(changed, found...)
	}
	return changed, nil
}

func (s *session) compareImprovements(ctx context.Context, q *dbsql.Queries, requests []*request) ([]*request, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	existing, err := q.ExistingImprovements(ctx, improvementIDs(requests))
	if err != nil {
		return nil, err
	}
	// New objects come in crowds, and their rows are better sent once than twice.
	old, changed := split(requests, existing, improvementIDOf)
	if len(old) == 0 {
		return changed, nil
	}
	archive, err := q.ChangedArchive(ctx, dbsql.ChangedArchiveParams(s.archiveRows(old)))
	if err != nil {
		return nil, err
	}
	workspaces, err := q.ChangedWorkspaces(ctx, dbsql.ChangedWorkspacesParams(s.workspaceRows(old)))
	if err != nil {
		return nil, err
	}
	different, _ := split(old, append(archive, workspaces...), improvementIDOf)
	return append(changed, different...), nil
}

func improvementIDOf(r *request) uuid.UUID { return r.improvement.ImprovementID }

func (s *session) comparePolicies(ctx context.Context, q *dbsql.Queries, requests []*request) ([]*request, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	arms := s.armRows(requests)
	changed, err := q.ChangedArms(ctx, dbsql.ChangedArmsParams(arms))
	if err != nil {
		return nil, err
	}
	namespaces, policies, _ := names(requests)
	stray, err := q.StrayArms(ctx, dbsql.StrayArmsParams{
		Cluster: s.cluster, PolicyNamespaces: namespaces, PolicyNames: policies,
		Uids: arms.Uids, AlgorithmTypes: arms.AlgorithmTypes, ContextKeys: arms.ContextKeys, ArmIds: arms.ArmIds,
	})
	if err != nil {
		return nil, err
	}
	withStray := make([]escapedName, 0, len(stray))
	for _, row := range stray {
		withStray = append(withStray, escapedName{row.Namespace, row.Name})
	}
	different, same := split(requests, changed, func(r *request) string { return escapeText(r.object.UID) })
	strayed, _ := split(same, withStray, escapedNameOf)
	return append(different, strayed...), nil
}

type escapedName struct{ namespace, name string }

func escapedNameOf(r *request) escapedName {
	return escapedName{escapeText(r.object.Namespace), escapeText(r.object.Name)}
}

func (s *session) compareDeletedImprovements(ctx context.Context, q *dbsql.Queries, requests []*request) ([]*request, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	namespaces, objects, keep := names(requests)
	rows, err := q.PendingTombstonesImprovements(ctx, dbsql.PendingTombstonesImprovementsParams{
		Cluster: s.cluster, Namespaces: namespaces, Names: objects, KeepUids: keep,
	})
	if err != nil {
		return nil, err
	}
	var pending []escapedName
	for _, row := range rows {
		pending = append(pending, escapedName{row.Namespace, row.Name})
	}
	found, _ := split(requests, pending, escapedNameOf)
	return found, nil
}

func (s *session) compareDeletedPolicies(ctx context.Context, q *dbsql.Queries, requests []*request) ([]*request, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	namespaces, objects, keep := names(requests)
	rows, err := q.PendingTombstonesPolicies(ctx, dbsql.PendingTombstonesPoliciesParams{
		Cluster: s.cluster, Namespaces: namespaces, Names: objects, KeepUids: keep,
	})
	if err != nil {
		return nil, err
	}
	var pending []escapedName
	for _, row := range rows {
		pending = append(pending, escapedName{row.Namespace, row.Name})
	}
	found, _ := split(requests, pending, escapedNameOf)
	return found, nil
}

// split tells the requests whose key is one of keys from the others.
func split[K comparable](requests []*request, keys []K, key func(*request) K) (with, without []*request) {
	set := setOf(keys)
	for _, r := range requests {
		if _, found := set[key(r)]; found {
			with = append(with, r)
		} else {
			without = append(without, r)
		}
	}
	return with, without
}
