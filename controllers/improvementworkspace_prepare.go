// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// reconcilePending looks at each gate, then at whether the change can be made
// at all, and only then lets the improvement begin.
func (s *step) reconcilePending(ctx context.Context) (lifecycle.Standing, error) {
	digest := lifecycle.MaterialDigest(&s.w.Spec)
	if s.w.Status.Snapshot != nil && digest != s.w.Status.MaterialDigest {
		// A snapshot is stored once under an id; the edit is seen to by another attempt.
		return lifecycle.Standing{}, fail(dgmv1alpha1.ReasonEdited, "the spec was edited after the state before had been stored; another attempt follows")
	}
	s.w.Status.MaterialDigest = digest
	if err := s.checkDeclared(); err != nil {
		return lifecycle.Standing{}, err
	}
	waiting, err := lifecycle.EvaluateGates(s.w, s.surroundings(ctx))
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if waiting != nil {
		return lifecycle.Standing{}, &pause{reason: waiting.Reason, message: waiting.Message, recheck: waiting.Recheck}
	}
	if err := s.checkMetricSources(); err != nil {
		return lifecycle.Standing{}, err
	}
	if err := s.checkParent(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	plan, err := s.plan(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if s.w.Spec.Mode == dgmv1alpha1.ModeDryRun {
		return s.completeDryRun(ctx, plan)
	}
	if waiting := lifecycle.EvaluateRoom(s.claims.TakeRoom(candidateOf(s.w))); waiting != nil {
		return lifecycle.Standing{}, &pause{reason: waiting.Reason, message: waiting.Message, recheck: waiting.Recheck}
	}
	s.w.Status.ActiveSince = s.now()
	return lifecycle.Standing{Phase: dgmv1alpha1.PhasePreparing, Reason: dgmv1alpha1.ReasonPreparing, Message: "the state before the change is being stored"}, nil
}

// reconcilePreparing stores the state before the change in the cluster and in
// the database (P1). Every part of it can be repeated after a crash.
func (s *step) reconcilePreparing(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, canonical, err := s.prepareSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	s.describePlan(plan, canonical)
	if len(plan.Objects) == 0 {
		s.w.Status.CompletedAt = s.now()
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonNothingToChange,
			Message: "the live objects are already as this improvement wants them",
		}, nil
	}
	environment, err := s.captureEnvironment(ctx, plan)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if err := s.saveSnapshot(ctx, plan, canonical, environment); err != nil {
		return lifecycle.Standing{}, s.classifySave(err)
	}
	if err := s.addFinalizer(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	return s.proceed(ctx, plan)
}

// proceed begins the phase after this one, unless something holds the
// improvement where it is.
func (s *step) proceed(ctx context.Context, plan snapshot.Plan) (lifecycle.Standing, error) {
	if held, err := s.heldHere(ctx); held != nil || err != nil {
		return orNothing(held), err
	}
	switch next := lifecycle.NextPhase(s.w); next {
	case dgmv1alpha1.PhaseTesting:
		return lifecycle.Standing{Phase: next, Reason: dgmv1alpha1.ReasonTesting, Message: "the change is tried in a sandbox"}, nil
	case dgmv1alpha1.PhaseValidating:
		return lifecycle.Standing{Phase: next, Reason: dgmv1alpha1.ReasonValidating, Message: "the plan is judged"}, nil
	case dgmv1alpha1.PhaseAwaitingApproval:
		return s.awaitApproval(lifecycle.EvaluateApproval(s.w, plan.BeforeDigest())), nil
	default:
		return lifecycle.Standing{Phase: next, Reason: dgmv1alpha1.ReasonApplying, Message: "changing " + plan.Summary(maxSummary)}, nil
	}
}

// prepareSnapshot is the stored plan of this attempt, made and stored if it is
// not yet.
func (s *step) prepareSnapshot(ctx context.Context) (snapshot.Plan, []byte, error) {
	stored, found, err := s.findRevision(ctx)
	if err != nil {
		return snapshot.Plan{}, nil, err
	}
	if stored != nil && s.w.Status.Snapshot != nil && snapshot.Digest(found) == s.w.Status.Snapshot.Digest {
		return *stored, found, s.checkStillBefore(ctx, *stored)
	}
	plan, err := s.plan(ctx)
	if err != nil {
		return snapshot.Plan{}, nil, err
	}
	canonical, err := plan.Encode()
	if err != nil {
		return snapshot.Plan{}, nil, classifyPlan(err, "the plan")
	}
	if len(plan.Objects) == 0 {
		return plan, canonical, nil
	}
	if stored != nil && !bytes.Equal(found, canonical) {
		// Whoever may create a ControllerRevision could have put it there: what it
		// says is not done in the account's name (P8).
		return snapshot.Plan{}, nil, fail(dgmv1alpha1.ReasonTargetChanged,
			"ControllerRevision %s holds another state than the live one: what changes was changed while it was being stored, or somebody else made it; to try again: %s", s.revisionName(), s.retryCommand())
	}
	err = s.ensureRevision(ctx, canonical)
	return plan, canonical, err
}

// retryCommand is what a person types to have another attempt made.
func (s *step) retryCommand() string {
	return fmt.Sprintf("kubectl annotate improvement %s --overwrite %s=TOKEN", s.w.Name, dgmv1alpha1.AnnotationRetry)
}

// checkStillBefore makes sure that what was stored before a crash is still how
// things are.
func (s *step) checkStillBefore(ctx context.Context, plan snapshot.Plan) error {
	for _, object := range plan.Objects {
		live, err := s.getLive(ctx, object.Ref)
		if err != nil {
			return err
		}
		if !object.Compare(live).AllBefore() {
			return fail(dgmv1alpha1.ReasonTargetChanged, "%s changed while its state was being stored; to try again: %s", object.Ref, s.retryCommand())
		}
	}
	return nil
}

func (s *step) classifySave(err error) error {
	var refused *pgstore.RowError
	switch {
	case errors.Is(err, pgstore.ErrUnavailable):
		return &pause{reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval, message: "the snapshot cannot be stored yet: " + s.databaseReason(err)}
	case errors.Is(err, pgstore.ErrIntegrity):
		return fail(dgmv1alpha1.ReasonTargetChanged, "the database holds another snapshot of this attempt: %v; to try again: %s", err, s.retryCommand())
	case errors.As(err, &refused):
		return fail(dgmv1alpha1.ReasonRowRefused, "%v", err)
	default:
		return err
	}
}

// plan computes, by a server dry-run as the tenant's account, what the
// improvement changes, and proves that it can be undone (P2).
func (s *step) plan(ctx context.Context) (snapshot.Plan, error) {
	target := s.w.Spec.Target.Ref
	if _, err := s.get(ctx, target); err != nil {
		return snapshot.Plan{}, err
	}
	plan := snapshot.Plan{Version: snapshot.Version}
	for _, change := range s.w.Spec.Changes {
		object, err := s.planChange(ctx, change)
		if err != nil {
			return snapshot.Plan{}, err
		}
		if !object.Empty() {
			plan.Objects = append(plan.Objects, object)
		}
	}
	err := s.planRestarts(ctx, &plan)
	return plan, err
}

func (s *step) planChange(ctx context.Context, change dgmv1alpha1.Change) (snapshot.ObjectPlan, error) {
	patch, err := decodePatch(change.Patch)
	if err != nil {
		return snapshot.ObjectPlan{}, fail(dgmv1alpha1.ReasonInvalidPatch, "change %s: its patch is neither YAML nor JSON: %v", change.Name, err)
	}
	before, err := s.get(ctx, change.TargetRef)
	if err != nil {
		return snapshot.ObjectPlan{}, err
	}
	account, err := s.Accounts.For(s.w.Namespace, s.w.Spec.ServiceAccountName)
	if err != nil {
		return snapshot.ObjectPlan{}, err
	}
	after, err := account.Patch(ctx, refOf(change.TargetRef), patchTypes[change.Type], patch, dgmv1alpha1.FieldManager, true)
	if apierrors.IsConflict(err) {
		return snapshot.ObjectPlan{}, s.explainConflict(ctx, change.TargetRef, before, err)
	}
	if err != nil {
		return snapshot.ObjectPlan{}, classify(explainJSONPatch(err, change.Type, before, patch), s.request("patch", change.TargetRef.String()))
	}
	if before.GetUID() != after.GetUID() || before.GetResourceVersion() != after.GetResourceVersion() {
		return snapshot.ObjectPlan{}, fmt.Errorf("%s changed while it was being read", change.TargetRef)
	}
	object, err := s.proven(change.Name, before, after)
	if err != nil {
		return snapshot.ObjectPlan{}, err
	}
	if owner, detail, owned := snapshot.GitOpsOwner(before, object.Paths); owned && s.w.Spec.OnGitOpsOwned != dgmv1alpha1.GitOpsProceed {
		return snapshot.ObjectPlan{}, s.refuseGitOpsOwned(change, owner, detail)
	}
	return object, nil
}

// explainJSONPatch says why operations cannot be applied: the API server only
// says that they cannot.
func explainJSONPatch(refusal error, patchType dgmv1alpha1.PatchType, before *unstructured.Unstructured, patch []byte) error {
	if patchType != dgmv1alpha1.PatchJSON || !apierrors.IsInvalid(refusal) {
		return refusal
	}
	document, err := before.MarshalJSON()
	if err != nil {
		return refusal
	}
	operations, err := jsonpatch.DecodePatch(patch)
	if err == nil && slices.ContainsFunc(operations, copies) {
		return refusal // a few that copy what they have copied fill the memory
	}
	if err == nil {
		_, err = operations.Apply(document)
	}
	if err == nil {
		return refusal
	}
	return apierrors.NewBadRequest(err.Error())
}

func copies(o jsonpatch.Operation) bool { return o.Kind() == "copy" }

// explainConflict tells a patch that asks for another resourceVersion, and will
// for ever, from an object that somebody else is writing.
func (s *step) explainConflict(ctx context.Context, ref dgmv1alpha1.ObjectReference, before *unstructured.Unstructured, conflict error) error {
	now, err := s.get(ctx, ref)
	if err != nil {
		return err
	}
	if now.GetResourceVersion() != before.GetResourceVersion() {
		// Not wrapped: this is no conflict over the improvement itself.
		return fmt.Errorf("%s is being changed by somebody else: %v", ref, conflict) //nolint:errorlint // see above
	}
	return fail(dgmv1alpha1.ReasonInvalidPatch, "%s: the patch is for another state of the object: remove metadata.resourceVersion and metadata.uid from it; the API server says: %s",
		ref, refusal(conflict))
}

func (s *step) refuseGitOpsOwned(change dgmv1alpha1.Change, owner, detail string) error {
	s.w.Status.Diff = cutTo(fmt.Sprintf("# make this %s patch of %s upstream, in the source of %s:\n%s", change.Type, change.TargetRef, owner, change.Patch), maxDiff)
	return fail(dgmv1alpha1.ReasonGitOpsOwned,
		"%s is owned by %s (%s), which would put the change back: make it upstream (the patch is in status.diff), or set spec.onGitOpsOwned to Proceed: %s",
		change.TargetRef, owner, detail, strings.Join(strings.Fields(cutTo(change.Patch, 200)), " "))
}

var patchTypes = map[dgmv1alpha1.PatchType]types.PatchType{
	dgmv1alpha1.PatchMerge:          types.MergePatchType,
	dgmv1alpha1.PatchStrategicMerge: types.StrategicMergePatchType,
	dgmv1alpha1.PatchJSON:           types.JSONPatchType,
}
