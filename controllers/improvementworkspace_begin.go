// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/sandbox"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// begin gives an object without status its identity, or that of the attempt
// in the archive that it goes on with.
func (s *step) begin(ctx context.Context) (lifecycle.Standing, error) {
	newest, err := s.newestAttempt(ctx)
	if errors.Is(err, pgstore.ErrUnavailable) {
		return lifecycle.Standing{}, s.archiveUnavailable(err)
	}
	if err != nil {
		return lifecycle.Standing{}, err
	}
	s.w.Status.MaterialDigest = lifecycle.MaterialDigest(&s.w.Spec)
	s.w.Status.LastHandled = lifecycle.HandleAll(s.w)
	beginning, attempt := lifecycle.Begin(string(s.w.UID), s.w.Status.MaterialDigest, archived(newest))
	switch beginning {
	case lifecycle.BeginAdopt:
		return s.adopt(ctx, newest)
	case lifecycle.BeginRollBack:
		return s.undoLost(ctx, newest)
	case lifecycle.BeginResume:
		s.identify(newest.ImprovementID, attempt, newest.ParentID)
		s.w.Status.StartedAt = &metav1.Time{Time: newest.Timestamp.UTC()}
	default:
		var parent uuid.NullUUID
		if newest != nil {
			parent = uuid.NullUUID{UUID: newest.ImprovementID, Valid: true}
		}
		s.beginAttempt(attempt, parent)
	}
	s.w.Status.Phase = dgmv1alpha1.PhasePending
	return lifecycle.Standing{Phase: dgmv1alpha1.PhasePending, Reason: dgmv1alpha1.ReasonAccepted}, nil
}

func (s *step) archiveUnavailable(err error) error {
	return &pause{
		reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
		message: "whether this improvement has been made before is in the archive: " + s.databaseReason(err),
	}
}

// newestAttempt is what the archive has of this name, up to date.
func (s *step) newestAttempt(ctx context.Context) (*pgstore.Attempt, error) {
	if err := s.Outbox.Drain(ctx, s.Store); err != nil {
		return nil, err
	}
	return s.Store.NewestAttempt(ctx, s.w.Namespace, s.w.Name)
}

// beginAttempt resets the status for an attempt of the material as it is now.
func (s *step) beginAttempt(attempt int32, parent uuid.NullUUID) {
	digest := lifecycle.MaterialDigest(&s.w.Spec)
	s.w.Status = dgmv1alpha1.ImprovementWorkspaceStatus{
		Conditions:     s.w.Status.Conditions,
		LastHandled:    s.w.Status.LastHandled,
		MaterialDigest: digest,
		StartedAt:      s.startTime(attempt),
		Phase:          dgmv1alpha1.PhasePending,
	}
	s.w.Status.LastHandled.Approve = lifecycle.HandleAll(s.w).Approve
	for _, outdated := range []string{dgmv1alpha1.ConditionEffective, dgmv1alpha1.ConditionRollbackRefused} {
		meta.RemoveStatusCondition(&s.w.Status.Conditions, outdated)
	}
	s.identify(lifecycle.ImprovementID(s.ClusterName, s.w.Namespace, s.w.Name, digest, attempt), attempt, parent)
}

// startTime is when an attempt was accepted. The first one counts from the
// object's creation, which is the same after a crash.
func (s *step) startTime(attempt int32) *metav1.Time {
	if attempt == 1 {
		return s.w.CreationTimestamp.DeepCopy()
	}
	return s.now()
}

func (s *step) identify(id uuid.UUID, attempt int32, parent uuid.NullUUID) {
	s.w.Status.ImprovementID = id.String()
	s.w.Status.Attempt = attempt
	if parent.Valid {
		s.w.Status.ParentImprovementID = parent.UUID.String()
	}
}

