// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// letGoAfter is how long a deleted object waits for the database to take its
// last state, before that is kept in the outbox instead.
const letGoAfter = 30 * time.Second

// reconcileTerminal gives an ended improvement free once the database has its end.
func (s *step) reconcileTerminal(ctx context.Context) (lifecycle.Standing, error) {
	if s.w.Watching() {
		if standing, done, err := s.watch(ctx); done || err != nil {
			return standing, err
		}
	}
	standing := lifecycle.CurrentStanding(s.w)
	if !controllerutil.ContainsFinalizer(s.w, dgmv1alpha1.Finalizer) {
		return standing, nil
	}
	if !apimeta.IsStatusConditionTrue(s.w.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced) {
		return standing, nil
	}
	if err := s.closeReview(ctx); errors.Is(err, pgstore.ErrUnavailable) {
		s.recheck = lifecycle.RecheckInterval
		return standing, nil
	} else if err != nil {
		return standing, err
	}
	return standing, s.removeFinalizer(ctx)
}

// reconcileDeletion undoes what a deleted improvement has not completed, and
// lets it go when its end is stored: in the database, or in the outbox while
// that is away. done says that there is no other step to take.
func (s *step) reconcileDeletion(ctx context.Context) (standing lifecycle.Standing, done bool, err error) {
	if !controllerutil.ContainsFinalizer(s.w, dgmv1alpha1.Finalizer) {
		return lifecycle.CurrentStanding(s.w), true, nil
	}
	namespace, err := s.namespace(ctx)
	if err != nil {
		return lifecycle.Standing{}, false, err
	}
	if !namespace.DeletionTimestamp.IsZero() && !s.w.Status.Phase.IsTerminal() {
		s.w.Status.CompletedAt = s.now()
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonNamespaceTerminating,
			Message: "the namespace is being deleted, and all that was changed with it",
		}, true, nil
	}
	switch {
	case s.w.Status.Phase.IsTerminal():
		return lifecycle.CurrentStanding(s.w), true, s.letGo(ctx)
	case s.w.Status.Phase.MayHaveApplied():
		return s.beginRollback(dgmv1alpha1.ReasonDeleted, "it was deleted before its changes were kept"), true, nil
	case s.w.Status.Phase == dgmv1alpha1.PhaseRollingBack:
		return lifecycle.Standing{}, false, nil
	default:
		s.w.Status.CompletedAt = s.now()
		return lifecycle.Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonDeleted, Message: "it was deleted before anything was changed"}, true, nil
	}
}

// letGo stores the end of a deleted improvement and removes the finalizer.
func (s *step) letGo(ctx context.Context) error {
	row := s.row(lifecycle.CurrentStanding(s.w))
	err := s.restoreTests(ctx) // one that ended with its sandbox may not be stored yet
	if err == nil {
		err = s.closeReview(ctx)
	}
	var refused *pgstore.RowError
	switch {
	case err == nil || errors.As(err, &refused):
	case errors.Is(err, pgstore.ErrUnavailable):
		if waited := s.Clock.Since(s.endedAt()); waited < letGoAfter {
			s.recheck = letGoAfter - waited
			return nil
		}
		if err := s.Outbox.Put(ctx, row); err != nil {
			return err
		}
	default:
		return err
	}
	s.released = true
	return s.removeFinalizer(ctx)
}

// endedAt is when the improvement was deleted and had ended, whichever was later.
func (s *step) endedAt() time.Time {
	ended := s.w.DeletionTimestamp.Time
	if completed := s.w.Status.CompletedAt; completed != nil && completed.After(ended) {
		ended = completed.Time
	}
	return ended
}

// reconcileGone marks the rows of an object that is no more.
func (r *ImprovementWorkspaceReconciler) reconcileGone(ctx context.Context, key types.NamespacedName) (ctrl.Result, error) {
	r.claims.ReleaseName(key)
	r.written.Forget(key)
	r.told.Delete(key)
	r.looking.Delete(key)
	err := r.Outbox.Drain(ctx, r.Store)
	if err == nil {
		err = r.Store.Tombstone(ctx, pgstore.KindImprovementWorkspace, key.Namespace, key.Name, "")
	}
	if errors.Is(err, pgstore.ErrUnavailable) {
		// When the database is back, the rows are compared with the objects.
		return ctrl.Result{RequeueAfter: lifecycle.FallbackInterval}, nil
	}
	return ctrl.Result{}, err
}

// reviewEffectGone notes that nothing of the improvement is in force any more.
func (s *step) reviewEffectGone() {
	s.setEffective(metav1.ConditionFalse, dgmv1alpha1.ReasonRolledBack, "the state before was put back")
}
