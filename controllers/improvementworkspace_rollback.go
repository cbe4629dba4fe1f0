// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// beginRollback is the standing from which everything is put back.
func (s *step) beginRollback(reason, message string) lifecycle.Standing {
	s.w.Status.RollbackReason = cutTo(reason+": "+message, maxRollbackReason)
	s.w.Status.CompletedAt = nil
	return lifecycle.Standing{
		Phase: dgmv1alpha1.PhaseRollingBack, Reason: dgmv1alpha1.ReasonRollingBack,
		Message: "putting back the state before: " + message,
	}
}

const maxRollbackReason = 1024

// restoration is what putting back has come to.
type restoration struct {
	gone []string
	left []string
}

// reconcileRollingBack puts the state before back, in reverse order (P2). It
// needs no database (P10) and can be repeated after a crash.
func (s *step) reconcileRollingBack(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	var done restoration
	for _, object := range slices.Backward(plan.Objects) {
		if err := s.restoreObject(ctx, object, &done); err != nil {
			return lifecycle.Standing{}, err
		}
	}
	s.w.Status.CompletedAt = s.now()
	s.reviewEffectGone()
	return done.standing(s.w.Status.RollbackReason), nil
}

func (s *step) restoreObject(ctx context.Context, object snapshot.ObjectPlan, done *restoration) error {
	live, err := s.getLive(ctx, object.Ref)
	var failed *failure
	if errors.As(err, &failed) && (failed.reason == dgmv1alpha1.ReasonTargetNotFound || failed.reason == dgmv1alpha1.ReasonTargetGone) {
		done.gone = append(done.gone, object.Ref.String())
		return nil
	}
	if err != nil {
		return s.rollbackForbidden(err, object, nil)
	}
	patch, left, err := object.Inverse(live)
	if err != nil {
		return fail(dgmv1alpha1.ReasonRollbackRefused, "%s: %v", object.Ref, err)
	}
	if patch != nil {
		if live, err = s.patchLive(ctx, object.Ref, patch, false); err != nil {
			return s.rollbackForbidden(err, object, patch)
		}
		if again, _, err := object.Inverse(live); err != nil || again != nil {
			return fail(dgmv1alpha1.ReasonRollbackRefused, "%s did not take the state before: something in its admission changes it; put back by hand: %s", object.Ref, cutTo(string(patch), maxPatchShown))
		}
	}
	for _, path := range left {
		done.left = append(done.left, fmt.Sprintf("%s %s", object.Ref, path))
	}
	return s.returnOwnership(ctx, object)
}

// returnOwnership takes our field manager's entry away and gives the restored
// paths back to those who owned them.
func (s *step) returnOwnership(ctx context.Context, object snapshot.ObjectPlan) error {
	live, err := s.getLive(ctx, object.Ref)
	if err != nil {
		return err
	}
	patch, err := object.ReturnOwnership(live, dgmv1alpha1.FieldManager)
	if err != nil || patch == nil {
		return err
	}
	_, err = s.patchLive(ctx, object.Ref, patch, false)
	return err
}

const maxPatchShown = 512

// rollbackForbidden says what a person can do when the account has lost its rights.
func (s *step) rollbackForbidden(err error, object snapshot.ObjectPlan, patch []byte) error {
	var waiting *pause
	if !errors.As(err, &waiting) || waiting.reason != dgmv1alpha1.ReasonForbidden {
		return err
	}
	message := waiting.message
	if patch != nil {
		message = fmt.Sprintf("grant the right back, or patch %s by hand with %s; %s", object.Ref, cutTo(string(patch), maxPatchShown), message)
	}
	return &pause{reason: dgmv1alpha1.ReasonRollbackForbidden, recheck: waiting.recheck, message: message}
}

func (d restoration) standing(why string) lifecycle.Standing {
	switch {
	case len(d.gone) > 0:
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonTargetGone,
			Message: fmt.Sprintf("deleted since, and not made anew: %s; everything else was put back (%s)", strings.Join(d.gone, ", "), why),
		}
	case len(d.left) > 0:
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseRolledBack, Reason: dgmv1alpha1.ReasonPartlyRolledBack,
			Message: fmt.Sprintf("changed by somebody else since, and left alone: %s; everything else was put back (%s)", strings.Join(d.left, ", "), why),
		}
	default:
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseRolledBack, Reason: dgmv1alpha1.ReasonRolledBack,
			Message: "everything is as it was before (" + why + ")",
		}
	}
}
