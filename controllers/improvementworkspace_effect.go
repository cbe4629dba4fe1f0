// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
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
// that the improvement set. It returns why they are not, nil when they are; the
// error says that they cannot be read.
func (s *step) reviewEffect(ctx context.Context, plan snapshot.Plan) (*loss, error) {
	for _, object := range plan.Objects {
		live, err := s.getLive(ctx, object.Ref)
		if err != nil && !isGone(err) {
			s.setEffective(metav1.ConditionUnknown, dgmv1alpha1.ReasonForbidden, fmt.Sprintf("%s cannot be read: %v", object.Ref, err))
			return nil, err
		}
		if lost := s.lostEffect(object, live, err); lost != nil {
			s.setEffective(metav1.ConditionFalse, dgmv1alpha1.ReasonLiveDiffers, lost.message)
			return lost, nil
		}
	}
	s.setEffective(metav1.ConditionTrue, dgmv1alpha1.ReasonLiveUnchanged, "the live values are those that this improvement set")
	return nil, nil
}

// reviewObserved is reviewEffect while a change is observed: what could not be put
// back, since the account has lost its rights, calls for a person.
func (s *step) reviewObserved(ctx context.Context, plan snapshot.Plan) (*loss, error) {
	lost, err := s.reviewEffect(ctx, plan)
	var waiting *pause
	if errors.As(err, &waiting) && waiting.reason == dgmv1alpha1.ReasonForbidden {
		return nil, &pause{
			reason: dgmv1alpha1.ReasonRollbackForbidden, recheck: waiting.recheck,
			message: "the change is neither kept nor could it be put back: grant the right back; " + waiting.message,
		}
	}
	return lost, err
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
	lost, _ := s.reviewEffect(ctx, plan) // the watch is over: Effective says what is not known
	if lost != nil && lost.reason == dgmv1alpha1.ReasonGitOpsConflict {
		return lifecycle.Standing{Phase: standing.Phase, Reason: lost.reason, Message: lost.message, Stalled: true}
	}
	return standing
}
