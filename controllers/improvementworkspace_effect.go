// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// loss is why a change is no longer in force.
type loss struct {
	reason  string
	message string
}

// reviewEffect sets the condition Effective: whether the live values are those
// that the improvement set. It returns why they are not, nil when they are or
// cannot be read.
func (s *step) reviewEffect(ctx context.Context, plan snapshot.Plan) *loss {
	for _, object := range plan.Objects {
		live, err := s.getLive(ctx, object.Ref)
		if err != nil && !isGone(err) {
			s.setEffective(metav1.ConditionUnknown, dgmv1alpha1.ReasonForbidden, fmt.Sprintf("%s cannot be read: %v", object.Ref, err))
			return nil
		}
		if lost := s.lostEffect(object, live, err); lost != nil {
			s.setEffective(metav1.ConditionFalse, dgmv1alpha1.ReasonLiveDiffers, lost.message)
			return lost
		}
	}
	s.setEffective(metav1.ConditionTrue, dgmv1alpha1.ReasonLiveUnchanged, "the live values are those that this improvement set")
	return nil
}

// goneMeanwhile says which object that was changed is no more, nil when none is
// known to be: what is gone has no metrics, and would be waited for in vain.
func (s *step) goneMeanwhile(ctx context.Context) *loss {
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return nil // the end of the observation tells
	}
	for _, object := range plan.Objects {
		if _, err := s.getLive(ctx, object.Ref); isGone(err) {
			return s.lostEffect(object, nil, err)
		}
	}
	return nil
}

// lostEffect says why a live object no longer has what was set, nil when it has.
// Values that who owned them before has set again are a conflict that only a
// change upstream ends; those of anybody else are a change like any other.
func (s *step) lostEffect(object snapshot.ObjectPlan, live *unstructured.Unstructured, gone error) *loss {
	if gone != nil {
		return &loss{reason: dgmv1alpha1.ReasonTargetGone, message: fmt.Sprintf("%s is gone: %v", object.Ref, gone)}
	}
	lost := object.Lost(live)
	if len(lost) == 0 {
		return nil
	}
	if owner := object.PutBackBy(live); owner != "" {
		message := fmt.Sprintf("%s was put back by %s (%s)", object.Ref, owner, strings.Join(lost, ", "))
		return &loss{reason: dgmv1alpha1.ReasonGitOpsConflict, message: message + s.upstream(object)}
	}
	return &loss{
		reason:  dgmv1alpha1.ReasonTargetChanged,
		message: fmt.Sprintf("%s no longer has the values that this improvement set: %s", object.Ref, strings.Join(lost, ", ")),
	}
}

// upstream says which patch to make in the source that the owner syncs from,
// and shows it in status.
func (s *step) upstream(object snapshot.ObjectPlan) string {
	for _, change := range s.w.Spec.Changes {
		if change.Name == object.Change {
			s.w.Status.Diff = cutTo(fmt.Sprintf("# make this %s patch of %s upstream:\n%s", change.Type, change.TargetRef, change.Patch), maxDiff)
			return ": make the change upstream (the patch is in status.diff)"
		}
	}
	return ""
}

// reviewKept looks, when its watch ends, at whether a kept change is still in
// force, and calls for a person when who owned it before has put it back.
func (s *step) reviewKept(ctx context.Context, plan snapshot.Plan) lifecycle.Standing {
	standing := lifecycle.CurrentStanding(s.w)
	lost := s.reviewEffect(ctx, plan)
	if lost != nil && lost.reason == dgmv1alpha1.ReasonGitOpsConflict {
		return lifecycle.Standing{Phase: standing.Phase, Reason: lost.reason, Message: lost.message, Stalled: true}
	}
	return standing
}
