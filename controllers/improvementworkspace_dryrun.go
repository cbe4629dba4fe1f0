// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/snapshot"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// completeDryRun ends an improvement that shall only show what it would change, and
// what the gates say to that.
func (s *step) completeDryRun(ctx context.Context, plan snapshot.Plan) (lifecycle.Standing, error) {
	canonical, err := plan.Encode()
	if err != nil {
		return lifecycle.Standing{}, classifyPlan(err, "the plan")
	}
	j, err := s.judge(ctx, plan, operationDryRun)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	j.WouldWrite = s.wouldWrite(plan, canonical, j)
	row := s.row(lifecycle.CurrentStanding(s.w))
	row.RollbackPlan = describeRollback(plan)
	if err := s.Store.MirrorImprovement(ctx, row); err != nil {
		return lifecycle.Standing{}, s.classifySave(err)
	}
	if err := s.recordJudgement(ctx, j); err != nil {
		return lifecycle.Standing{}, err
	}
	s.w.Status.Compliance = complianceOf(j)
	s.w.Status.Diff = cutTo(plan.Diff(), maxDiff)
	s.w.Status.CompletedAt = s.now()
	message := "nothing was touched; with mode Apply this would change " + plan.Summary(maxSummary)
	refusal := j.refusal()
	switch {
	case len(plan.Objects) == 0:
		message = "nothing was touched; the live objects are already as this improvement wants them"
	case refusal != nil:
		message = "nothing was touched; with mode Apply this would be refused: " + refusal.Error()
	case lifecycle.NeedsApproval(s.w):
		message += ", once somebody has approved the plan " + plan.BeforeDigest()
	}
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonDryRun, Message: message + ". " + describeJudgement(j)}, nil
}

// wouldWrite are the rows, by table, that applying the plan would write besides
// those that a dry run writes itself.
func (s *step) wouldWrite(plan snapshot.Plan, canonical []byte, j judgement) map[string]any {
	archived, workspace := lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted
	if j.refusal() != nil {
		archived, workspace = lifecycle.ArchiveFailed, lifecycle.WorkspaceFailed
	}
	rows := map[string]any{
		"dgm_archive": map[string]any{
			"status": archived, "description": s.w.Spec.Description, "constitutional_compliance_score": j.Constitution.Score,
		},
		"improvement_workspaces": map[string]any{
			"status": workspace, "target_service": s.w.Spec.Target.Service, "compliance_validated": j.Constitution.Accepted, "rollback_plan": describeRollback(plan),
		},
		"rollback_snapshots":             map[string]any{"sha256": snapshot.Digest(canonical), "plain_size": len(canonical)},
		"constitutional_compliance_logs": map[string]any{"operation_type": operationImprovement, "compliance_level": j.Constitution.Level, "compliance_score": j.Constitution.Score},
	}
	if len(s.w.Spec.Metrics) > 0 && j.refusal() == nil {
		var names []string
		for _, metric := range s.w.Spec.Metrics {
			names = append(names, metric.Name)
		}
		rows["performance_metrics"] = map[string]any{"metric_name": names}
	}
	return rows
}
