// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/constitution"
	"github.com/acgs/dgm-operator/internal/expression"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/safety"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// What an assessment is of, as constitutional_compliance_logs.operation_type names it.
const (
	operationImprovement = "improvement"
	operationDryRun      = "improvement_dry_run"
)

// assessor is who judged, as constitutional_compliance_logs.assessor_id names it.
const assessor = "dgm-operator"

// judgement is what the gates say of a plan; improvement_workspaces.validation_results.
type judgement struct {
	Operation      string               `json:"operation"`
	PlanDigest     string               `json:"planDigest"`
	SnapshotDigest string               `json:"snapshotDigest,omitempty"`
	SafetyChecks   []safety.Result      `json:"safetyChecks"`
	Risk           safety.Risk          `json:"risk"`
	Constitution   constitution.Verdict `json:"constitution"`
	Approval       string               `json:"approval"`
	// WouldWrite are, for a dry run, the rows that applying would write.
	WouldWrite map[string]any `json:"wouldWrite,omitempty"`
}

// judge asks the gates about a plan. Its error is the answer that there is none:
// then nothing is applied (P7).
func (s *step) judge(ctx context.Context, plan snapshot.Plan, operation string) (judgement, error) {
	governing, err := s.governing(ctx)
	if err != nil {
		return judgement{}, err
	}
	facts, err := s.facts(ctx, plan, operation)
	if err != nil {
		return judgement{}, err
	}
	current := s.Store.Settings()
	j := judgement{
		Operation: operation, PlanDigest: plan.BeforeDigest(), Approval: string(s.w.Spec.ApprovalPolicy()),
		SafetyChecks: safety.Evaluate(ctx, &s.w.Spec, facts, operation == operationImprovement),
		Risk:         safety.AssessRisk(&s.w.Spec, dgmv1alpha1.RiskLevel(current.RiskLimit), governing.RiskLimit, governing.Hash),
	}
	if s.w.Status.Snapshot != nil {
		j.SnapshotDigest = s.w.Status.Snapshot.Digest
	}
	if j.Constitution, err = governing.Judge(ctx, facts, current.ComplianceThreshold); err != nil {
		return judgement{}, fail(dgmv1alpha1.ReasonNoVerdict, "%v: nothing is applied without a verdict; change less at a time, and if that does not help, report it", err)
	}
	return j, nil
}

// refusal is why a plan may not be applied; nil when it may.
func (j judgement) refusal() error {
	if err := safety.Refusal(j.SafetyChecks); err != nil {
		return fail(dgmv1alpha1.ReasonSafetyCheckFailed, "%v", err)
	}
	if err := j.Risk.Refusal(); err != nil {
		return fail(dgmv1alpha1.ReasonRiskTooHigh, "%v", err)
	}
	if !j.Constitution.Accepted {
		return fail(dgmv1alpha1.ReasonConstitutionViolated, "constitution %s: %s. %s", j.Constitution.Hash, j.Constitution.Summary(), j.Constitution.Advice())
	}
	return nil
}

// governing is the constitution that judges: the one that is active in the
// database, and that the author means.
func (s *step) governing(ctx context.Context) (*constitution.Constitution, error) {
	active, err := s.Store.ActiveConstitution(ctx)
	switch {
	case errors.Is(err, pgstore.ErrDeposed):
		return nil, err
	case errors.Is(err, pgstore.ErrUnavailable):
		return nil, &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "it is judged when the database is back: " + s.databaseReason(err),
		}
	case err != nil:
		return nil, &pause{reason: dgmv1alpha1.ReasonConstitutionMismatch, recheck: lifecycle.RecheckInterval, message: "nothing is applied: " + err.Error()}
	}
	shipped, err := constitution.Default()
	if err != nil {
		return nil, err
	}
	if ref := s.w.Spec.ConstitutionRef; ref != nil {
		if ref.Name != "" && ref.Name != "default" {
			return nil, fail(dgmv1alpha1.ReasonConstitutionMismatch, "there is no constitution %s: set spec.constitutionRef.name to default", ref.Name)
		}
		if ref.ExpectedHash != "" && ref.ExpectedHash != active.Hash {
			return nil, fail(dgmv1alpha1.ReasonConstitutionMismatch,
				"its author means the constitution %s, and %s is the active one: read that, then correct or remove spec.constitutionRef.expectedHash", ref.ExpectedHash, active.Hash)
		}
	}
	if active.Hash != shipped.Hash {
		return nil, &pause{
			reason: dgmv1alpha1.ReasonConstitutionMismatch, recheck: lifecycle.RecheckInterval,
			message: fmt.Sprintf("nothing is applied: the active constitution of the database is %s, of which this operator knows no principles; it knows %s (dgm.known_constitutions)", active.Hash, shipped.Hash),
		}
	}
	return shipped, nil
}

// facts are what the expressions see.
func (s *step) facts(ctx context.Context, plan snapshot.Plan, operation string) (expression.Facts, error) {
	evidence := expression.Evidence{Spec: &s.w.Spec, Plan: plan, Unchanged: map[string]map[string]any{}}
	target, err := s.get(ctx, s.w.Spec.Target.Ref)
	if err != nil {
		return nil, gone(err)
	}
	evidence.Target = target.Object
	planned := map[string]bool{}
	for _, object := range plan.Objects {
		planned[object.Change] = true
	}
	for _, change := range s.w.Spec.Changes {
		if planned[change.Name] {
			continue
		}
		object, err := s.get(ctx, change.TargetRef)
		if err != nil {
			return nil, gone(err)
		}
		evidence.Unchanged[change.Name] = object.Object
	}
	if operation == operationImprovement {
		if evidence.Tests, err = s.testsForJudging(ctx); err != nil {
			return nil, err
		}
	}
	facts, err := expression.NewFacts(evidence)
	if err != nil {
		return nil, fail(dgmv1alpha1.ReasonNoVerdict, "the plan cannot be judged: %v", err)
	}
	return facts, nil
}

