// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// checkParent waits for the improvement that this one builds on.
func (s *step) checkParent(ctx context.Context) error {
	ref := s.w.Spec.ParentRef
	if ref == nil {
		return nil
	}
	parent := &dgmv1alpha1.ImprovementWorkspace{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.w.Namespace, Name: ref.Name}, parent)
	if apierrors.IsNotFound(err) {
		parent, err = nil, nil
	}
	if err != nil {
		return err
	}
	switch lineage := lifecycle.EvaluateParent(s.w, parent); lineage.Reason {
	case "":
		return nil
	case dgmv1alpha1.ReasonParentFailed:
		return fail(lineage.Reason, "%s", lineage.Message)
	default:
		return &pause{reason: lineage.Reason, message: lineage.Message, recheck: lifecycle.FallbackInterval}
	}
}

// parentIndex finds improvements by the one that they build on.
const parentIndex = "spec.parentRef.name"

func indexParents(mgr ctrl.Manager) error {
	return mgr.GetFieldIndexer().IndexField(context.Background(), &dgmv1alpha1.ImprovementWorkspace{}, parentIndex, func(object client.Object) []string {
		w, ok := object.(*dgmv1alpha1.ImprovementWorkspace)
		if !ok || w.Spec.ParentRef == nil {
			return nil
		}
		return []string{w.Spec.ParentRef.Name}
	})
}

// childrenOf are the improvements that wait for one that has ended.
func (r *ImprovementWorkspaceReconciler) childrenOf(ctx context.Context, object client.Object) []reconcile.Request {
	parent, ok := object.(*dgmv1alpha1.ImprovementWorkspace)
	if !ok || !parent.Status.Phase.IsTerminal() {
		return nil
	}
	var children dgmv1alpha1.ImprovementWorkspaceList
	err := r.Client.List(ctx, &children, client.InNamespace(parent.Namespace), client.MatchingFields{parentIndex: parent.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		log.FromContext(ctx).Error(err, "Cannot find the improvements that build on this one; they look again by themselves", "improvement", parent.Name)
		return nil
	}
	var waiting []reconcile.Request
	for i := range children.Items {
		if children.Items[i].Status.Phase == dgmv1alpha1.PhasePending {
			waiting = append(waiting, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&children.Items[i])})
		}
	}
	return waiting
}
