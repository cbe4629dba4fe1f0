// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// BanditPolicyReconciler accepts policies and mirrors their arms.
type BanditPolicyReconciler struct {
	// Client reads policies from the cache and writes their status.
	Client client.Client
	// Recorder sends the events.
	Recorder events.EventRecorder
	// Store is the database.
	Store *pgstore.Store
	// ClusterName is this cluster's name in the database.
	ClusterName string
	// Workers is how many policies are reconciled at a time.
	Workers int

	enqueuer
}

// SetupWithManager registers the controller.
func (r *BanditPolicyReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return r.register(mgr, "banditpolicy", &dgmv1alpha1.BanditPolicy{}, r.Workers).Complete(r)
}

// +kubebuilder:rbac:groups=dgm.acgs.io,resources=banditpolicies,verbs=list;watch
// +kubebuilder:rbac:groups=dgm.acgs.io,resources=banditpolicies/status,verbs=update

// Reconcile mirrors a policy's arms and says so in its status.
func (r *BanditPolicyReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cached dgmv1alpha1.BanditPolicy
	if err := r.Client.Get(ctx, req.NamespacedName, &cached); err != nil {
		if apierrors.IsNotFound(err) {
			return r.reconcileGone(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if r.written.Behind(&cached) {
		return ctrl.Result{}, nil // the event of our own write follows
	}
	policy := cached.DeepCopy()
	setPolicyAccepted(policy)
	result, err := setPolicyMirrored(policy, &cached, r.Store.MirrorPolicy(ctx, policyRows(r.ClusterName, policy)))
	if err != nil {
		return ctrl.Result{}, err
	}
	if equality.Semantic.DeepEqual(cached.Status, policy.Status) {
		return result, nil
	}
	if err := r.Client.Status().Update(ctx, policy); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil // the event of the other write follows
		}
		return ctrl.Result{}, err
	}
	r.written.Record(policy)
	r.announce(&cached, policy)
	return result, nil
}

func (r *BanditPolicyReconciler) announce(was, is *dgmv1alpha1.BanditPolicy) {
	if apimeta.FindStatusCondition(was.Status.Conditions, dgmv1alpha1.ConditionReady) == nil {
		r.Recorder.Eventf(is, nil, corev1.EventTypeNormal, dgmv1alpha1.ReasonAccepted, "Accept", "%d arms, %s", is.Status.Arms, is.Spec.Algorithm.Type)
	}
}

// setPolicyAccepted writes the conditions of a policy that admission let in.
func setPolicyAccepted(policy *dgmv1alpha1.BanditPolicy) {
	policy.Status.ObservedGeneration = policy.Generation
	policy.Status.Arms = int32(len(policy.Spec.Arms)) //nolint:gosec // at most 64, by the schema
	for _, c := range []struct {
		conditionType string
		status        metav1.ConditionStatus
		message       string
	}{
		{dgmv1alpha1.ConditionReady, metav1.ConditionTrue, "the policy is accepted"},
		{dgmv1alpha1.ConditionReconciling, metav1.ConditionFalse, ""},
		{dgmv1alpha1.ConditionStalled, metav1.ConditionFalse, ""},
	} {
		apimeta.SetStatusCondition(&policy.Status.Conditions, metav1.Condition{
			Type: c.conditionType, Status: c.status, Reason: dgmv1alpha1.ReasonAccepted,
			Message: c.message, ObservedGeneration: policy.Generation,
		})
	}
}

// setPolicyMirrored writes the condition DatabaseSynced from what mirroring came to.
func setPolicyMirrored(policy, before *dgmv1alpha1.BanditPolicy, err error) (ctrl.Result, error) {
	conditions := &policy.Status.Conditions
	var refused *pgstore.RowError
	switch {
	case err == nil:
		lifecycle.SetDatabaseSynced(conditions, policy.Generation, true, dgmv1alpha1.ReasonSynced, "the database holds every arm")
	case errors.Is(err, pgstore.ErrUnavailable):
		synced := apimeta.FindStatusCondition(before.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
		if synced == nil || synced.Status != metav1.ConditionTrue || synced.ObservedGeneration != policy.Generation {
			reason := strings.TrimPrefix(err.Error(), pgstore.ErrUnavailable.Error()+": ")
			lifecycle.SetDatabaseSynced(conditions, policy.Generation, false, dgmv1alpha1.ReasonDatabaseUnavailable, reason)
		}
		return ctrl.Result{RequeueAfter: lifecycle.FallbackInterval}, nil
	case errors.As(err, &refused):
		lifecycle.SetDatabaseSynced(conditions, policy.Generation, false, dgmv1alpha1.ReasonRowRefused, refused.Error())
	default:
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, nil
}

func (r *BanditPolicyReconciler) reconcileGone(ctx context.Context, key types.NamespacedName) (ctrl.Result, error) {
	r.written.Forget(key)
	err := r.Store.Tombstone(ctx, pgstore.KindBanditPolicy, key.Namespace, key.Name, "")
	if errors.Is(err, pgstore.ErrUnavailable) {
		// When the database is back, the rows are compared with the objects.
		return ctrl.Result{RequeueAfter: lifecycle.FallbackInterval}, nil
	}
	return ctrl.Result{}, err
}

// policyRows is a policy as the database holds it: each arm in each context.
func policyRows(cluster string, policy *dgmv1alpha1.BanditPolicy) pgstore.Policy {
	rows := pgstore.Policy{Object: pgstore.Object{
		Namespace: policy.Namespace, Name: policy.Name, UID: string(policy.UID), Generation: policy.Generation,
	}}
	for _, banditContext := range policy.Spec.Contexts {
		for _, arm := range policy.Spec.Arms {
			rows.Arms = append(rows.Arms, pgstore.BanditArm{
				AlgorithmType:   algorithmTypes[policy.Spec.Algorithm.Type],
				ContextKey:      fmt.Sprintf("%s/%s/%s/%s", cluster, policy.Namespace, policy.Name, banditContext.Name),
				ArmID:           arm.Name,
				SafetyThreshold: string(policy.Spec.Safety.Threshold),
				RiskTolerance:   string(policy.Spec.Safety.RiskTolerance),
				AlgorithmState:  mustJSON(armState(policy, arm)),
			})
		}
	}
	return rows
}

// algorithmState is what bandit_states.algorithm_state says of an arm.
type algorithmState struct {
	Description    string                `json:"description,omitempty"`
	Baseline       bool                  `json:"baseline"`
	BaselineReward *dgmv1alpha1.Fraction `json:"baselineReward,omitempty"`
}

func armState(policy *dgmv1alpha1.BanditPolicy, arm dgmv1alpha1.Arm) algorithmState {
	state := algorithmState{Description: arm.Description}
	if baseline := policy.Spec.Baseline; baseline != nil && baseline.Arm == arm.Name {
		state.Baseline, state.BaselineReward = true, baseline.Reward
	}
	return state
}

var algorithmTypes = map[dgmv1alpha1.AlgorithmType]string{
	dgmv1alpha1.EpsilonGreedy:      pgstore.AlgorithmEpsilonGreedy,
	dgmv1alpha1.UCB1:               pgstore.AlgorithmUCB1,
	dgmv1alpha1.ThompsonSampling:   pgstore.AlgorithmThompsonSampling,
	dgmv1alpha1.ConservativeBandit: pgstore.AlgorithmConservativeBandit,
	dgmv1alpha1.SafeExploration:    pgstore.AlgorithmSafeExploration,
}
