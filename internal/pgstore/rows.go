// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// newID is time-ordered, so that index pages fill one after the other.
func newID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.New()
	}
	return id
}

func timestamp(t *time.Time) pgtype.Timestamptz {
	if t == nil || t.IsZero() {
		return pgtype.Timestamptz{}
	}
	return pgtype.Timestamptz{Time: t.UTC(), Valid: true}
}

func nullableID(id uuid.NullUUID) string {
	if !id.Valid {
		return ""
	}
	return id.UUID.String()
}

// sortImprovements fixes the order in which rows are locked.
func sortImprovements(requests []*request) {
	slices.SortFunc(requests, func(a, b *request) int {
		return slices.Compare(a.improvement.ImprovementID[:], b.improvement.ImprovementID[:])
	})
}

func (s *session) archiveRows(requests []*request) dbsql.UpsertArchiveParams {
	p := dbsql.UpsertArchiveParams{Cluster: s.cluster, WriterEpoch: s.fence.epoch}
	for _, r := range requests {
		i := r.improvement
		p.Ids = append(p.Ids, newID())
		p.ImprovementIds = append(p.ImprovementIds, i.ImprovementID)
		p.ParentImprovementIds = append(p.ParentImprovementIds, nullableID(i.ParentID))
		p.Attempts = append(p.Attempts, i.Attempt)
		p.MaterialDigests = append(p.MaterialDigests, escapeText(i.MaterialDigest))
		p.Timestamps = append(p.Timestamps, timestamp(&i.Timestamp))
		p.Descriptions = append(p.Descriptions, escapeText(i.Description))
		p.AlgorithmChangesDocs = append(p.AlgorithmChangesDocs, escapeJSON(i.AlgorithmChanges))
		p.PerformanceBeforeDocs = append(p.PerformanceBeforeDocs, escapeJSON(i.PerformanceBefore))
		p.PerformanceAfterDocs = append(p.PerformanceAfterDocs, escapeJSON(i.PerformanceAfter))
		p.ConstitutionalComplianceScores = append(p.ConstitutionalComplianceScores, escapeText(i.ComplianceScore))
		p.ComplianceDetailsDocs = append(p.ComplianceDetailsDocs, escapeJSON(i.ComplianceDetails))
		p.Statuses = append(p.Statuses, escapeText(i.ArchiveStatus))
		p.OutcomeReasons = append(p.OutcomeReasons, escapeText(i.OutcomeReason))
		p.RollbackDataDocs = append(p.RollbackDataDocs, escapeJSON(i.RollbackData))
		p.MetadataDocs = append(p.MetadataDocs, escapeJSON(i.Metadata))
		p.CreatedBys = append(p.CreatedBys, escapeText(i.CreatedBy))
		p.ContentDigests = append(p.ContentDigests, r.content[:])
		p.Namespaces = append(p.Namespaces, escapeText(i.Namespace))
		p.Names = append(p.Names, escapeText(i.Name))
		p.Uids = append(p.Uids, escapeText(i.UID))
		p.Generations = append(p.Generations, i.Generation)
		p.Revisions = append(p.Revisions, r.revision)
		p.ConstitutionalHashes = append(p.ConstitutionalHashes, escapeText(i.ConstitutionalHash))
	}
	return p
}

func (s *session) workspaceRows(requests []*request) dbsql.UpsertWorkspacesParams {
	p := dbsql.UpsertWorkspacesParams{Cluster: s.cluster, WriterEpoch: s.fence.epoch}
	for _, r := range requests {
		i := r.improvement
		p.Ids = append(p.Ids, newID())
		p.ImprovementIds = append(p.ImprovementIds, i.ImprovementID)
		p.Descriptions = append(p.Descriptions, escapeText(i.Description))
		p.Statuses = append(p.Statuses, escapeText(i.WorkspaceStatus))
		p.TargetServices = append(p.TargetServices, escapeText(i.TargetService))
		p.ImprovementTypes = append(p.ImprovementTypes, escapeText(i.ImprovementType))
		p.Prioritys = append(p.Prioritys, escapeText(i.Priority))
		p.SourceCodeDocs = append(p.SourceCodeDocs, escapeJSON(i.SourceCode))
		p.ConfigurationDocs = append(p.ConfigurationDocs, escapeJSON(i.Configuration))
		p.TestResultsDocs = append(p.TestResultsDocs, escapeJSON(i.TestResults))
		p.ValidationResultsDocs = append(p.ValidationResultsDocs, escapeJSON(i.ValidationResults))
		p.EnvironmentSnapshotDocs = append(p.EnvironmentSnapshotDocs, escapeJSON(i.EnvironmentSnapshot))
		p.DependenciesDocs = append(p.DependenciesDocs, escapeJSON(i.Dependencies))
		p.RollbackPlanDocs = append(p.RollbackPlanDocs, escapeJSON(i.RollbackPlan))
		p.SafetyChecksDocs = append(p.SafetyChecksDocs, escapeJSON(i.SafetyChecks))
		p.RiskAssessmentDocs = append(p.RiskAssessmentDocs, escapeJSON(i.RiskAssessment))
		p.ComplianceValidated = append(p.ComplianceValidated, i.ComplianceValidated)
		p.CreatedBys = append(p.CreatedBys, escapeText(i.CreatedBy))
		p.AssignedTos = append(p.AssignedTos, escapeText(i.AssignedTo))
		p.CompletedAts = append(p.CompletedAts, timestamp(i.CompletedAt))
		p.Namespaces = append(p.Namespaces, escapeText(i.Namespace))
		p.Names = append(p.Names, escapeText(i.Name))
		p.Uids = append(p.Uids, escapeText(i.UID))
		p.Generations = append(p.Generations, i.Generation)
		p.Revisions = append(p.Revisions, r.revision)
		p.ConstitutionalHashes = append(p.ConstitutionalHashes, escapeText(i.ConstitutionalHash))
	}
	return p
}

