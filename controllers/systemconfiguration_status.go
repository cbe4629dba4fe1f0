// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// standing is where a setting stands and why.
type standing struct {
	reason, message string
	// stalled: a person is needed; otherwise it is in force, or waits.
	stalled, waits bool
	// inForce: the database holds the value.
	inForce bool
	recheck time.Duration
}

// refusalReasons are the reasons for the rules by which the database refuses.
var refusalReasons = map[string]string{
	pgstore.RuleType:         dgmv1alpha1.ReasonInvalidValue,
	pgstore.RuleRules:        dgmv1alpha1.ReasonInvalidValue,
	pgstore.RuleConstitution: dgmv1alpha1.ReasonConstitutionViolated,
	pgstore.RuleReadOnly:     dgmv1alpha1.ReasonReadOnly,
	pgstore.RuleBuiltIn:      dgmv1alpha1.ReasonBuiltIn,
	pgstore.RuleSensitive:    dgmv1alpha1.ReasonSensitive,
}

// configurationStanding judges what applying came to. An error that is returned
// is to be tried again.
func configurationStanding(applied pgstore.AppliedConfiguration, err error) (standing, error) {
	var refused *pgstore.RowError
	var taken *pgstore.KeyTakenError
	var failed *failure
	switch {
	case err == nil:
		return standing{
			reason: dgmv1alpha1.ReasonApplied, message: "the value is in force", inForce: true, recheck: recheckConfiguration,
		}, nil
	case errors.As(err, &failed):
		return standing{reason: failed.reason, message: failed.message, stalled: true, recheck: recheckSecret}, nil
	case errors.As(err, &refused):
		reason, known := refusalReasons[refused.Constraint]
		if !known {
			reason = dgmv1alpha1.ReasonRowRefused
		}
		message := refused.Message
		if applied.InForce {
			message += "; the value was allowed when it was set, and stays in force until it is changed"
		}
		return standing{reason: reason, message: message, stalled: true, inForce: applied.InForce, recheck: recheckConfiguration}, nil
	case errors.As(err, &taken):
		return standing{reason: dgmv1alpha1.ReasonKeyTaken, message: taken.Error(), stalled: true, recheck: recheckConfiguration}, nil
	case errors.Is(err, pgstore.ErrKeyset):
		return standing{reason: dgmv1alpha1.ReasonKeysetUnavailable, message: err.Error(), waits: true, recheck: recheckSecret}, nil
	case errors.Is(err, pgstore.ErrUnavailable):
		message := strings.TrimPrefix(err.Error(), pgstore.ErrUnavailable.Error()+": ")
		return standing{reason: dgmv1alpha1.ReasonDatabaseUnavailable, message: message, waits: true, recheck: lifecycle.FallbackInterval}, nil
	}
	return standing{}, err
}

// setStatus writes every condition by the rules of kstatus. While the database is
// away, a setting that it held keeps its conditions: it is in force still.
func (r *SystemConfigurationReconciler) setStatus(object *dgmv1alpha1.SystemConfiguration, s standing, applied pgstore.AppliedConfiguration) {
	conditions := &object.Status.Conditions
	was := apimeta.FindStatusCondition(*conditions, dgmv1alpha1.ConditionDatabaseSynced)
	if s.waits && was != nil && was.Status == metav1.ConditionTrue && was.ObservedGeneration == object.Generation {
		return
	}
	object.Status.ObservedGeneration = object.Generation
	message := cutTo(s.message, lifecycle.MaxMessage)
	set := func(conditionType string, status bool, message string) {
		value := metav1.ConditionFalse
		if status {
			value = metav1.ConditionTrue
		}
		apimeta.SetStatusCondition(conditions, metav1.Condition{
			Type: conditionType, Status: value, Reason: s.reason, Message: message, ObservedGeneration: object.Generation,
		})
	}
	said := func(status bool) string {
		if status {
			return message
		}
		return ""
	}
	set(dgmv1alpha1.ConditionReady, !s.stalled && !s.waits, message)
	set(dgmv1alpha1.ConditionReconciling, s.waits, said(s.waits))
	set(dgmv1alpha1.ConditionStalled, s.stalled, said(s.stalled))
	switch {
	case s.inForce:
		lifecycle.SetDatabaseSynced(conditions, object.Generation, true, dgmv1alpha1.ReasonSynced, "the database holds the value")
		object.Status.KeyID = applied.KeyID
		if applied.Changed || object.Status.LastAppliedTime.IsZero() {
			object.Status.LastAppliedTime = metav1.NewTime(applied.At.Truncate(time.Second))
		}
	default:
		lifecycle.SetDatabaseSynced(conditions, object.Generation, false, s.reason, s.message)
	}
	setSchemaIntact(conditions, object.Generation, r.Store.SchemaDrift())
}

// setSchemaIntact says whether the schema is what the migrations made. While this
// replica has not looked, what the last one found stands.
func setSchemaIntact(conditions *[]metav1.Condition, generation int64, drift pgstore.SchemaDrift) {
	condition := metav1.Condition{Type: dgmv1alpha1.ConditionSchemaIntact, ObservedGeneration: generation}
	switch {
	case drift.CheckedAt.IsZero():
		return
	case drift.NotJudged != "":
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, dgmv1alpha1.ReasonNotChecked, drift.NotJudged
	case drift.Drifted():
		condition.Status, condition.Reason = metav1.ConditionFalse, dgmv1alpha1.ReasonSchemaDrift
		condition.Message = cutTo(drift.Summary(), lifecycle.MaxMessage)
	default:
		condition.Status, condition.Reason = metav1.ConditionTrue, dgmv1alpha1.ReasonSchemaIntact
	}
	apimeta.SetStatusCondition(conditions, condition)
}

// secretValue reads a value. Its errors never hold it.
func (r *SystemConfigurationReconciler) secretValue(ctx context.Context, ref *dgmv1alpha1.SecretKeyReference) (string, error) {
	name := client.ObjectKey{Namespace: r.Namespace, Name: ref.Name}
	if name == r.Keyset {
		return "", fail(dgmv1alpha1.ReasonSecretRefused, "Secret %s holds the encryption keys, and is no value of a setting: name another one in spec.secretKeyRef", name)
	}
	var secret corev1.Secret
	err := r.Live.Get(ctx, name, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return "", fail(dgmv1alpha1.ReasonSecretNotFound, "Secret %s does not exist: create it, or correct spec.secretKeyRef.name", name)
	case apierrors.IsForbidden(err):
		return "", fail(dgmv1alpha1.ReasonForbidden, "the operator may not read Secret %s: use dgm-operator-settings, or allow it: %s", name, r.grant(ref.Name))
	case err != nil:
		return "", err
	}
	value, found := secret.Data[ref.Key]
	if !found {
		return "", fail(dgmv1alpha1.ReasonSecretNotFound, "Secret %s has no key %s: add it, or correct spec.secretKeyRef.key", name, ref.Key)
	}
	return string(value), nil
}

// grant is what lets the operator read a Secret.
func (r *SystemConfigurationReconciler) grant(secret string) string {
	role := "dgm-operator-read-" + secret
	return fmt.Sprintf("kubectl create role %s --namespace %s --verb=get --resource=secrets --resource-name=%s && kubectl create rolebinding %s --namespace %s --role=%s --serviceaccount=%s",
		role, r.Namespace, secret, role, r.Namespace, role, r.Operator)
}
