// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// reconcileMirror brings the database up to what the cluster says and sets the
// condition DatabaseSynced. A new phase is stored in the cluster first and
// mirrored on the next pass: the database never runs ahead of what is needed to
// act. Only the first phase is mirrored at once: it follows from the spec alone.
func (s *step) reconcileMirror(ctx context.Context) error {
	if s.w.Status.ImprovementID == "" {
		s.setSynced(false, dgmv1alpha1.ReasonDatabaseUnavailable, s.databaseReason(s.Store.Ready()))
		return nil
	}
	if moved(s.before, s.w) {
		s.setSynced(false, dgmv1alpha1.ReasonSyncPending, "the database is brought up to this state next")
		return nil
	}
	err := s.Store.MirrorImprovement(ctx, s.row(lifecycle.CurrentStanding(s.w)))
	if err == nil {
		err = s.buryPredecessor(ctx)
	}
	return s.setMirrored(err)
}

// buryPredecessor marks the rows of an object that bore this name before and
// went unseen. Those that this one has taken over bear its uid by now.
func (s *step) buryPredecessor(ctx context.Context) error {
	_, found := s.replaced.LoadAndDelete(client.ObjectKeyFromObject(s.w))
	if !found && (s.w.Status.Attempt == 1 || apimeta.IsStatusConditionTrue(s.before.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)) {
		return nil
	}
	return s.Store.Tombstone(ctx, pgstore.KindImprovementWorkspace, s.w.Namespace, s.w.Name, string(s.w.UID))
}

// Replaced has the rows of an object that bore an improvement's name before
// marked as deleted, the next time that it is mirrored: a restore of the database
// has brought them back to life.
func (r *ImprovementWorkspaceReconciler) Replaced(key types.NamespacedName) {
	r.replaced.Store(key, struct{}{})
}

func (s *step) setMirrored(err error) error {
	var refused *pgstore.RowError
	switch {
	case err == nil:
		s.setSynced(true, dgmv1alpha1.ReasonSynced, "the database holds this state")
	case errors.Is(err, pgstore.ErrUnavailable):
		if s.knownSynced() {
			return nil
		}
		s.setSynced(false, dgmv1alpha1.ReasonDatabaseUnavailable, s.databaseReason(err))
		s.recheckWithin(lifecycle.FallbackInterval)
	case errors.As(err, &refused):
		s.setSynced(false, dgmv1alpha1.ReasonRowRefused, refused.Error())
	default:
		return err
	}
	return nil
}

