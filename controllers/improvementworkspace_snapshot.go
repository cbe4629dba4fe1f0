// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// How much of a plan goes into status; the whole is in the database.
const (
	maxDiff    = 2048
	maxSummary = 256
)

// revisionName is the name of the ControllerRevision of an attempt: the same
// after a crash.
func (s *step) revisionName() string { return "dgm-" + s.w.Status.ImprovementID }

// ensureRevision stores a plan's canonical bytes in the cluster, immutable and
// owned by the improvement.
func (s *step) ensureRevision(ctx context.Context, canonical []byte) error {
	revision := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.w.Namespace, Name: s.revisionName(),
			Labels: map[string]string{dgmv1alpha1.LabelImprovement: string(s.w.UID)},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: dgmv1alpha1.GroupVersion.String(), Kind: "ImprovementWorkspace",
				Name: s.w.Name, UID: s.w.UID, Controller: new(true),
			}},
		},
		Data:     runtime.RawExtension{Raw: canonical},
		Revision: int64(s.w.Status.Attempt),
	}
	err := s.Client.Create(ctx, revision)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if apierrors.IsRequestEntityTooLargeError(err) {
		return fail(dgmv1alpha1.ReasonTooLarge, "the state before the change is too large to be stored in the cluster: %v", err)
	}
	if apierrors.IsForbidden(err) {
		return s.notOptedIn()
	}
	if err != nil {
		return fmt.Errorf("store the snapshot in ControllerRevision %s: %w", revision.Name, err)
	}
	return nil
}

// findRevision reads the plan of this attempt from the cluster; nil when it is
// not there.
func (s *step) findRevision(ctx context.Context) (*snapshot.Plan, []byte, error) {
	var revision appsv1.ControllerRevision
	err := s.Live.Get(ctx, client.ObjectKey{Namespace: s.w.Namespace, Name: s.revisionName()}, &revision)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if apierrors.IsForbidden(err) {
		return nil, nil, s.notOptedIn()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the snapshot: %w", err)
	}
	plan, err := snapshot.Decode(revision.Data.Raw)
	if err != nil {
		return nil, nil, fail(dgmv1alpha1.ReasonSnapshotDamaged, "ControllerRevision %s: %v", revision.Name, err)
	}
	canonical, err := plan.Encode()
	if err != nil {
		return nil, nil, fail(dgmv1alpha1.ReasonSnapshotDamaged, "ControllerRevision %s: %v", revision.Name, err)
	}
	return &plan, canonical, nil
}

// loadSnapshot reads the plan that status names: from the cluster, where its
// digest is right, else from the database.
func (s *step) loadSnapshot(ctx context.Context) (snapshot.Plan, error) {
	if s.w.Status.Snapshot == nil {
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged, "status.snapshot is missing: nothing can be put back by itself")
	}
	plan, canonical, damage := s.findRevision(ctx)
	if damage == nil && plan != nil && snapshot.Digest(canonical) == s.w.Status.Snapshot.Digest {
		return *plan, nil
	}
	if damage != nil && !isAnswer(damage) {
		return snapshot.Plan{}, damage
	}
	id, err := uuid.Parse(s.w.Status.ImprovementID)
	if err != nil {
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged, "status.improvementId: %v", err)
	}
	canonical, err = s.Store.LoadSnapshot(ctx, id)
	if errors.Is(err, pgstore.ErrIntegrity) {
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged,
			"ControllerRevision %s is missing or was altered, and the database has no good copy either (%v): restore one of them from a backup", s.revisionName(), err)
	}
	if err != nil && damage != nil && !isFailure(damage) {
		return snapshot.Plan{}, damage
	}
	if err != nil {
		return snapshot.Plan{}, &pause{reason: dgmv1alpha1.ReasonSnapshotDamaged, recheck: recheckRights, message: fmt.Sprintf(
			"ControllerRevision %s is missing or was altered, and its copy in the database cannot be read yet: %s", s.revisionName(), s.databaseReason(err))}
	}
	if snapshot.Digest(canonical) != s.w.Status.Snapshot.Digest {
		return snapshot.Plan{}, fail(dgmv1alpha1.ReasonSnapshotDamaged, "neither ControllerRevision %s nor the database holds the snapshot with digest %s", s.revisionName(), s.w.Status.Snapshot.Digest)
	}
	return snapshot.Decode(canonical)
}

