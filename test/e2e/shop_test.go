// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// newShop makes a namespace with the sample service and its accounts, all but what `without` names.
func newShop(t *testing.T, without ...client.Object) (namespace string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "shop-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	create(t, ns)
	t.Cleanup(func() { _ = stack.client.Delete(context.Background(), ns) })
	for _, file := range []string{"checkout.yaml", "improver.yaml"} {
		for _, object := range manifests(t, "examples/shop/"+file, ns.Name) {
			if !contains(without, object) {
				create(t, object)
			}
		}
	}
	return ns.Name
}

func contains(list []client.Object, object *unstructured.Unstructured) bool {
	for _, o := range list {
		kind, err := stack.client.GroupVersionKindFor(o)
		if err == nil && kind == object.GroupVersionKind() && o.GetName() == object.GetName() {
			return true
		}
	}
	return false
}

// optIn is the RoleBinding by which a namespace lets the operator act there.
func optIn(namespace string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "dgm-tenant", Namespace: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dgm-tenant"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: operatorName, Namespace: systemNS}},
	}
}

// manifests reads a file of the repository that is for namespace shop, for another one.
func manifests(t *testing.T, file, namespace string) []*unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	for _, written := range []string{"namespace: %s", `namespace="%s"`} {
		content = bytes.ReplaceAll(content, fmt.Appendf(nil, written, "shop"), fmt.Appendf(nil, written, namespace))
	}
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		objects = append(objects, object)
	}
}

// sample is the one improvement of a file of the repository, for another namespace.
func sample(t *testing.T, file, namespace string) *dgmv1alpha1.ImprovementWorkspace {
	t.Helper()
	w := &dgmv1alpha1.ImprovementWorkspace{}
	for _, object := range manifests(t, file, namespace) {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, w, true); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return w
}

// customers put the shop under load, and wait until its service answers.
func customers(t *testing.T, namespace string) {
	t.Helper()
	for _, object := range manifests(t, "examples/shop/load.yaml", namespace) {
		create(t, object)
	}
	eventually(t, "the customers", func(ctx context.Context) error {
		d := &appsv1.Deployment{}
		if err := stack.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "customers"}, d); err != nil {
			return err
		}
		if d.Status.AvailableReplicas != 1 {
			return fmt.Errorf("%d available", d.Status.AvailableReplicas)
		}
		return nil
	})
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := stack.client.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// cacheImprovement is the improvement of the sample service, with a CACHE_TTL of its own.
func cacheImprovement(namespace, name, ttl string) *dgmv1alpha1.ImprovementWorkspace {
	return &dgmv1alpha1.ImprovementWorkspace{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: dgmv1alpha1.ImprovementWorkspaceSpec{
			Description: "Serve the product list from cache for " + ttl + " s",
			Type:        dgmv1alpha1.ConfigurationUpdate,
			Target: dgmv1alpha1.Target{
				Service: "checkout",
				Ref:     dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"},
			},
			ServiceAccountName: "improver",
			Changes: []dgmv1alpha1.Change{{
				Name:      "cache",
				TargetRef: dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "checkout-config"},
				Type:      dgmv1alpha1.PatchMerge,
				Patch:     fmt.Sprintf(`{"data": {"CACHE_TTL": %q}}`, ttl),
			}},
		},
	}
}

// expectPhase waits until the improvement is in the phase and the database says so.
func expectPhase(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, phase dgmv1alpha1.Phase) {
	t.Helper()
	expectStatus(t, w, func() error {
		if w.Status.Phase != phase || !meta.IsStatusConditionTrue(w.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced) {
			return fmt.Errorf("phase is %s; want %s and DatabaseSynced", w.Status.Phase, phase)
		}
		return nil
	})
}

// expectStatus waits until check, which looks at w, returns nil.
func expectStatus(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, check func() error) {
	t.Helper()
	eventually(t, "improvement "+w.Name, func(ctx context.Context) error {
		if err := stack.client.Get(ctx, client.ObjectKeyFromObject(w), w); err != nil {
			return err
		}
		if err := check(); err != nil {
			return fmt.Errorf("%w (conditions: %+v)", err, w.Status.Conditions)
		}
		return nil
	})
}

// order gives a command by annotation.
func order(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, annotation, reason string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q,%q:%q}}}`, annotation, "token-"+w.ResourceVersion,
		annotation+dgmv1alpha1.AnnotationReasonSuffix, reason)
	if err := stack.client.Patch(t.Context(), w, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

func checkoutConfig(t *testing.T, namespace string) *corev1.ConfigMap {
	t.Helper()
	c := &corev1.ConfigMap{}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "checkout-config"}, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// rowsOf asks for the status of an improvement in both tables.
const rowsOf = `SELECT w.status, a.status, a.attempt::text, (a.deleted_at IS NOT NULL)::text
	FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id)
	WHERE w.namespace = $1 AND w.name = $2 AND a.improvement_id = $3`

func expectRows(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, workspaceStatus, archiveStatus, deleted string) {
	t.Helper()
	expectRow(t, []string{workspaceStatus, archiveStatus, fmt.Sprint(w.Status.Attempt), deleted}, rowsOf,
		w.Namespace, w.Name, w.Status.ImprovementID)
}
