// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/snapshot"
	"github.com/acgs/dgm-operator/internal/tenant"
)

// surroundings is what the gates look at.
func (s *step) surroundings(ctx context.Context) lifecycle.Surroundings {
	return lifecycle.Surroundings{
		Database:  s.Store.Ready,
		Admission: func() error { return s.Admission.Admitted(ctx, s.w.CreationTimestamp.Time) },
		Frozen:    func() (string, error) { return s.frozen(ctx) },
		OptedIn: func() (bool, error) {
			return s.Accounts.OptedIn(ctx, s.w.Namespace, s.w.Spec.ServiceAccountName)
		},
		Blocker: func() lifecycle.Blocker {
			if s.w.Spec.Mode == dgmv1alpha1.ModeDryRun {
				return lifecycle.Blocker{}
			}
			return s.claims.Acquire(candidateOf(s.w))
		},
		MaxAttempts: s.Store.Settings().MaxAttempts,
		TenantRole:  s.TenantRole,
		Operator:    s.Operator,
	}
}

// namespace reads the improvement's namespace past the cache.
func (s *step) namespace(ctx context.Context) (*corev1.Namespace, error) {
	var namespace corev1.Namespace
	if err := s.Live.Get(ctx, client.ObjectKey{Name: s.w.Namespace}, &namespace); err != nil {
		return nil, fmt.Errorf("read namespace %s: %w", s.w.Namespace, err)
	}
	return &namespace, nil
}

// get reads an object as the tenant's account.
func (s *step) get(ctx context.Context, ref dgmv1alpha1.ObjectReference) (*unstructured.Unstructured, error) {
	account, err := s.Accounts.For(s.w.Namespace, s.w.Spec.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	live, err := account.Get(ctx, refOf(ref))
	return live, classify(err, s.request("get", ref.String()))
}

// getLive reads an object of a plan as the tenant's account; an object that was
// deleted and made anew is gone.
func (s *step) getLive(ctx context.Context, ref snapshot.ObjectRef) (*unstructured.Unstructured, error) {
	live, err := s.get(ctx, dgmv1alpha1.ObjectReference{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name})
	if err != nil {
		return nil, err
	}
	if string(live.GetUID()) != ref.UID {
		return nil, fail(dgmv1alpha1.ReasonTargetGone, "%s was deleted and made anew since its state was stored", ref)
	}
	return live, nil
}

// patchLive patches an object of a plan as the tenant's account.
func (s *step) patchLive(ctx context.Context, ref snapshot.ObjectRef, patch []byte, dryRun bool) (*unstructured.Unstructured, error) {
	account, err := s.Accounts.For(s.w.Namespace, s.w.Spec.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	reference := dgmv1alpha1.ObjectReference{APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name}
	live, err := account.Patch(ctx, refOf(reference), patchTypes[dgmv1alpha1.PatchJSON], patch, dgmv1alpha1.FieldManager, dryRun)
	return live, classify(err, s.request("patch", reference.String()))
}

// notOptedIn is the answer when the operator may not keep snapshots in the namespace.
func (s *step) notOptedIn() error {
	reason := dgmv1alpha1.ReasonNamespaceNotOptedIn
	if s.w.Status.Phase == dgmv1alpha1.PhaseRollingBack {
		reason = dgmv1alpha1.ReasonRollbackForbidden
	}
	return &pause{reason: reason, recheck: recheckRights, message: lifecycle.NotOptedIn(s.w, s.TenantRole, s.Operator)}
}

func (s *step) request(verb, object string) requestOf {
	return requestOf{
		verb: verb, object: object, account: s.w.Spec.ServiceAccountName, namespace: s.w.Namespace,
		notOptedIn: lifecycle.NotOptedIn(s.w, s.TenantRole, s.Operator),
	}
}

func refOf(ref dgmv1alpha1.ObjectReference) tenant.Ref {
	return tenant.Ref{GVK: ref.GroupVersionKind(), Name: ref.Name}
}
