// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// beginRollback is the standing from which everything is put back. The reason is
// empty for a command, whose message says it all.
func (s *step) beginRollback(reason, message string) lifecycle.Standing {
	why := message
	if reason != "" {
		why = reason + ": " + message
	}
	s.w.Status.RollbackReason = cutTo(why, maxRollbackReason)
	if s.w.Status.Phase == dgmv1alpha1.PhaseCompleted && s.w.Status.KeptAt == nil {
		s.w.Status.KeptAt = s.w.Status.CompletedAt
	}
	s.w.Status.CompletedAt, s.w.Status.RestoredAt = nil, nil
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

// reconcileRollingBack puts the state before back, in reverse order (P2), and
// waits until the workloads are healthy again. It needs no database (P10), can be
// repeated after a crash, and deletes nothing.
func (s *step) reconcileRollingBack(ctx context.Context) (lifecycle.Standing, error) {
	plan, err := s.loadSnapshot(ctx)
	s.claims.Hold(candidateWith(s.w, plan))
	if err != nil {
		return lifecycle.Standing{}, err
	}
	var done restoration
	for _, object := range plan.Undoing() {
		if err := s.restoreObject(ctx, object, &done); err != nil {
			return lifecycle.Standing{}, err
		}
	}
	waiting, err := s.awaitRestored(ctx, plan)
	if err != nil {
		return lifecycle.Standing{}, s.healthUnknown(err)
	}
	s.reviewEffectGone()
	if waiting != nil {
		return *waiting, nil
	}
	s.w.Status.CompletedAt = s.now()
	return s.endOfTrial(done.standing(s.w.Status.RollbackReason)), nil
}

// endOfTrial is Completed for a trial that went well and was put back as a whole
// (onSuccess: Revert).
func (s *step) endOfTrial(standing lifecycle.Standing) lifecycle.Standing {
	if !lifecycle.WasTrial(s.w) || standing.Reason != dgmv1alpha1.ReasonRolledBack {
		return standing
	}
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonReverted, Message: standing.Message}
}

// healthUnknown says that everything is put back, and what is missing to see
// that it is served again.
func (s *step) healthUnknown(err error) error {
	var waiting *pause
	if errors.As(err, &waiting) && waiting.reason == dgmv1alpha1.ReasonForbidden {
		return &pause{
			reason: dgmv1alpha1.ReasonRollbackForbidden, recheck: waiting.recheck,
			message: "everything is put back, but whether it is healthy cannot be seen; grant the right back: " + waiting.message,
		}
	}
	return err
}

func (s *step) restoreObject(ctx context.Context, object snapshot.ObjectPlan, done *restoration) error {
	left, err := s.putBack(ctx, object)
	if err == nil {
		err = s.returnOwnership(ctx, object)
	}
	if isGone(err) {
		done.gone = append(done.gone, object.Ref.String())
		return nil
	}
	for _, path := range left {
		done.left = append(done.left, object.Ref.String()+" "+path.Path)
	}
	return err
}

// putBack puts an object's touched paths back and returns those that were left
// alone, since somebody else had changed them.
func (s *step) putBack(ctx context.Context, object snapshot.ObjectPlan) ([]snapshot.PathReport, error) {
	live, err := s.getLive(ctx, object.Ref)
	if err != nil {
		return nil, s.rollbackHindered(err, object, nil)
	}
	patch, left, err := object.Inverse(live)
	if err != nil {
		return nil, fail(dgmv1alpha1.ReasonRollbackRefused, "%s: %v", object.Ref, err)
	}
	left, restartedSince := object.WithoutRestart(left)
	if patch != nil {
		if live, err = s.patchLive(ctx, object.Ref, patch, false); err != nil {
			return nil, s.rollbackHindered(err, object, patch)
		}
		if again, _, err := object.Inverse(live); err != nil || again != nil {
			return nil, fail(dgmv1alpha1.ReasonRollbackRefused, "%s did not take the state before: something in its admission changes it; put back by hand: %s", object.Ref, cutTo(string(patch), maxPatchShown))
		}
	}
	if restartedSince {
		return left, s.restartAgain(ctx, object, live)
	}
	return left, nil
}

// restartAgain restarts the pods of a workload that somebody else has restarted
// after this improvement: they have read what is put back now.
func (s *step) restartAgain(ctx context.Context, object snapshot.ObjectPlan, live *unstructured.Unstructured) error {
	patch, err := object.RestartAgain(live, s.w.Status.ImprovementID+"-rolled-back")
	if err != nil || patch == nil {
		return err
	}
	_, err = s.patchLive(ctx, object.Ref, patch, false)
	return s.rollbackHindered(err, object, patch)
}

// returnOwnership takes our field manager's entry away and gives the restored
// paths back to those who owned them.
func (s *step) returnOwnership(ctx context.Context, object snapshot.ObjectPlan) error {
	live, err := s.getLive(ctx, object.Ref)
	if err != nil {
		return s.rollbackHindered(err, object, nil)
	}
	patch, err := object.ReturnOwnership(live, dgmv1alpha1.FieldManager)
	if err != nil || patch == nil {
		return err
	}
	_, err = s.patchLive(ctx, object.Ref, patch, false)
	return s.rollbackHindered(err, object, nil)
}

const maxPatchShown = 512

func isGone(err error) bool {
	var failed *failure
	return errors.As(err, &failed) && (failed.reason == dgmv1alpha1.ReasonTargetNotFound || failed.reason == dgmv1alpha1.ReasonTargetGone)
}

// rollbackHindered says what a person can do when the account has lost its
// rights, or when the API server refuses the patch that puts things back.
func (s *step) rollbackHindered(err error, object snapshot.ObjectPlan, patch []byte) error {
	byHand := ""
	if patch != nil {
		byHand = fmt.Sprintf("or patch %s by hand with %s; ", object.Ref, cutTo(string(patch), maxPatchShown))
	}
	var waiting *pause
	var failed *failure
	switch {
	case errors.As(err, &waiting) && waiting.reason == dgmv1alpha1.ReasonForbidden:
		return &pause{reason: dgmv1alpha1.ReasonRollbackForbidden, recheck: waiting.recheck, message: "grant the right back, " + byHand + waiting.message}
	case errors.As(err, &failed) && !isGone(err):
		return fail(dgmv1alpha1.ReasonRollbackRefused, "let the change be put back, %s%s", byHand, failed.message)
	}
	return err
}

func (d restoration) standing(why string) lifecycle.Standing {
	switch {
	case len(d.gone) > 0:
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonTargetGone,
			Message: fmt.Sprintf("deleted since, and not made anew: %s; everything else was put back (%s)", strings.Join(d.gone, ", "), why),
		}
	case needsPerson(why) != "":
		reason := needsPerson(why)
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseFailed, Reason: reason,
			Message: strings.TrimPrefix(why, reason+": ") + "; everything else was put back",
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

// needsPerson is the reason of a rollback that a person has to know of once it is
// done, "" when all is well then.
func needsPerson(why string) string {
	for _, reason := range []string{dgmv1alpha1.ReasonGitOpsConflict, dgmv1alpha1.ReasonTargetGone} {
		if strings.HasPrefix(why, reason+": ") {
			return reason
		}
	}
	return ""
}
