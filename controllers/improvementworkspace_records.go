// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/constitution"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/sandbox"
)

// fromStatus marks what was written again after a restore of the database.
const fromStatus = "written again from the object's status, after the database had lost it"

// RecordsLost has the verdict and the tests of an improvement written again from
// its status, the next time that it is reconciled (P3).
func (r *ImprovementWorkspaceReconciler) RecordsLost(key types.NamespacedName) {
	r.lostRecords.Store(key, struct{}{})
}

// restoreLostRecords writes again what the database has lost, as far as status
// knows it. What the database refuses is left.
func (s *step) restoreLostRecords(ctx context.Context) error {
	key := client.ObjectKeyFromObject(s.w)
	if _, lost := s.lostRecords.LoadAndDelete(key); !lost || s.w.Status.ImprovementID == "" {
		return nil
	}
	err := s.restoreTests(ctx)
	if err == nil {
		err = s.restoreVerdict(ctx)
	}
	var refused *pgstore.RowError
	if errors.As(err, &refused) || errors.Is(err, pgstore.ErrUnavailable) {
		return nil // when the database is back, they are looked for again
	}
	if err != nil {
		s.RecordsLost(key)
	}
	return err
}

// restoreTests brings the improvement's own rows up to date, and with them the
// tests that are not there.
func (s *step) restoreTests(ctx context.Context) error {
	row := s.row(lifecycle.CurrentStanding(s.w))
	ended := endedTests(&s.w.Status)
	if len(ended) > 0 {
		all, err := s.recordedTests(ctx)
		if err != nil {
			return err
		}
		if s.w.Status.Sandbox != nil {
			all.Sandbox.Namespace = s.w.Status.Sandbox.Namespace
		}
		for _, test := range ended {
			if _, known := all.Tests[test.Name]; !known {
				all.Tests[test.Name] = sandbox.TestRecord{
					Outcome: test.Outcome, ExitCode: test.ExitCode, Tries: test.Tries, StartedAt: test.StartedAt, EndedAt: test.EndedAt, Message: fromStatus,
				}
			}
		}
		row.TestResults = mustJSON(all)
	}
	return s.Store.MirrorImprovement(ctx, row)
}

func endedTests(status *dgmv1alpha1.ImprovementWorkspaceStatus) []dgmv1alpha1.TestStatus {
	var ended []dgmv1alpha1.TestStatus
	for _, test := range status.Tests {
		if test.Outcome != dgmv1alpha1.TestRunning {
			ended = append(ended, test)
		}
	}
	return ended
}

// restoreVerdict writes what status knows of the verdict, if there is none.
func (s *step) restoreVerdict(ctx context.Context) error {
	id := parseID(s.w.Status.ImprovementID).UUID
	judged := s.w.Status.Compliance
	if judged == nil {
		return nil
	}
	missing, err := s.Store.WithoutRecords(ctx, []pgstore.Recorded{{ImprovementID: id, Judged: true}})
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := s.Store.SaveAssessment(ctx, s.knownAssessment(id, judged)); err != nil {
		return err
	}
	switch approval := s.w.Status.Approval; {
	case approval != nil && approval.ApprovedAt != nil:
		return s.Store.ReviewAssessments(ctx, id, &approval.ApprovedAt.Time)
	case s.w.Status.Phase == dgmv1alpha1.PhaseAwaitingApproval:
		return nil
	default:
		return s.Store.ReviewAssessments(ctx, id, nil)
	}
}

// knownAssessment is a verdict as status has it: without the evidence, and dated
// with the attempt's start.
func (s *step) knownAssessment(id uuid.UUID, judged *dgmv1alpha1.ComplianceStatus) pgstore.Assessment {
	operation, version, status := operationImprovement, "", pgstore.AssessmentCompleted
	if lifecycle.CurrentStanding(s.w).Reason == dgmv1alpha1.ReasonDryRun {
		operation = operationDryRun
	}
	if lifecycle.NeedsApproval(s.w) {
		status = pgstore.AssessmentRequiresReview
	}
	if shipped, err := constitution.Default(); err == nil && shipped.Hash == judged.Hash {
		version = shipped.Version
	}
	violations := make([]constitution.Violation, len(judged.Violations))
	for i, principle := range judged.Violations {
		violations[i] = constitution.Violation{Principle: principle, Message: fromStatus}
	}
	assessed := s.Clock.Now().UTC()
	if s.w.Status.StartedAt != nil {
		assessed = s.w.Status.StartedAt.UTC()
	}
	return pgstore.Assessment{
		Object: pgstore.Object{Namespace: s.w.Namespace, Name: s.w.Name, UID: string(s.w.UID), Generation: s.w.Generation},
		ID:     uuid.NewSHA1(id, []byte(fromStatus)), ImprovementID: id, ServiceName: s.w.Spec.Target.Service, OperationType: operation,
		Level: judged.Level, Score: judged.ExactScore, Status: status, Version: version, Hash: judged.Hash,
		Violations: mustJSON(violations), Evidence: mustJSON(map[string]string{"note": fromStatus}),
		AssessorID: assessor, AssessedAt: assessed,
	}
}
