// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/rollout"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// awaitRollout says that the changes are made but not yet served by healthy
// pods; nil when they are. The wait counts from status.appliedAt.
func (s *step) awaitRollout(ctx context.Context, plan snapshot.Plan) (*lifecycle.Standing, error) {
	changedAt := func(live *unstructured.Unstructured) time.Time {
		return rollout.ChangedBy(live, dgmv1alpha1.FieldManager)
	}
	sick, err := s.firstUnhealthy(ctx, plan, changedAt)
	if err != nil || sick == nil {
		return nil, gone(err)
	}
	waited, timeout := s.Clock.Since(s.w.Status.AppliedAt.Time), s.w.Spec.RolloutTimeout()
	switch {
	case sick.State == rollout.Failed:
		return nil, fail(dgmv1alpha1.ReasonRolloutFailed, "%s: %s", sick.object, sick.Message)
	case waited >= timeout:
		return nil, fail(dgmv1alpha1.ReasonRolloutFailed, "%s was not healthy within %s (spec.rollout.timeout): %s", sick.object, dgmv1alpha1.FormatDuration(timeout), sick.Message)
	}
	s.recheck = lifecycle.PollInterval(waited, timeout)
	return &lifecycle.Standing{
		Phase: dgmv1alpha1.PhaseApplying, Reason: dgmv1alpha1.ReasonRollingOut,
		Message: fmt.Sprintf("the changes are made; waiting until %s is healthy: %s", sick.object, sick.Message),
	}, nil
}

// awaitRestored says that everything is put back but a workload is not healthy;
// nil when all are. A person is needed when that lasts, but nothing is given up.
func (s *step) awaitRestored(ctx context.Context, plan snapshot.Plan) (*lifecycle.Standing, error) {
	if s.w.Status.RestoredAt == nil {
		s.w.Status.RestoredAt = s.now()
	}
	restoredAt := s.w.Status.RestoredAt.Time
	sick, err := s.firstUnhealthy(ctx, plan, func(*unstructured.Unstructured) time.Time { return restoredAt })
	if err != nil && !isGone(err) {
		return nil, err
	}
	if sick == nil {
		return nil, nil // what is gone has been noted where it was to be put back
	}
	waited, timeout := s.Clock.Since(restoredAt), s.ownSpec().RolloutTimeout()
	standing := lifecycle.Standing{
		Phase: dgmv1alpha1.PhaseRollingBack, Reason: dgmv1alpha1.ReasonRollingBack,
		Message: fmt.Sprintf("everything is put back; waiting until %s is healthy: %s", sick.object, sick.Message),
	}
	if sick.State != rollout.Failed && waited < timeout {
		s.recheck = lifecycle.PollInterval(waited, timeout)
		return &standing, nil
	}
	s.recheck = lifecycle.RecheckInterval
	standing.Stalled, standing.Reason = true, dgmv1alpha1.ReasonRollbackUnhealthy
	standing.Message = fmt.Sprintf("everything is put back, but %s is not healthy: %s", sick.object, sick.Message)
	if !s.w.DeletionTimestamp.IsZero() {
		// There is nothing left to put back for which it would have to stay.
		s.w.Status.CompletedAt = s.now()
		standing.Phase = dgmv1alpha1.PhaseFailed
	}
	return &standing, nil
}

// unhealthy is an object that is not healthy.
type unhealthy struct {
	rollout.Health
	object string
}

// firstUnhealthy looks at the target and at every workload that the plan
// changes. What has failed goes before what is only awaited; that one of them is
// gone is returned beside.
func (s *step) firstUnhealthy(ctx context.Context, plan snapshot.Plan, changedAt func(*unstructured.Unstructured) time.Time) (*unhealthy, error) {
	var first *unhealthy
	var missing error
	note := func(live *unstructured.Unstructured, at time.Time) error {
		health, err := s.health(ctx, live, at)
		if err != nil || health.State == rollout.Healthy {
			return err
		}
		if first == nil || (health.State == rollout.Failed && first.State != rollout.Failed) {
			first = &unhealthy{Health: health, object: live.GetKind() + "/" + live.GetName()}
		}
		return nil
	}
	target, seen := s.ownSpec().Target.Ref, false
	for _, object := range plan.Objects {
		isTarget := object.Ref.Name == target.Name && object.Ref.GroupKind() == target.GroupVersionKind().GroupKind()
		seen = seen || isTarget
		if !isTarget && !rollout.HasPods(object.Ref.GroupKind()) {
			continue
		}
		live, err := s.getLive(ctx, object.Ref)
		if err == nil {
			err = note(live, changedAt(live))
		}
		if isGone(err) {
			missing = err
		} else if err != nil {
			return nil, err
		}
	}
	if seen || target.Name == "" {
		return first, missing
	}
	live, err := s.get(ctx, target)
	if err == nil {
		err = note(live, time.Time{})
	}
	return first, cmp.Or(err, missing)
}

// health is how an object is. Its pods are asked only where they can say why it
// is not healthy, and only if the account may list them.
func (s *step) health(ctx context.Context, live *unstructured.Unstructured, changedAt time.Time) (rollout.Health, error) {
	workload := rollout.Workload{Object: live, ChangedAt: changedAt}
	health, err := rollout.Evaluate(workload)
	if err != nil || health.State != rollout.Progressing || changedAt.IsZero() || !rollout.HasPods(live.GroupVersionKind().GroupKind()) {
		return health, err
	}
	selector, err := rollout.Selector(live)
	if err != nil {
		return health, err
	}
	account, err := s.Accounts.For(s.w.Namespace, s.w.Spec.ServiceAccountName)
	if err != nil {
		return health, err
	}
	workload.Pods, err = account.Pods(ctx, selector)
	if isMissingRight(err) {
		return health, nil
	}
	if err != nil {
		return health, err
	}
	return rollout.Evaluate(workload)
}

// ownSpec is the spec of this attempt; where it has been edited for the next one
// since, only the plan tells what was changed.
func (s *step) ownSpec() *dgmv1alpha1.ImprovementWorkspaceSpec {
	if s.w.Status.MaterialDigest == lifecycle.MaterialDigest(&s.w.Spec) {
		return &s.w.Spec
	}
	return &dgmv1alpha1.ImprovementWorkspaceSpec{}
}
