// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// planRestarts adds the restarts of spec.rollout to a plan that changes
// something. A restart is a change like any other, so that it is undone exactly;
// a workload that is changed as well is restarted by the same write.
func (s *step) planRestarts(ctx context.Context, plan *snapshot.Plan) error {
	if s.w.Spec.Rollout == nil || len(plan.Objects) == 0 {
		return nil
	}
	for _, workload := range s.w.Spec.Rollout.Restart {
		ref := workload.ObjectReference()
		at := slices.IndexFunc(plan.Objects, func(o snapshot.ObjectPlan) bool {
			return o.Ref.Name == ref.Name && o.Ref.GroupKind() == ref.GroupVersionKind().GroupKind()
		})
		changed := snapshot.ObjectPlan{Change: "rollout/restart"}
		if at >= 0 {
			changed = plan.Objects[at]
		}
		object, err := s.planRestart(ctx, ref, changed)
		if err != nil {
			return err
		}
		if at >= 0 {
			plan.Objects[at] = object
		} else {
			plan.Objects = append(plan.Objects, object)
		}
	}
	plan.RestartsLast()
	return nil
}

func (s *step) planRestart(ctx context.Context, ref dgmv1alpha1.ObjectReference, changed snapshot.ObjectPlan) (snapshot.ObjectPlan, error) {
	if !changed.Empty() {
		ref.APIVersion = changed.Ref.APIVersion
	}
	before, err := s.get(ctx, ref)
	if err != nil {
		return snapshot.ObjectPlan{}, err
	}
	if changed.Empty() {
		if changed, err = snapshot.NewObjectPlan(changed.Change, before, before, dgmv1alpha1.FieldManager); err != nil {
			return snapshot.ObjectPlan{}, classifyPlan(err, ref.String())
		}
	}
	patch, err := changed.Restarting(before, s.w.Status.ImprovementID)
	if err != nil {
		return snapshot.ObjectPlan{}, fmt.Errorf("%s changed while it was being read: %w", ref, err)
	}
	if patch == nil {
		return snapshot.ObjectPlan{}, fail(dgmv1alpha1.ReasonTargetChanged, "%s bears the mark of this attempt's restart already; to try again: %s", ref, s.retryCommand())
	}
	after, err := s.patchLive(ctx, changed.Ref, patch, true)
	if err != nil {
		return snapshot.ObjectPlan{}, err
	}
	object, err := s.proven(changed.Change, before, after)
	object.Restart = true
	return object, err
}

// proven is the plan of one object, proven to be undone exactly.
func (s *step) proven(change string, before, after *unstructured.Unstructured) (snapshot.ObjectPlan, error) {
	object, err := snapshot.NewObjectPlan(change, before, after, dgmv1alpha1.FieldManager)
	if err != nil {
		return snapshot.ObjectPlan{}, classifyPlan(err, before.GetKind()+"/"+before.GetName())
	}
	if err := object.Prove(); err != nil {
		return snapshot.ObjectPlan{}, fail(dgmv1alpha1.ReasonNotReversible, "%s: the change cannot be proven to be undone exactly: %v", object.Ref, err)
	}
	return object, nil
}