// describePlan writes what a plan is, in short, into status.
func (s *step) describePlan(plan snapshot.Plan, canonical []byte) {
	s.w.Status.Diff = cutTo(plan.Diff(), maxDiff)
	if len(plan.Objects) == 0 {
		return
	}
	s.w.Status.Snapshot = &dgmv1alpha1.SnapshotStatus{
		Name: s.revisionName(), Digest: snapshot.Digest(canonical), PlanDigest: plan.BeforeDigest(),
	}
}

// saveSnapshot commits a plan's canonical bytes to the database, with what it
// would put back in words, and what the change found.
func (s *step) saveSnapshot(ctx context.Context, plan snapshot.Plan, canonical []byte, environment json.RawMessage) error {
	row := s.row(lifecycle.CurrentStanding(s.w))
	row.RollbackPlan, row.EnvironmentSnapshot = describeRollback(plan), environment
	_, err := s.Store.SaveSnapshot(ctx, row, canonical)
	return err
}

// rollbackPlan is improvement_workspaces.rollback_plan: the whole diff, for people.
type rollbackPlan struct {
	PlanDigest string `json:"planDigest"`
	Diff       string `json:"diff"`
}

func describeRollback(plan snapshot.Plan) json.RawMessage {
	return mustJSON(rollbackPlan{PlanDigest: plan.BeforeDigest(), Diff: plan.Diff()})
}

// SnapshotLost has the snapshot of an improvement saved from the cluster again,
// the next time that it is reconciled.
func (r *ImprovementWorkspaceReconciler) SnapshotLost(key types.NamespacedName) {
	r.lostSnapshots.Store(key, struct{}{})
}

// restoreLostSnapshot saves a snapshot that the database has lost. One that is
// damaged, or that the database refuses, is left: a rollback says so when it
// needs it.
func (s *step) restoreLostSnapshot(ctx context.Context) error {
	_, lost := s.lostSnapshots.LoadAndDelete(client.ObjectKeyFromObject(s.w))
	if !lost || s.w.Status.Snapshot == nil {
		return nil
	}
	plan, canonical, err := s.findRevision(ctx)
	if isFailure(err) || (err == nil && (plan == nil || snapshot.Digest(canonical) != s.w.Status.Snapshot.Digest)) {
		return nil
	}
	if err != nil {
		s.SnapshotLost(client.ObjectKeyFromObject(s.w))
		return err
	}
	err = s.saveSnapshot(ctx, *plan, canonical, knownEnvironment(*plan))
	var refused *pgstore.RowError
	if errors.As(err, &refused) || errors.Is(err, pgstore.ErrIntegrity) || errors.Is(err, pgstore.ErrUnavailable) {
		return nil // when the database is back, it is looked for again
	}
	return err
}

// addFinalizer keeps the object until its changes are kept or put back.
func (s *step) addFinalizer(ctx context.Context) error {
	return s.patchFinalizers(ctx, controllerutil.AddFinalizer)
}

// removeFinalizer lets the object go.
func (s *step) removeFinalizer(ctx context.Context) error {
	return s.patchFinalizers(ctx, controllerutil.RemoveFinalizer)
}

func (s *step) patchFinalizers(ctx context.Context, edit func(client.Object, string) bool) error {
	object := s.before.DeepCopy()
	object.ResourceVersion, object.Finalizers = s.w.ResourceVersion, s.w.Finalizers
	base := object.DeepCopy()
	if !edit(object, dgmv1alpha1.Finalizer) {
		return nil
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := s.Client.Patch(ctx, object, patch); err != nil {
		return client.IgnoreNotFound(err)
	}
	s.w.ResourceVersion, s.w.Finalizers = object.ResourceVersion, object.Finalizers
	s.written.Record(object)
	return nil
}