// knownSynced reports whether exactly this state was committed before: then it
// stays true while the database is away.
func (s *step) knownSynced() bool {
	synced := apimeta.FindStatusCondition(s.before.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	return apimeta.IsStatusConditionTrue(s.before.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced) &&
		synced.ObservedGeneration == s.w.Generation && equality.Semantic.DeepEqual(s.before.Status, s.w.Status)
}

func (s *step) setSynced(synced bool, reason, message string) {
	lifecycle.SetDatabaseSynced(&s.w.Status.Conditions, s.w.Generation, synced, reason, message)
}

// moved reports whether the improvement has taken a step since it was read.
func moved(before, after *dgmv1alpha1.ImprovementWorkspace) bool {
	if before.Status.Phase == "" || before.Status.ImprovementID == "" {
		return after.Status.Phase != dgmv1alpha1.PhasePending
	}
	return before.Status.Phase != after.Status.Phase || before.Status.ImprovementID != after.Status.ImprovementID
}

// databaseReason is the short reason for which the database takes no writes.
func (s *step) databaseReason(err error) string {
	if err == nil {
		return "the database is being written"
	}
	return strings.TrimPrefix(err.Error(), pgstore.ErrUnavailable.Error()+": ")
}

// archiveMetadata is dgm_archive.metadata.
type archiveMetadata struct {
	Phase              dgmv1alpha1.Phase   `json:"phase"`
	Reason             string              `json:"reason"`
	Message            string              `json:"message"`
	Mode               dgmv1alpha1.Mode    `json:"mode,omitempty"`
	ServiceAccountName string              `json:"serviceAccountName,omitempty"`
	RollbackReason     string              `json:"rollbackReason,omitempty"`
	Verdict            dgmv1alpha1.Verdict `json:"verdict,omitempty"`
	Gain               string              `json:"gain,omitempty"`
	Reward             string              `json:"reward,omitempty"`

	Approval *dgmv1alpha1.ApprovalStatus `json:"approval,omitempty"`
	Kept     *dgmv1alpha1.KeptStatus     `json:"kept,omitempty"`
}

// rollbackData is dgm_archive.rollback_data: what would be put back, for people.
// The exact bytes are elsewhere, under the same digest.
type rollbackData struct {
	Snapshot *dgmv1alpha1.SnapshotStatus `json:"snapshot"`
	Diff     string                      `json:"diff"`
}

// row is the improvement as the database holds it. It follows from the object
// alone, so that an unchanged object gives an unchanged row. Of an attempt whose
// spec is edited for the next one already, what was to change is left as the
// database has it.
func (s *step) row(standing lifecycle.Standing) pgstore.Improvement {
	w := s.w
	wasCompleted := w.Status.KeptAt != nil
	archive, workspace := lifecycle.RowStatus(w.Status.Phase, wasCompleted)
	row := pgstore.Improvement{
		Object:          pgstore.Object{Namespace: w.Namespace, Name: w.Name, UID: string(w.UID), Generation: w.Generation},
		ImprovementID:   parseID(w.Status.ImprovementID).UUID,
		ParentID:        parseID(w.Status.ParentImprovementID),
		Attempt:         w.Status.Attempt,
		MaterialDigest:  w.Status.MaterialDigest,
		ArchiveStatus:   archive,
		WorkspaceStatus: workspace,
		CreatedBy:       createdBy(w),
		Priority:        string(w.Spec.Priority),
	}
	metadata := archiveMetadata{
		Phase: standing.Phase, Reason: standing.Reason, Message: standing.Message, RollbackReason: w.Status.RollbackReason,
		Verdict: w.Status.Verdict, Gain: w.Status.Gain, Reward: w.Status.Reward,
		Approval: w.Status.Approval, Kept: w.Status.Kept,
	}
	if c := w.Status.Compliance; c != nil {
		row.ComplianceScore, row.ComplianceDetails = c.ExactScore, mustJSON(c)
		row.ComplianceValidated = c.Accepted != nil && *c.Accepted
	}
	if w.Status.MaterialDigest == lifecycle.MaterialDigest(&w.Spec) {
		metadata.Mode, metadata.ServiceAccountName = w.Spec.Mode, w.Spec.ServiceAccountName
		row.Description, row.AlgorithmChanges = w.Spec.Description, mustJSON(w.Spec.Changes)
		row.TargetService, row.ImprovementType = w.Spec.Target.Service, string(w.Spec.Type)
		row.Configuration = mustJSON(w.Spec)
	}
	row.Metadata = mustJSON(metadata)
	row.PerformanceBefore, row.PerformanceAfter = performance(&w.Status)
	if w.Status.StartedAt != nil {
		row.Timestamp = w.Status.StartedAt.UTC()
	}
	if w.Status.Phase.IsTerminal() {
		row.OutcomeReason = standing.Reason
		if w.Status.CompletedAt != nil {
			completed := w.Status.CompletedAt.UTC()
			row.CompletedAt = &completed
		}
	}
	if w.Status.Snapshot != nil || w.Status.Diff != "" {
		row.RollbackData = mustJSON(rollbackData{Snapshot: w.Status.Snapshot, Diff: w.Status.Diff})
	}
	return row
}

// editedAfterEnd reports whether the spec is that of the next attempt.
func editedAfterEnd(w *dgmv1alpha1.ImprovementWorkspace) bool {
	return w.Status.Phase.IsTerminal() && w.Status.MaterialDigest != lifecycle.MaterialDigest(&w.Spec)
}

func createdBy(w *dgmv1alpha1.ImprovementWorkspace) string {
	if user := w.Annotations[dgmv1alpha1.AnnotationCreatedBy]; user != "" {
		return user
	}
	return "unknown"
}

func parseID(id string) uuid.NullUUID {
	parsed, err := uuid.Parse(id)
	return uuid.NullUUID{UUID: parsed, Valid: err == nil}
}

// mustJSON encodes values of the API's own types, which cannot fail.
func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}