// adopt takes over the outcome of an attempt that has ended: a rebuilt cluster
// or a GitOps re-sync does not run it again.
func (s *step) adopt(ctx context.Context, newest *pgstore.Attempt) (lifecycle.Standing, error) {
	s.identify(newest.ImprovementID, newest.Attempt, newest.ParentID)
	s.w.Status.StartedAt = &metav1.Time{Time: newest.Timestamp.UTC()}
	if newest.CompletedAt != nil {
		s.w.Status.CompletedAt = &metav1.Time{Time: newest.CompletedAt.UTC()}
	}
	if newest.UID == string(s.w.UID) {
		if err := s.findSandbox(ctx); err != nil {
			return lifecycle.Standing{}, err
		}
	}
	standing := lifecycle.Standing{
		Phase:   lifecycle.AdoptedPhase(newest.ArchiveStatus),
		Reason:  dgmv1alpha1.ReasonAdopted,
		Message: fmt.Sprintf("attempt %d of the same material ended %s (%s); to make it again: %s", newest.Attempt, newest.ArchiveStatus, newest.OutcomeReason, s.retryCommand()),
	}
	if !newest.HasSnapshot {
		return standing, nil
	}
	if standing.Phase == dgmv1alpha1.PhaseCompleted && newest.CompletedAt != nil {
		s.w.Status.AppliedAt = &metav1.MicroTime{Time: newest.CompletedAt.UTC()}
		s.w.Status.KeptAt = s.w.Status.CompletedAt
	}
	plan, err := s.recallSnapshot(ctx, newest.ImprovementID)
	if isFailure(err) {
		s.setEffective(metav1.ConditionUnknown, dgmv1alpha1.ReasonSnapshotDamaged, err.Error())
		return standing, nil
	}
	if err != nil {
		return lifecycle.Standing{}, err
	}
	_, _ = s.reviewEffect(ctx, plan) // it sets the condition; how it ended stays so
	return standing, nil
}

// undoLost puts back what an attempt may have changed before its status was lost.
func (s *step) undoLost(ctx context.Context, newest *pgstore.Attempt) (lifecycle.Standing, error) {
	s.identify(newest.ImprovementID, newest.Attempt, newest.ParentID)
	s.w.Status.MaterialDigest = newest.MaterialDigest
	s.w.Status.StartedAt = &metav1.Time{Time: newest.Timestamp.UTC()}
	if err := s.findSandbox(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	// A damaged snapshot stalls the rollback, where a person sees it.
	if _, err := s.recallSnapshot(ctx, newest.ImprovementID); err != nil && !isFailure(err) {
		return lifecycle.Standing{}, err
	}
	if err := s.addFinalizer(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	s.claims.Hold(candidateOf(s.w))
	return s.beginRollback(dgmv1alpha1.ReasonStatusLost, "the status of a running attempt was lost; what it changed is put back from the database"), nil
}

// findSandbox notes the sandbox that an attempt had when its status was lost, so
// that it is removed.
func (s *step) findSandbox(ctx context.Context) error {
	name := sandbox.NamespaceName(s.w.Status.ImprovementID)
	var namespace corev1.Namespace
	err := s.Live.Get(ctx, client.ObjectKey{Name: name}, &namespace)
	if apierrors.IsNotFound(err) || (err == nil && !s.owns(&namespace)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for sandbox %s: %w", name, err)
	}
	s.w.Status.Sandbox = &dgmv1alpha1.SandboxStatus{Namespace: name}
	return nil
}

// recallSnapshot brings the stored state before back from the database into the cluster.
func (s *step) recallSnapshot(ctx context.Context, id uuid.UUID) (snapshot.Plan, error) {
	canonical, err := s.Store.LoadSnapshot(ctx, id)
	switch {
	case errors.Is(err, pgstore.ErrUnavailable):
		return snapshot.Plan{}, s.archiveUnavailable(err)
	case errors.Is(err, pgstore.ErrIntegrity):
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged, "%v", err)
	case err != nil:
		return snapshot.Plan{}, err
	}
	plan, err := snapshot.Decode(canonical)
	if err != nil {
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged, "the snapshot of %s in the database: %v", id, err)
	}
	if err := s.ensureRevision(ctx, canonical); err != nil {
		return snapshot.Plan{}, err
	}
	s.describePlan(plan, canonical)
	return plan, nil
}

func (s *step) setEffective(status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.w.Status.Conditions, metav1.Condition{
		Type: dgmv1alpha1.ConditionEffective, Status: status, Reason: reason,
		Message: cutMessage(message), ObservedGeneration: s.w.Generation,
	})
}

func archived(a *pgstore.Attempt) *lifecycle.ArchivedAttempt {
	if a == nil {
		return nil
	}
	return &lifecycle.ArchivedAttempt{
		ImprovementID: a.ImprovementID, Attempt: a.Attempt, MaterialDigest: a.MaterialDigest,
		Status: a.ArchiveStatus, OutcomeReason: a.OutcomeReason, UID: a.UID, HasSnapshot: a.HasSnapshot,
	}
}
