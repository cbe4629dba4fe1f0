// SPDX-License-Identifier: Apache-2.0

// Package controllers holds one thin controller per kind: observe, decide, act,
// write status once.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/analysis/prometheus"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/settings"
	"github.com/acgs/dgm-operator/internal/snapshot"
	"github.com/acgs/dgm-operator/internal/tenant"
)

// recheckRights is how often a missing right of an account is tried again.
const recheckRights = lifecycle.RecheckInterval

// ImprovementWorkspaceReconciler walks improvements through their lifecycle.
type ImprovementWorkspaceReconciler struct {
	// Client reads improvements from the cache and writes their status and finalizers.
	Client client.Client
	// Live reads past the cache.
	Live client.Reader
	// Events writes the events.
	Events *EventWriter
	// Accounts reads and changes users' objects as their ServiceAccounts.
	Accounts *tenant.Accounts
	// MetricServers are the Prometheus servers of the platform.
	MetricServers *prometheus.Servers
	// Answers asks the sources of metrics.
	Answers *analysis.Answers
	// Pods reads the logs of tests.
	Pods corev1client.PodsGetter
	// Store is the database.
	Store *pgstore.Store
	// Admission tells whether the admission policies are in force.
	Admission *AdmissionGuard
	// Approvals tells whether the policy of who may approve is in force.
	Approvals *AdmissionGuard
	// Outbox keeps the last state of objects that are gone while the database is away.
	Outbox *Outbox
	// ClusterName is this cluster's name in the database.
	ClusterName string
	// TenantRole is the ClusterRole that opts a namespace in.
	TenantRole string
	// Operator is the operator's own ServiceAccount as namespace:name.
	Operator string
	// Workers is how many improvements are reconciled at a time.
	Workers int
	// Clock tells the time.
	Clock clock.PassiveClock

	enqueuer
	claims        *claims
	once          startOnce
	lostSnapshots sync.Map // of types.NamespacedName
	lostRecords   sync.Map // of types.NamespacedName
	replaced      sync.Map // of types.NamespacedName
	told          sync.Map // of types.NamespacedName: the lifecycle.Standing whose event was sent
	looking       sync.Map // of types.NamespacedName to time.Time; see lookTime
}

// SetupWithManager registers the controller.
func (r *ImprovementWorkspaceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.claims = newClaims(
		func(key types.NamespacedName) { go r.Enqueue(context.Background(), key) },
		func() int { return r.Store.Settings().MaxConcurrent },
	)
	if err := indexParents(mgr); err != nil {
		return err
	}
	return r.register(mgr, "improvementworkspace", &dgmv1alpha1.ImprovementWorkspace{}, r.Workers).
		Watches(&dgmv1alpha1.ImprovementWorkspace{}, handler.EnqueueRequestsFromMapFunc(r.childrenOf)).
		Complete(r)
}