// testsForJudging are how the tests went: from status, with the results that the
// database has.
func (s *step) testsForJudging(ctx context.Context) (map[string]expression.TestResult, error) {
	if len(s.w.Status.Tests) == 0 {
		return nil, nil
	}
	stored, err := s.Store.TestResults(ctx, parseID(s.w.Status.ImprovementID).UUID)
	if errors.Is(err, pgstore.ErrUnavailable) {
		return nil, &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "the results of the tests are read when the database is back: " + s.databaseReason(err),
		}
	}
	if err != nil {
		return nil, err
	}
	tests := make(map[string]expression.TestResult, len(s.w.Status.Tests))
	for _, test := range s.w.Status.Tests {
		// A test that wrote none has none: an expression that looks at them errs.
		results, _ := resultsOf(stored, test.Name)
		tests[test.Name] = expression.TestResult{Outcome: test.Outcome, ExitCode: test.ExitCode, Results: results}
	}
	return tests, nil
}

// recordJudgement commits what the gates say, once, before the phase goes on.
func (s *step) recordJudgement(ctx context.Context, j judgement) error {
	row := s.row(lifecycle.CurrentStanding(s.w))
	row.ValidationResults, row.SafetyChecks, row.RiskAssessment = mustJSON(j), mustJSON(j.SafetyChecks), mustJSON(j.Risk)
	err := s.Store.MirrorImprovement(ctx, row)
	if err == nil {
		err = s.Store.SaveAssessment(ctx, s.assessment(j))
	}
	var refused *pgstore.RowError
	switch {
	case errors.Is(err, pgstore.ErrUnavailable):
		return &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "the verdict is stored when the database is back: " + s.databaseReason(err),
		}
	case errors.As(err, &refused):
		return fail(dgmv1alpha1.ReasonRowRefused, "%v", err)
	}
	return err
}

// assessment is the verdict as the database keeps it. Its id follows from what it
// says, so that the same verdict after a crash is no other one.
func (s *step) assessment(j judgement) pgstore.Assessment {
	id := parseID(s.w.Status.ImprovementID).UUID
	status := pgstore.AssessmentCompleted
	if j.refusal() == nil && j.Operation == operationImprovement && lifecycle.NeedsApproval(s.judged(j)) {
		status = pgstore.AssessmentRequiresReview
	}
	return pgstore.Assessment{
		Object: pgstore.Object{Namespace: s.w.Namespace, Name: s.w.Name, UID: string(s.w.UID), Generation: s.w.Generation},
		ID:     uuid.NewSHA1(id, mustJSON(j)), ImprovementID: id, ServiceName: s.w.Spec.Target.Service, OperationType: j.Operation,
		Level: string(j.Constitution.Level), Score: j.Constitution.ExactScore, Status: status,
		Version: j.Constitution.Version, Hash: j.Constitution.Hash,
		Violations: mustJSON(j.Constitution.Violations), Recommendations: mustJSON(j.Constitution.Recommendations), Evidence: mustJSON(j),
		AssessorID: assessor, AssessedAt: s.Clock.Now().UTC(),
	}
}

// judged is the improvement as it is once a judgement is in its status.
func (s *step) judged(j judgement) *dgmv1alpha1.ImprovementWorkspace {
	judged := &dgmv1alpha1.ImprovementWorkspace{Spec: s.w.Spec}
	judged.Status.Compliance = complianceOf(j)
	return judged
}

func complianceOf(j judgement) *dgmv1alpha1.ComplianceStatus {
	v := j.Constitution
	return &dgmv1alpha1.ComplianceStatus{
		Score: v.Score, ExactScore: v.ExactScore, Level: string(v.Level), Hash: v.Hash, Accepted: new(v.Accepted), Violations: v.Violated(),
	}
}

// describeJudgement is what the gates say in one line.
func describeJudgement(j judgement) string {
	var said []string
	for _, check := range j.SafetyChecks {
		said = append(said, fmt.Sprintf("%s: %s", check.Name, check.Outcome))
	}
	checks := "none"
	if len(said) > 0 {
		checks = strings.Join(said, ", ")
	}
	return fmt.Sprintf("constitution %s; risk %s of at most %s; safety checks: %s", j.Constitution.Summary(), j.Risk.Level, j.Risk.Limit, cutTo(checks, maxSummary))
}

// announceJudgement tells what the constitution said, once.
func (s *step) announceJudgement(ctx context.Context) {
	judged := s.w.Status.Compliance
	if judged == nil || s.before.Status.Compliance != nil {
		return
	}
	kind := corev1.EventTypeNormal
	if judged.Accepted == nil || !*judged.Accepted {
		kind = corev1.EventTypeWarning
	}
	s.Events.Write(ctx, s.w, kind, dgmv1alpha1.ReasonJudged, "Judge", fmt.Sprintf("constitution %s: score %s (%s)%s",
		judged.Hash, judged.ExactScore, judged.Level, because(strings.Join(judged.Violations, ", "))))
}
