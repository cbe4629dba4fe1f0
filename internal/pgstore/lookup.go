// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	lookupTimeout = 5 * time.Second
	livePageSize  = 1000
)

type lookup struct {
	name    escapedName
	attempt *Attempt
	done    chan error
}

// NewestAttempt returns the attempt with the highest number, the latest of
// several, that the archive has for an object of this name, alive or deleted;
// nil when there is none. Callers at the same time share one query.
func (s *Store) NewestAttempt(ctx context.Context, namespace, name string) (*Attempt, error) {
	sess, err := s.current()
	if err != nil {
		return nil, err
	}
	l := &lookup{name: escapedName{escapeText(namespace), escapeText(name)}, done: make(chan error, 1)}
	select {
	case sess.lookups <- l:
	case <-sess.done:
		return nil, sess.cause
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case err := <-l.done:
		if err != nil {
			return nil, err
		}
		return l.attempt, nil
	case <-sess.done:
		return nil, sess.cause
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) lookupLoop(ctx context.Context) error {
	for {
		var lookups []*lookup
		select {
		case l := <-s.lookups:
			lookups = append(lookups, l)
		case <-ctx.Done():
			return ctx.Err()
		}
		for waiting := true; waiting && len(lookups) < s.store.config.BatchSize; {
			select {
			case l := <-s.lookups:
				lookups = append(lookups, l)
			default:
				waiting = false
			}
		}
		err := s.lookUp(ctx, lookups)
		for _, l := range lookups {
			l.done <- err
		}
	}
}

// lookUp fills in what is found. Its failure is no reason to end the session:
// writer and watch notice an outage themselves.
func (s *session) lookUp(ctx context.Context, lookups []*lookup) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	p := dbsql.NewestAttemptsParams{Cluster: s.cluster}
	byName := map[escapedName][]*lookup{}
	for _, l := range lookups {
		if len(byName[l.name]) == 0 {
			p.Namespaces, p.Names = append(p.Namespaces, l.name.namespace), append(p.Names, l.name.name)
		}
		byName[l.name] = append(byName[l.name], l)
	}
	rows, err := s.queries.NewestAttempts(ctx, p)
	if err != nil {
		return s.store.failure(err)
	}
	for _, row := range rows {
		for _, l := range byName[escapedName{row.Namespace, row.Name}] {
			l.attempt = attemptOf(row)
		}
	}
	return nil
}

func attemptOf(row dbsql.NewestAttemptsRow) *Attempt {
	return &Attempt{
		ImprovementID: row.ImprovementID, ParentID: row.ParentImprovementID, Attempt: row.Attempt,
		MaterialDigest: Unescape(row.MaterialDigest), UID: Unescape(row.Uid), ArchiveStatus: row.Status,
		OutcomeReason: Unescape(row.OutcomeReason), HasSnapshot: row.HasSnapshot,
		Timestamp: row.Timestamp.Time.UTC(), CompletedAt: timePointer(row.CompletedAt), DeletedAt: timePointer(row.DeletedAt),
	}
}

func timePointer(t pgtype.Timestamptz) *time.Time {
	if !t.Valid {
		return nil
	}
	utc := t.Time.UTC()
	return &utc
}

// LiveObjects calls visit for each object of this cluster with rows that are no
// tombstones, ordered by namespace and name, until visit returns an error. Their
// Generation is 0. It reads page by page, so that visit may take its time.
func (s *Store) LiveObjects(ctx context.Context, kind Kind, visit func(Object) error) error {
	var after Object
	for {
		page, err := s.livePage(ctx, kind, after)
		if err != nil {
			return err
		}
		for _, o := range page {
			if err := visit(Object{Namespace: Unescape(o.Namespace), Name: Unescape(o.Name), UID: Unescape(o.UID)}); err != nil {
				return err
			}
			after = o
		}
		if len(page) < livePageSize {
			return nil
		}
	}
}

func (s *Store) livePage(ctx context.Context, kind Kind, after Object) ([]Object, error) {
	sess, err := s.current()
	if err != nil {
		return nil, err
	}
	var page []Object
	switch kind {
	case KindBanditPolicy:
		rows, failed := sess.queries.LivePolicies(ctx, dbsql.LivePoliciesParams{
			Cluster: sess.cluster, AfterNamespace: after.Namespace, AfterName: after.Name, AfterUid: after.UID, PageSize: livePageSize,
		})
		for _, row := range rows {
			page = append(page, Object{Namespace: row.Namespace, Name: row.Name, UID: row.Uid})
		}
		err = failed
	case KindSystemConfiguration:
		rows, failed := sess.queries.LiveConfigurations(ctx, dbsql.LiveConfigurationsParams{
			Cluster: sess.cluster, AfterName: after.Name, PageSize: livePageSize,
		})
		for _, row := range rows {
			page = append(page, Object{Name: row.Name, UID: row.Uid})
		}
		err = failed
	default:
		rows, failed := sess.queries.LiveImprovements(ctx, dbsql.LiveImprovementsParams{
			Cluster: sess.cluster, AfterNamespace: after.Namespace, AfterName: after.Name, AfterUid: after.UID, PageSize: livePageSize,
		})
		for _, row := range rows {
			page = append(page, Object{Namespace: row.Namespace, Name: row.Name, UID: row.Uid})
		}
		err = failed
	}
	if err != nil {
		return nil, s.failure(err)
	}
	return page, nil
}