// +kubebuilder:rbac:groups=dgm.acgs.io,resources=improvementworkspaces,verbs=list;watch;patch
// +kubebuilder:rbac:groups=dgm.acgs.io,resources=improvementworkspaces/status,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconcile takes an improvement one step on.
func (r *ImprovementWorkspaceReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if err := r.once.Do(func() error { return r.restoreClaims(ctx) }); err != nil {
		return ctrl.Result{}, err
	}
	var cached dgmv1alpha1.ImprovementWorkspace
	if err := r.Client.Get(ctx, req.NamespacedName, &cached); err != nil {
		if apierrors.IsNotFound(err) {
			return r.reconcileGone(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if r.written.Behind(&cached) {
		return ctrl.Result{}, nil // the event of our own write follows
	}
	s := r.newStep(&cached)
	s.retell(ctx)
	if err := s.restoreLostSnapshot(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := s.restoreLostRecords(ctx); err != nil {
		return ctrl.Result{}, err
	}
	standing, err := s.advance(ctx)
	return s.conclude(ctx, standing, err)
}

// step is one pass over one improvement: as it was read, and as it becomes.
type step struct {
	*ImprovementWorkspaceReconciler
	before *dgmv1alpha1.ImprovementWorkspace
	w      *dgmv1alpha1.ImprovementWorkspace
	// released: the last finalizer is gone, and maybe the object with it.
	released bool
	recheck  time.Duration
	// wake is when to look again to the point; 0 for never.
	wake  time.Duration
	notes []note
}

func (r *ImprovementWorkspaceReconciler) newStep(cached *dgmv1alpha1.ImprovementWorkspace) *step {
	return &step{ImprovementWorkspaceReconciler: r, before: cached, w: cached.DeepCopy()}
}

// advance decides and acts; it returns where the improvement stands then.
func (s *step) advance(ctx context.Context) (lifecycle.Standing, error) {
	if s.w.Status.ImprovementID == "" {
		if !s.w.DeletionTimestamp.IsZero() {
			return lifecycle.Standing{Phase: dgmv1alpha1.PhasePending, Reason: dgmv1alpha1.ReasonDeleted, Message: "deleted before it began"}, nil
		}
		standing, err := s.begin(ctx)
		if err != nil {
			s.w.Status = *s.before.Status.DeepCopy() // half an identity would be taken for a whole one
			return lifecycle.Standing{}, err
		}
		if standing.Phase != dgmv1alpha1.PhasePending {
			return standing, nil
		}
	}
	if err := s.removeSandbox(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	if !s.w.DeletionTimestamp.IsZero() {
		if standing, done, err := s.reconcileDeletion(ctx); done || err != nil {
			return standing, err
		}
	} else if standing, done, err := s.obey(ctx); done || err != nil {
		return standing, err
	}
	switch s.w.Status.Phase {
	case dgmv1alpha1.PhasePending:
		return s.reconcilePending(ctx)
	case dgmv1alpha1.PhasePreparing:
		return s.reconcilePreparing(ctx)
	case dgmv1alpha1.PhaseTesting:
		return s.reconcileTesting(ctx)
	case dgmv1alpha1.PhaseValidating:
		return s.reconcileValidating(ctx)
	case dgmv1alpha1.PhaseAwaitingApproval:
		return s.reconcileAwaitingApproval(ctx)
	case dgmv1alpha1.PhaseApplying:
		return s.reconcileApplying(ctx)
	case dgmv1alpha1.PhaseObserving:
		return s.reconcileObserving(ctx)
	case dgmv1alpha1.PhaseRollingBack:
		return s.reconcileRollingBack(ctx)
	default:
		return s.reconcileTerminal(ctx)
	}
}

// conclude turns where the improvement stands into conditions, rows, events of
// what has happened, one status write and the event of another phase, in this
// order, and errors into a result.
func (s *step) conclude(ctx context.Context, standing lifecycle.Standing, err error) (ctrl.Result, error) {
	if s.released {
		return ctrl.Result{}, nil
	}
	if errors.Is(err, pgstore.ErrDeposed) {
		return ctrl.Result{}, err // the leader now writes the status
	}
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	}
	standing, retry := s.limitTime(s.resolve(standing, err))
	lifecycle.SetStanding(s.w, standing)
	switch {
	case lifecycle.HoldsAside(s.w):
		s.claims.HoldAside(candidateOf(s.w))
	case s.w.Status.Phase.IsTerminal():
		s.looking.Delete(client.ObjectKeyFromObject(s.w))
		s.claims.Release(string(s.w.UID))
	}
	if mirrorErr := s.reconcileMirror(ctx); mirrorErr != nil {
		return ctrl.Result{}, mirrorErr
	}
	s.announceFacts(ctx)
	if err := s.writeStatus(ctx); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil // the event of the other write follows
		}
		return ctrl.Result{}, err
	}
	s.announceMove(ctx)
	if retry != nil {
		return ctrl.Result{}, retry // with backoff
	}
	// After a start each object is reconciled at a lower priority, which would stay.
	return ctrl.Result{RequeueAfter: s.requeueAfter(), Priority: new(0)}, nil
}

// requeueAfter is when to look again: to the point for what has its time, with a
// spread for what is only tried again.
func (s *step) requeueAfter() time.Duration {
	spread := wait.Jitter(s.recheck, 0.2)
	if s.wake > 0 && (spread == 0 || s.wake < spread) {
		return s.wake
	}
	return spread
}

// wakeAt looks again at a time, or earlier if that was asked for.
func (s *step) wakeAt(at time.Time) {
	const soon = time.Millisecond
	if after := max(soon, at.Sub(s.Clock.Now())); s.wake == 0 || after < s.wake {
		s.wake = after
	}
}

// resolve turns an error into where it leaves the improvement, and returns what
// is to be tried again.
func (s *step) resolve(standing lifecycle.Standing, err error) (lifecycle.Standing, error) {
	var waiting *pause
	var failed *failure
	switch {
	case err == nil:
		return standing, nil
	case s.w.Status.Phase.IsTerminal():
		return lifecycle.CurrentStanding(s.w), err // how it ended stays so
	case errors.As(err, &failed):
		return s.standingOfFailure(failed), nil
	case errors.As(err, &waiting):
		return s.standingOfPause(waiting), nil
	default:
		return s.standingOfRetry(err), err
	}
}

// limitTime ends what has taken too long, whatever it waits for.
func (s *step) limitTime(standing lifecycle.Standing, retry error) (lifecycle.Standing, error) {
	if s.w.Status.ActiveSince != nil && lifecycle.HeldUp(lifecycle.CurrentStanding(s.before), standing) {
		s.w.Status.ActiveSince = s.now()
	}
	limit := s.Store.Settings().ImprovementTimeout
	if !lifecycle.TimedOut(s.w, standing, s.Clock.Now(), limit) {
		return standing, retry
	}
	return s.standingOfFailure(&failure{
		reason:  dgmv1alpha1.ReasonTimedOut,
		message: fmt.Sprintf("not done within %s (%s): %s", dgmv1alpha1.FormatDuration(limit), settings.ImprovementTimeoutMinutes, standing.Message),
	}), nil
}

// conflictDelay is the pause after somebody else wrote an object at the same time.
const conflictDelay = 200 * time.Millisecond

// writeStatus writes the status if it has changed, and only if the object is
// still as it was read: the resourceVersion that goes with it sees to that. The
// API server takes less time over an update than over a patch.
func (s *step) writeStatus(ctx context.Context) error {
	if equality.Semantic.DeepEqual(s.before.Status, s.w.Status) {
		return nil
	}
	if err := s.Client.Status().Update(ctx, s.w); err != nil {
		return err
	}
	s.written.Record(s.w)
	return nil
}

// standingOfFailure says where a failure leaves the improvement: before
// anything was applied it has failed; from then on everything is put back.
func (s *step) standingOfFailure(f *failure) lifecycle.Standing {
	if lifecycle.IsFaultOfChange(s.w, f.reason) {
		s.w.Status.Reward = analysis.FormatReward(0)
	}
	switch s.w.Status.Phase {
	case dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseObserving:
		return s.beginRollback(f.reason, f.message)
	case dgmv1alpha1.PhaseRollingBack:
		s.recheck = lifecycle.FallbackInterval
		return lifecycle.Standing{Phase: dgmv1alpha1.PhaseRollingBack, Reason: f.reason, Message: f.message, Stalled: true}
	default:
		s.w.Status.CompletedAt = s.now()
		return lifecycle.Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: f.reason, Message: f.message}
	}
}

// standingOfRetry says that what has just failed is tried again.
func (s *step) standingOfRetry(err error) lifecycle.Standing {
	standing := lifecycle.Standing{Phase: s.w.Status.Phase, Reason: dgmv1alpha1.ReasonRetrying, Message: "trying again: " + err.Error()}
	if standing.Phase == "" {
		standing.Phase = dgmv1alpha1.PhasePending
	}
	return standing
}

// standingOfPause says where a wait leaves the improvement: where it is, but
// that one that cannot be prepared gives its claims up for others meanwhile.
func (s *step) standingOfPause(w *pause) lifecycle.Standing {
	s.recheck = w.recheck
	phase := s.w.Status.Phase
	switch phase {
	case dgmv1alpha1.PhaseApplying:
		if w.reason == dgmv1alpha1.ReasonForbidden {
			return s.beginRollback(w.reason, w.message)
		}
	case dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseRollingBack:
		return lifecycle.Standing{Phase: phase, Reason: w.reason, Message: w.message, Stalled: w.reason == dgmv1alpha1.ReasonRollbackForbidden}
	case dgmv1alpha1.PhaseTesting, dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseAwaitingApproval:
	default:
		phase = dgmv1alpha1.PhasePending
		s.w.Status.ActiveSince = nil
		if w.reason != dgmv1alpha1.ReasonOverlap && w.reason != dgmv1alpha1.ReasonConcurrencyLimit {
			s.claims.Release(string(s.w.UID))
		}
	}
	return lifecycle.Standing{Phase: phase, Reason: w.reason, Message: w.message}
}

func (s *step) now() *metav1.Time {
	return &metav1.Time{Time: s.Clock.Now().UTC().Truncate(time.Second)}
}

// restoreClaims notes every active improvement as holding its claims.
func (r *ImprovementWorkspaceReconciler) restoreClaims(ctx context.Context) error {
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		r.hold(&list.Items[i])
	}
	return nil
}

