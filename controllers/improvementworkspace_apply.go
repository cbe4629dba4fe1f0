// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// reconcileApplying makes the changes and follows them until the workloads are
// healthy.
func (s *step) reconcileApplying(ctx context.Context) (lifecycle.Standing, error) {
	s.hold(s.w)
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if s.w.Status.AppliedAt == nil {
		if held, err := s.holdFirstChange(ctx, plan); held != nil || err != nil {
			return orNothing(held), err
		}
		if standing, done, err := s.measureBaseline(ctx, plan); !done || err != nil {
			return standing, err
		}
		if err := s.applyChanges(ctx, plan); err != nil {
			return lifecycle.Standing{}, err
		}
		s.w.Status.AppliedAt = &metav1.MicroTime{Time: s.Clock.Now().UTC().Truncate(time.Microsecond)}
	}
	if waiting, err := s.awaitRollout(ctx, plan); waiting != nil || err != nil {
		return *cmp.Or(waiting, &lifecycle.Standing{}), err
	}
	if lifecycle.NextPhase(s.w) == dgmv1alpha1.PhaseObserving {
		lost, err := s.reviewEffect(ctx, plan)
		if err != nil {
			return lifecycle.Standing{}, err
		}
		if lost != nil {
			return s.beginRollback(lost.reason, lost.message), nil
		}
		return s.beginObserving(), nil
	}
	return s.keep(ctx, plan, "changed "+plan.Summary(maxSummary))
}

// applyChanges makes the changes, in order. The intent is in status already;
// after a crash, what was changed is seen in the live objects and not changed
// again.
func (s *step) applyChanges(ctx context.Context, plan snapshot.Plan) error {
	if err := s.awaitDatabase(ctx, plan); err != nil {
		return err
	}
	for _, object := range plan.Objects {
		if err := s.applyObject(ctx, object); err != nil {
			return err
		}
	}
	for _, object := range plan.Objects {
		if err := s.rehearseInverse(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// keep completes an improvement: its changes stay. Where they no longer are
// what was judged, they are put back instead.
func (s *step) keep(ctx context.Context, plan snapshot.Plan, message string) (lifecycle.Standing, error) {
	review := s.reviewEffect
	if s.w.Status.Phase == dgmv1alpha1.PhaseObserving {
		review = s.reviewObserved
	}
	lost, err := review(ctx, plan)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if lost != nil {
		return s.beginRollback(lost.reason, lost.message), nil
	}
	s.w.Status.CompletedAt = s.now()
	s.w.Status.KeptAt = s.w.Status.CompletedAt
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonCompleted, Message: message}, nil
}

// awaitDatabase holds a change that has not begun until the database has its
// snapshot (P1): it may be away (P10), or have been restored to a moment before
// that was stored. A change that has begun is finished.
func (s *step) awaitDatabase(ctx context.Context, plan snapshot.Plan) error {
	missing := s.ensureArchived(ctx, plan)
	if missing == nil || errors.Is(missing, pgstore.ErrDeposed) {
		return missing
	}
	if begun, err := s.hasBegun(ctx, plan); begun || err != nil {
		return err
	}
	if !errors.Is(missing, pgstore.ErrUnavailable) {
		return s.classifySave(missing)
	}
	return &pause{
		reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
		message: "the change begins when the database is back: " + s.databaseReason(missing),
	}
}

// hasBegun reports whether something of a plan is changed already.
func (s *step) hasBegun(ctx context.Context, plan snapshot.Plan) (bool, error) {
	for _, object := range plan.Objects {
		live, err := s.getLive(ctx, object.Ref)
		if err != nil {
			return false, gone(err)
		}
		if !object.Compare(live).AllBefore() {
			return true, nil
		}
	}
	return false, nil
}

// holdFirstChange is where a change stays that is held and has not begun; nil when
// it may begin, or has. The metrics before it are measured anew then: they are to be
// those just before.
func (s *step) holdFirstChange(ctx context.Context, plan snapshot.Plan) (*lifecycle.Standing, error) {
	held, hindered := s.heldHere(ctx)
	if held == nil && hindered == nil && !s.baselineIsStale() {
		return nil, nil
	}
	if begun, err := s.hasBegun(ctx, plan); begun || err != nil {
		s.recheck = 0
		return nil, err
	}
	if held != nil || !s.isBaselineFresh() {
		s.w.Status.Observation, s.w.Status.Metrics = nil, nil
	}
	return held, hindered
}

// baselineFresh is for how long a baseline is one of just before: the operator may
// have been started anew, and waits for the database a moment.
const baselineFresh = time.Minute

func (s *step) isBaselineFresh() bool {
	observation := s.w.Status.Observation
	return observation != nil && observation.BaselineEnd != nil && s.Clock.Since(observation.BaselineEnd.Time) < baselineFresh
}

// ensureArchived saves the snapshot if the database does not have it.
func (s *step) ensureArchived(ctx context.Context, plan snapshot.Plan) error {
	if err := s.Store.Ready(); err != nil {
		return err
	}
	missing, err := s.Store.WithoutSnapshot(ctx, []uuid.UUID{parseID(s.w.Status.ImprovementID).UUID})
	if err != nil || len(missing) == 0 {
		return err
	}
	canonical, err := plan.Encode()
	if err != nil {
		return classifyPlan(err, "the plan")
	}
	return s.saveSnapshot(ctx, plan, canonical, knownEnvironment(plan))
}

func (s *step) applyObject(ctx context.Context, object snapshot.ObjectPlan) error {
	live, err := s.getLive(ctx, object.Ref)
	if err != nil {
		return gone(err)
	}
	patch, err := object.Forward(live)
	if err != nil {
		return fail(dgmv1alpha1.ReasonTargetChanged, "%s changed since its state was stored: %v", object.Ref, err)
	}
	if patch == nil {
		return nil
	}
	changed, err := s.patchLive(ctx, object.Ref, patch, false)
	if err != nil {
		return gone(err)
	}
	if !object.Compare(changed).AllAfter() {
		return fail(dgmv1alpha1.ReasonPartlyApplied, "%s did not take the change as the dry-run had shown: something in its admission changes it", object.Ref)
	}
	return nil
}

// rehearseInverse dry-runs the rollback on the server (P2).
func (s *step) rehearseInverse(ctx context.Context, object snapshot.ObjectPlan) error {
	live, err := s.getLive(ctx, object.Ref)
	if err != nil {
		return gone(err)
	}
	patch, left, err := object.Inverse(live)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d of its values were changed by somebody else already", len(left))
	}
	if err != nil {
		return fail(dgmv1alpha1.ReasonNotReversible, "%s could not be put back later: %v", object.Ref, err)
	}
	if patch == nil {
		return nil
	}
	_, err = s.patchLive(ctx, object.Ref, patch, true)
	if isFailure(err) {
		return fail(dgmv1alpha1.ReasonNotReversible, "%s could not be put back later: %v", object.Ref, err)
	}
	return err
}

// gone renames a missing target: it existed when its state was stored.
func gone(err error) error {
	var f *failure
	if errors.As(err, &f) && f.reason == dgmv1alpha1.ReasonTargetNotFound {
		return fail(dgmv1alpha1.ReasonTargetGone, "%s", f.message)
	}
	return err
}
