// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
	"github.com/acgs/dgm-operator/internal/settings"
)

// Status of an assessment, as constitutional_compliance_logs names them.
const (
	AssessmentCompleted      = "completed"
	AssessmentRequiresReview = "requires_review"
)

// Assessment is a verdict on one attempt: a row of constitutional_compliance_logs.
type Assessment struct {
	Object

	// ID is the verdict's own: the same verdict again is not written again.
	ID            uuid.UUID
	ImprovementID uuid.UUID
	ServiceName   string
	OperationType string
	Level         string
	Score         string // decimal in [0,1], with all digits
	// Status is AssessmentCompleted, or AssessmentRequiresReview when a person has
	// to agree.
	Status string
	// Version and Hash are those of the constitution that judged.
	Version, Hash   string
	Violations      json.RawMessage
	Recommendations json.RawMessage
	Evidence        json.RawMessage
	AssessorID      string
	AssessedAt      time.Time
}

// Constitution is the one that is active in the database.
type Constitution struct {
	Hash, Version string
}

// SaveAssessment commits a verdict, once (P3). The improvement's own rows must be
// there. It returns ErrUnavailable, ErrDeposed or a *RowError.
func (s *Store) SaveAssessment(ctx context.Context, a Assessment) error {
	return s.write(ctx, func(ctx context.Context, sess *session, q *dbsql.Queries) error {
		_, err := q.InsertAssessment(ctx, dbsql.InsertAssessmentParams{
			ID: a.ID, ImprovementID: a.ImprovementID, ServiceName: escapeText(a.ServiceName), OperationType: a.OperationType,
			ComplianceLevel: a.Level, ComplianceScore: a.Score, Status: a.Status,
			ConstitutionalVersion: a.Version, ConstitutionalHash: a.Hash,
			Violations: escapeJSON(a.Violations), Recommendations: escapeJSON(a.Recommendations), Evidence: escapeJSON(a.Evidence),
			AssessorID: escapeText(a.AssessorID), ReviewRequired: a.Status == AssessmentRequiresReview, AssessedAt: timestamp(&a.AssessedAt),
			Cluster: sess.cluster, Namespace: escapeText(a.Namespace), Name: escapeText(a.Name), Uid: escapeText(a.UID),
			Generation: a.Generation, WriterEpoch: sess.fence.epoch, Revision: s.revision.Add(1),
		})
		return err
	})
}

// ReviewAssessments notes when a person has agreed to what an attempt's verdicts
// asked for; nil means that the attempt has ended without.
func (s *Store) ReviewAssessments(ctx context.Context, improvementID uuid.UUID, at *time.Time) error {
	return s.write(ctx, func(ctx context.Context, sess *session, q *dbsql.Queries) error {
		_, err := q.ReviewAssessments(ctx, dbsql.ReviewAssessmentsParams{
			ReviewedAt: timestamp(at), ImprovementID: improvementID, Cluster: sess.cluster,
			WriterEpoch: sess.fence.epoch, Revision: s.revision.Add(1),
		})
		return err
	})
}

// Recorded is what the object of an attempt tells of its records.
type Recorded struct {
	ImprovementID uuid.UUID
	// Judged: there was a verdict.
	Judged bool
	// Tests is how many tests have ended.
	Tests int
}

// WithoutRecords returns those of the attempts whose verdict or tests are not
// stored: a restore of the database has lost them. It returns ErrUnavailable.
func (s *Store) WithoutRecords(ctx context.Context, told []Recorded) ([]uuid.UUID, error) {
	var p dbsql.WithoutRecordsParams
	for _, r := range told {
		p.ImprovementIds, p.Judged, p.Tests = append(p.ImprovementIds, r.ImprovementID), append(p.Judged, r.Judged), append(p.Tests, int32(r.Tests)) //nolint:gosec // at most 16
	}
	return ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]uuid.UUID, error) { return q.WithoutRecords(ctx, p) })
}

// write commits what do writes under the fence, again where others were in the way.
func (s *Store) write(ctx context.Context, do func(context.Context, *session, *dbsql.Queries) error) error {
	sess, err := s.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	deadline := time.Now().Add(retryFor)
	for wait := retryFirst; ; wait = min(2*wait, retrySlowest) {
		err := sess.transaction(ctx, func(tx pgx.Tx) error { return do(ctx, sess, dbsql.New(tx)) })
		if err != nil && isContention(err) && time.Now().Add(wait).Before(deadline) {
			time.Sleep(wait)
			continue
		}
		return s.configurationError(err)
	}
}

// ActiveConstitution is the constitution that is active now. An error that is not
// ErrUnavailable or ErrDeposed says that there is none.
func (s *Store) ActiveConstitution(ctx context.Context) (Constitution, error) {
	row, err := ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) (dbsql.ActiveConstitutionRow, error) {
		row, err := q.ActiveConstitution(ctx)
		if errors.Is(err, pgx.ErrNoRows) {
			return row, nil
		}
		return row, err
	})
	if err == nil && row.Hash == "" {
		err = errNoConstitution
	}
	return Constitution(row), err
}

// Frozen reads past the settings in memory who freezes every cluster; empty means
// nobody.
func (s *Store) Frozen(ctx context.Context) (by string, err error) {
	return ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) (string, error) {
		row, err := q.Freeze(ctx, settings.Freeze)
		since := row.UpdatedAt.Time.UTC().Format(time.RFC3339)
		switch {
		case errors.Is(err, pgx.ErrNoRows) || (err == nil && row.Value == "false"):
			return "", nil
		case err != nil:
			return "", err
		case row.Name != "":
			return fmt.Sprintf("the SystemConfiguration %s of cluster %s, since %s", Unescape(row.Name), Unescape(row.Cluster), since), nil
		default:
			return fmt.Sprintf("the row %s of dgm.system_configurations, since %s", settings.Freeze, since), nil
		}
	})
}