// armRow is one row of bandit_states to be.
type armRow struct {
	request *request
	arm     *BanditArm
}

// armsOf lists all arms of some policies, in the order in which rows are locked.
func armsOf(requests []*request) []armRow {
	var rows []armRow
	for _, r := range requests {
		for i := range r.policy.Arms {
			rows = append(rows, armRow{request: r, arm: &r.policy.Arms[i]})
		}
	}
	slices.SortFunc(rows, func(a, b armRow) int {
		if c := strings.Compare(a.arm.ContextKey, b.arm.ContextKey); c != 0 {
			return c
		}
		if c := strings.Compare(a.arm.ArmID, b.arm.ArmID); c != 0 {
			return c
		}
		return strings.Compare(a.arm.AlgorithmType, b.arm.AlgorithmType)
	})
	return rows
}

func (s *session) armRows(requests []*request) dbsql.UpsertArmsParams {
	p := dbsql.UpsertArmsParams{Cluster: s.cluster, WriterEpoch: s.fence.epoch}
	for _, row := range armsOf(requests) {
		r, a := row.request, row.arm
		p.Ids = append(p.Ids, newID())
		p.AlgorithmTypes = append(p.AlgorithmTypes, escapeText(a.AlgorithmType))
		p.ContextKeys = append(p.ContextKeys, escapeText(a.ContextKey))
		p.ArmIds = append(p.ArmIds, escapeText(a.ArmID))
		p.Epsilons = append(p.Epsilons, escapeText(a.Epsilon))
		p.Alphas = append(p.Alphas, escapeText(a.Alpha))
		p.Betas = append(p.Betas, escapeText(a.Beta))
		p.SafetyThresholds = append(p.SafetyThresholds, escapeText(a.SafetyThreshold))
		p.RiskTolerances = append(p.RiskTolerances, escapeText(a.RiskTolerance))
		p.AlgorithmStateDocs = append(p.AlgorithmStateDocs, escapeJSON(a.AlgorithmState))
		p.ExplorationDataDocs = append(p.ExplorationDataDocs, escapeJSON(a.ExplorationData))
		p.Namespaces = append(p.Namespaces, escapeText(r.object.Namespace))
		p.Names = append(p.Names, escapeText(r.object.Name))
		p.Uids = append(p.Uids, escapeText(r.object.UID))
		p.Generations = append(p.Generations, r.object.Generation)
		p.Revisions = append(p.Revisions, r.revision)
		p.ConstitutionalHashes = append(p.ConstitutionalHashes, escapeText(r.policy.ConstitutionalHash))
	}
	return p
}

// names lists the names and the uids that stay of some deletions.
func names(requests []*request) (namespaces, objects, keepUIDs []string) {
	for _, r := range requests {
		namespaces = append(namespaces, escapeText(r.object.Namespace))
		objects = append(objects, escapeText(r.object.Name))
		keepUIDs = append(keepUIDs, escapeText(r.object.UID))
	}
	return namespaces, objects, keepUIDs
}

func uids(requests []*request) []string {
	var out []string
	for _, r := range requests {
		out = append(out, escapeText(r.object.UID))
	}
	return out
}

func improvementIDs(requests []*request) []uuid.UUID {
	var out []uuid.UUID
	for _, r := range requests {
		out = append(out, r.improvement.ImprovementID)
	}
	return out
}
