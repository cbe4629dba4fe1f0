// SPDX-License-Identifier: Apache-2.0

package pgstore

import "context"

// MirrorImprovement brings the two rows of an attempt to what is given, and
// returns when that is committed; at once when it has been before. A terminal
// archive row stays as it is, but for completed to rolled_back. It returns
// ErrUnavailable, ErrDeposed or a *RowError.
func (s *Store) MirrorImprovement(ctx context.Context, i Improvement) error {
	r, err := improvementRequest(i)
	if err != nil {
		return err
	}
	return s.mirror(ctx, r)
}

func improvementRequest(i Improvement) (*request, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	all, err := digestOf(i)
	if err != nil {
		return nil, invalidDocument(i.documents(), err)
	}
	what, err := digestOf(archiveContent(i))
	if err != nil {
		return nil, err
	}
	return &request{kind: KindImprovementWorkspace, object: i.Object, improvement: &i, digest: all, content: what}, nil
}

// archiveContent is what P11 protects once the attempt has ended: what the
// archive says of it, but not whose row it is. An ended improvement may still be
// edited where that is no other material, like its priority.
func archiveContent(i Improvement) Improvement {
	return Improvement{
		ImprovementID: i.ImprovementID, ParentID: i.ParentID, Attempt: i.Attempt, MaterialDigest: i.MaterialDigest,
		ConstitutionalHash: i.ConstitutionalHash, Description: i.Description, CreatedBy: i.CreatedBy,
		Timestamp: i.Timestamp, ArchiveStatus: i.ArchiveStatus, OutcomeReason: i.OutcomeReason,
		AlgorithmChanges: i.AlgorithmChanges, PerformanceBefore: i.PerformanceBefore, PerformanceAfter: i.PerformanceAfter,
		ComplianceScore: i.ComplianceScore, ComplianceDetails: i.ComplianceDetails,
		RollbackData: i.RollbackData, Metadata: i.Metadata,
	}
}

// MirrorPolicy brings the rows of a policy's arms to what is given: arms that it
// does not name become tombstones, and what arms have earned stays. Otherwise it
// is as MirrorImprovement.
func (s *Store) MirrorPolicy(ctx context.Context, p Policy) error {
	if err := p.check(); err != nil {
		return err
	}
	all, err := digestOf(p)
	if err != nil {
		return invalidDocument(p.documents(), err)
	}
	return s.mirror(ctx, &request{kind: KindBanditPolicy, object: p.Object, policy: &p, digest: all})
}

func (s *Store) mirror(ctx context.Context, r *request) error {
	sess, err := s.current()
	if err != nil {
		return err
	}
	known, found := s.digests.get(r.kind, r.object.UID)
	if found && known == r.digest && r.snapshot == nil {
		return nil
	}
	// Without a digest the database may hold these very rows: after a restart
	// most do, and are compared instead of written.
	r.changed = found || r.snapshot != nil
	return sess.submit(ctx, r)
}

// Tombstone marks the rows of a name as deleted, but those of keepUID, the
// object that bears the name now; empty means none. An attempt that had not
// ended becomes failed, with outcome_reason ObjectDeleted. Nothing is written when
// nothing is left to mark.
func (s *Store) Tombstone(ctx context.Context, kind Kind, namespace, name, keepUID string) error {
	sess, err := s.current()
	if err != nil {
		return err
	}
	return sess.submit(ctx, &request{
		kind: kind, object: Object{Namespace: namespace, Name: name, UID: keepUID}, tombstone: true,
	})
}