// hold notes what an improvement holds.
func (r *ImprovementWorkspaceReconciler) hold(w *dgmv1alpha1.ImprovementWorkspace) {
	switch {
	case lifecycle.HoldsAside(w):
		r.claims.HoldAside(candidateOf(w))
	case w.Status.Phase.IsActive():
		r.claims.Hold(candidateOf(w))
	}
}

// candidateWith is the candidate that claims what a stored plan changes as well:
// the spec may have been edited since for the next attempt.
func candidateWith(w *dgmv1alpha1.ImprovementWorkspace, plan snapshot.Plan) lifecycle.Candidate {
	candidate := candidateOf(w)
	for _, object := range plan.Objects {
		ref := dgmv1alpha1.ObjectReference{APIVersion: object.Ref.APIVersion, Kind: object.Ref.Kind, Name: object.Ref.Name}
		if claim := lifecycle.ClaimOf(ref); !slices.Contains(candidate.Claims, claim) {
			candidate.Claims = append(candidate.Claims, claim)
		}
	}
	return candidate
}

func candidateOf(w *dgmv1alpha1.ImprovementWorkspace) lifecycle.Candidate {
	return lifecycle.Candidate{
		UID: string(w.UID), Namespace: w.Namespace, Name: w.Name,
		Priority: w.Spec.Priority, Created: w.CreationTimestamp.Time, Claims: lifecycle.Claims(w),
	}
}
