// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// asOperator is a client with the rights of the operator and no others.
func (w *world) asOperator() client.Client {
	w.Helper()
	c, err := client.New(operatortest.ClusterConfig(w), client.Options{Scheme: w.Scheme()})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func sandboxNamed(name, uid string) *corev1.Namespace {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if uid != "" {
		namespace.Labels = map[string]string{dgmv1alpha1.LabelSandbox: uid}
	}
	return namespace
}

func bindingOf(namespace, role, account string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "binding"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "dgm-system", Name: account}},
	}
}

func TestP8_TheOperatorsRightToMakeNamespacesEndsAtSandboxes(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	operator := w.asOperator()
	sandbox := sandboxNamed("dgm-sandbox-00000000000000000001", "a-uid")
	if err := operator.Create(ctx, sandbox); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Delete(ctx, sandbox) })
	foreign := sandboxNamed(w.namespace, "")
	taken := sandboxNamed(sandbox.Name, "another-uid")
	freed := sandboxNamed(sandbox.Name, "")

	for name, attempt := range map[string]func() error{
		"the operator makes any namespace":                func() error { return operator.Create(ctx, sandboxNamed("shop-of-the-operator", "a-uid")) },
		"the operator makes a sandbox without the label":  func() error { return operator.Create(ctx, sandboxNamed("dgm-sandbox-x", "")) },
		"the operator deletes a namespace":                func() error { return operator.Delete(ctx, foreign) },
		"the operator binds its role in a tenant's place": func() error { return operator.Create(ctx, bindingOf(w.namespace, "dgm-sandbox", "dgm-operator")) },
		"the operator binds another role in a sandbox":    func() error { return operator.Create(ctx, bindingOf(sandbox.Name, "cluster-admin", "dgm-operator")) },
		"the operator binds its role to somebody else":    func() error { return operator.Create(ctx, bindingOf(sandbox.Name, "dgm-sandbox", "other")) },
		"the operator makes objects without its role bound": func() error {
			return operator.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: sandbox.Name, Name: "x"}})
		},
		"an administrator makes a sandbox": func() error { return w.Create(ctx, sandboxNamed("dgm-sandbox-admin", "a-uid")) },
		"an administrator takes the name":  func() error { return w.Create(ctx, sandboxNamed("dgm-sandbox-admin", "")) },
		"an administrator has the name generated": func() error {
			return w.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "dgm-sandbox-"}})
		},
		"an administrator labels a namespace": func() error {
			return w.Patch(ctx, foreign.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"dgm.acgs.io/sandbox":"x"}}}`)))
		},
		"an administrator changes the label": func() error {
			return w.Patch(ctx, taken.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"dgm.acgs.io/sandbox":"x"}}}`)))
		},
		"an administrator removes the label": func() error {
			return w.Patch(ctx, freed.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`)))
		},
		"an administrator removes the label by the status": func() error {
			return w.Status().Patch(ctx, freed.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`)))
		},
	} {
		if err := attempt(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: the answer is %v; want Forbidden", name, err)
		}
	}

	// Even in a namespace whose owner binds the role to the operator, it makes nothing.
	w.create(bindingOf(w.namespace, "dgm-sandbox", "dgm-operator"))
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "x"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	w.eventually("the policy answers, not the missing right", func() error {
		err := operator.Create(ctx, deployment.DeepCopy())
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "in sandboxes only") {
			return errorf("the answer is %v", err)
		}
		return nil
	})
	if err := operator.Create(ctx, bindingOf(sandbox.Name, "dgm-sandbox", "dgm-operator")); err != nil {
		t.Errorf("the operator binds its role in a sandbox: %v", err)
	}
	if err := operator.Delete(ctx, sandbox.DeepCopy()); err != nil {
		t.Errorf("the operator deletes a sandbox: %v", err)
	}
}
