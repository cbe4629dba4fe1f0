// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

const (
	// recheckSecret is how soon a changed Secret is taken up: the operator may
	// not watch Secrets.
	recheckSecret = time.Minute
	// recheckConfiguration is for what ought to have woken it.
	recheckConfiguration = 10 * time.Minute
)

// SystemConfigurationReconciler keeps a setting in the database as its object
// asks, whoever edits the row.
type SystemConfigurationReconciler struct {
	// Client reads objects from the cache and writes their status.
	Client client.Client
	// Live reads Secrets.
	Live client.Reader
	// Recorder sends the events.
	Recorder events.EventRecorder
	// Store is the database.
	Store *pgstore.Store
	// Namespace is the operator's own: there the Secrets are.
	Namespace string
	// Keyset is the Secret with the keys, which is no value of a setting.
	Keyset types.NamespacedName
	// Operator is the operator's ServiceAccount, as namespace:name, for messages.
	Operator string
	// Workers is how many objects are reconciled at a time.
	Workers int

	enqueuer
}

// SetupWithManager registers the controller.
func (r *SystemConfigurationReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return r.register(mgr, "systemconfiguration", &dgmv1alpha1.SystemConfiguration{}, r.Workers).Complete(r)
}

// +kubebuilder:rbac:groups=dgm.acgs.io,resources=systemconfigurations,verbs=list;watch
// +kubebuilder:rbac:groups=dgm.acgs.io,resources=systemconfigurations/status,verbs=update
// +kubebuilder:rbac:groups="",namespace=dgm-system,resources=secrets,resourceNames=dgm-operator-settings,verbs=get

// Reconcile brings the row to what the object asks, and says so in its status.
func (r *SystemConfigurationReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cached dgmv1alpha1.SystemConfiguration
	if err := r.Client.Get(ctx, req.NamespacedName, &cached); err != nil {
		if apierrors.IsNotFound(err) {
			return r.reconcileGone(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if r.written.Behind(&cached) {
		return ctrl.Result{}, nil // the event of our own write follows
	}
	object := cached.DeepCopy()
	applied, applyErr := r.apply(ctx, object)
	standing, err := configurationStanding(applied, applyErr)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.setStatus(object, standing, applied)
	result := ctrl.Result{RequeueAfter: standing.recheck}
	if object.Spec.SecretKeyRef != nil {
		result.RequeueAfter = min(result.RequeueAfter, recheckSecret)
	}
	if equality.Semantic.DeepEqual(cached.Status, object.Status) {
		r.announceOverwritten(&cached, object, applied)
		return result, nil
	}
	if err := r.Client.Status().Update(ctx, object); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil // the event of the other write follows
		}
		return ctrl.Result{}, err
	}
	r.written.Record(object)
	r.announceOverwritten(&cached, object, applied)
	r.announce(&cached, object)
	return result, nil
}

func (r *SystemConfigurationReconciler) apply(ctx context.Context, object *dgmv1alpha1.SystemConfiguration) (pgstore.AppliedConfiguration, error) {
	asked := pgstore.Configuration{
		Object: pgstore.Object{Name: object.Name, UID: string(object.UID), Generation: object.Generation},
		Key:    object.Spec.Key, ValueType: string(object.Spec.ValueType), Description: object.Spec.Description, Category: object.Spec.Category,
	}
	if object.Spec.Value != nil {
		asked.Value = *object.Spec.Value
		return r.Store.ApplyConfiguration(ctx, asked)
	}
	value, err := r.secretValue(ctx, object.Spec.SecretKeyRef)
	if err != nil {
		return pgstore.AppliedConfiguration{}, err
	}
	asked.Value, asked.Sensitive = value, true
	return r.Store.ApplyConfiguration(ctx, asked)
}

// announceOverwritten tells of an edit of the row that was put back: of the row
// of a generation that had been applied already, and of more than a Secret's
// new value.
func (r *SystemConfigurationReconciler) announceOverwritten(was, is *dgmv1alpha1.SystemConfiguration, applied pgstore.AppliedConfiguration) {
	synced := apimeta.FindStatusCondition(was.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	if !applied.Changed || !applied.Edited || synced == nil || synced.ObservedGeneration != is.Generation || was.Status.LastAppliedTime.IsZero() {
		return
	}
	r.Recorder.Eventf(is, nil, corev1.EventTypeWarning, dgmv1alpha1.ReasonOverwritten, "Apply", "%s",
		cutMessage("the row in the database had been edited, and was put back: "+strings.Join(applied.Differences, "; ")))
}

// announce sends an event when the setting has come to stand otherwise.
func (r *SystemConfigurationReconciler) announce(was, is *dgmv1alpha1.SystemConfiguration) {
	before := apimeta.FindStatusCondition(was.Status.Conditions, dgmv1alpha1.ConditionReady)
	now := apimeta.FindStatusCondition(is.Status.Conditions, dgmv1alpha1.ConditionReady)
	if before != nil && before.Reason == now.Reason && before.Message == now.Message {
		return
	}
	kind := corev1.EventTypeNormal
	if apimeta.IsStatusConditionTrue(is.Status.Conditions, dgmv1alpha1.ConditionStalled) {
		kind = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(is, nil, kind, now.Reason, "Apply", "%s", cutMessage(now.Message))
}

// reconcileGone lets go of the row. A refusal, as when the default breaks the
// constitution of today, is nobody's status any more.
func (r *SystemConfigurationReconciler) reconcileGone(ctx context.Context, key types.NamespacedName) (ctrl.Result, error) {
	r.written.Forget(key)
	err := r.Store.ReleaseConfiguration(ctx, key.Name, "")
	var refused *pgstore.RowError
	switch {
	case errors.As(err, &refused):
		log.FromContext(ctx).Error(err, "A configuration whose object was deleted stays in force", "name", key.Name, "again in", recheckConfiguration.String())
		return ctrl.Result{RequeueAfter: recheckConfiguration}, nil
	case errors.Is(err, pgstore.ErrUnavailable):
		// When the database is back, the rows are compared with the objects.
		return ctrl.Result{RequeueAfter: recheckConfiguration}, nil
	}
	return ctrl.Result{}, err
}
