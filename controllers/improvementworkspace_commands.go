// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// obey carries out a command that was not handled yet, and notices an edit of
// the material of an ended improvement. done says that this was this pass's step.
func (s *step) obey(ctx context.Context) (standing lifecycle.Standing, done bool, err error) {
	request, handled := lifecycle.NextCommand(s.w)
	s.w.Status.LastHandled = handled
	switch request.Command {
	case lifecycle.CommandAbort:
		return s.abort(request.Reason), true, nil
	case lifecycle.CommandRollback:
		if standing, err = s.commandRollback(ctx, request.Reason); err != nil {
			s.w.Status.LastHandled = s.before.Status.LastHandled // it is still to be obeyed
		}
		return standing, true, err
	case lifecycle.CommandKeep:
		if standing, err = s.commandKeep(ctx, request.Reason); err != nil {
			s.w.Status.LastHandled = s.before.Status.LastHandled
		}
		return standing, true, err
	case lifecycle.CommandRetry:
		standing, err = s.retry(ctx, "a retry was commanded"+because(request.Reason))
		return standing, true, err
	case lifecycle.CommandNone:
	}
	if editedAfterEnd(s.w) {
		standing, err = s.retry(ctx, "the spec was edited")
		return standing, true, err
	}
	return lifecycle.Standing{}, false, nil
}

// retry begins another attempt once the database has the end of this one: an
// outcome is never passed over (P3).
func (s *step) retry(ctx context.Context, why string) (lifecycle.Standing, error) {
	err := s.Store.MirrorImprovement(ctx, s.row(lifecycle.CurrentStanding(s.w)))
	var refused *pgstore.RowError
	if err != nil && !errors.As(err, &refused) {
		s.w.Status.LastHandled = s.before.Status.LastHandled // it is still to be obeyed
		if errors.Is(err, pgstore.ErrUnavailable) {
			s.recheck = lifecycle.RecheckInterval
			return lifecycle.CurrentStanding(s.w), nil
		}
		return lifecycle.Standing{}, err
	}
	return s.anotherAttempt(why), nil
}

// anotherAttempt begins anew; the attempt before is its parent.
func (s *step) anotherAttempt(why string) lifecycle.Standing {
	s.claims.Release(string(s.w.UID)) // those of a watch; what is claimed next may be something else
	parent, err := uuid.Parse(s.w.Status.ImprovementID)
	s.beginAttempt(s.w.Status.Attempt+1, uuid.NullUUID{UUID: parent, Valid: err == nil})
	return lifecycle.Standing{
		Phase: dgmv1alpha1.PhasePending, Reason: dgmv1alpha1.ReasonAccepted,
		Message: fmt.Sprintf("attempt %d: %s", s.w.Status.Attempt, why),
	}
}

// What status.rollbackReason begins with when a person wants it so.
const (
	commandedAbort    = "an abort was commanded"
	commandedRollback = "a rollback was commanded"
)

// abort ends an improvement: before Applying nothing was changed, from then on
// everything is put back.
func (s *step) abort(reason string) lifecycle.Standing {
	message := commandedAbort + because(reason)
	if s.w.Status.Phase.MayHaveApplied() {
		return s.beginRollback("", message)
	}
	s.w.Status.CompletedAt = s.now()
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonAborted, Message: message + "; nothing was changed"}
}

// commandRollback begins the rollback of an improvement, unless a later one
// has changed the same paths since.
func (s *step) commandRollback(ctx context.Context, reason string) (lifecycle.Standing, error) {
	message := commandedRollback + because(reason)
	if s.w.Status.Phase == dgmv1alpha1.PhaseCompleted {
		if s.w.Status.Snapshot == nil {
			return s.refuseRollback(dgmv1alpha1.ReasonNothingToChange, "this attempt has no snapshot, so there is nothing to put back"), nil
		}
		later, err := s.laterOnSamePaths(ctx)
		if err != nil {
			return lifecycle.Standing{}, err
		}
		if later != "" {
			return s.refuseRollback(dgmv1alpha1.ReasonLaterImprovement, later), nil
		}
		if err := s.addFinalizer(ctx); err != nil {
			return lifecycle.Standing{}, err
		}
	}
	meta.RemoveStatusCondition(&s.w.Status.Conditions, dgmv1alpha1.ConditionRollbackRefused)
	return s.beginRollback("", message), nil
}

func (s *step) refuseRollback(reason, why string) lifecycle.Standing {
	meta.SetStatusCondition(&s.w.Status.Conditions, metav1.Condition{
		Type: dgmv1alpha1.ConditionRollbackRefused, Status: metav1.ConditionTrue, Reason: reason,
		Message: cutMessage(why), ObservedGeneration: s.w.Generation,
	})
	return lifecycle.CurrentStanding(s.w)
}

// laterOnSamePaths names an improvement that is running on the same objects, or
// has changed the same paths after this one and still stands (P13).
func (s *step) laterOnSamePaths(ctx context.Context) (string, error) {
	own, damage := s.loadSnapshot(ctx)
	if damage != nil && !isAnswer(damage) {
		return "", damage
	}
	candidate := candidateWith(s.w, own)
	if blocker := s.claims.AcquireBeyondLimit(candidate); blocker.Name != "" {
		s.claims.Release(string(s.w.UID))
		return fmt.Sprintf("improvement %s is running and holds %s: command the rollback again when it has ended", blocker.Name, blocker.Claim), nil
	}
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := s.Client.List(ctx, &list, client.InNamespace(s.w.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return "", err
	}
	for i := range list.Items {
		other := &list.Items[i]
		if !stands(other) || !s.w.Status.AppliedAt.Before(other.Status.AppliedAt) || (candidate.Shared(candidateOf(other)) == "" && !editedAfterEnd(other)) {
			continue
		}
		theirs, damaged := s.newStep(other).loadSnapshot(ctx)
		if damaged != nil && !isAnswer(damaged) {
			return "", damaged
		}
		shared := own.Overlaps(theirs)
		if damage != nil || damaged != nil {
			// Which paths they share cannot be told: no means no (P7).
			shared = []string{string(candidate.Shared(candidateOf(other)))}
		}
		if len(shared) > 0 {
			s.claims.Release(string(s.w.UID))
			return fmt.Sprintf("improvement %s changed the same later (%s): roll that back first", other.Name, cutTo(strings.Join(shared, ", "), maxSummary)), nil
		}
	}
	return "", nil
}

// stands reports whether an improvement's changes are in place.
func stands(w *dgmv1alpha1.ImprovementWorkspace) bool {
	return w.Status.Phase == dgmv1alpha1.PhaseCompleted && w.Status.AppliedAt != nil && w.Status.Snapshot != nil && !lifecycle.WasTrial(w)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}
