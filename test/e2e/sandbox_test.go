// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// testedImprovement is one whose change is tried in a sandbox by tests that send
// real requests to the copy.
func testedImprovement(t *testing.T, namespace, name, ttl string, tests ...dgmv1alpha1.Test) *dgmv1alpha1.ImprovementWorkspace {
	t.Helper()
	create(t, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tester"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"services"}, ResourceNames: []string{"checkout"}, Verbs: []string{"get"}},
	}})
	create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tester"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "tester"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "improver"}},
	})
	w := cacheImprovement(namespace, name, ttl)
	w.Spec.Sandbox = &dgmv1alpha1.Sandbox{Mode: dgmv1alpha1.SandboxNamespace, Include: []dgmv1alpha1.ObjectReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"}, {APIVersion: "v1", Kind: "Service", Name: "checkout"},
	}}
	w.Spec.Tests = tests
	return w
}

// smokeTest measures the copy; the arguments, of which the last of a kind counts,
// say how and what it may take.
func smokeTest(t *testing.T, name string, args ...string) dgmv1alpha1.Test {
	t.Helper()
	container := map[string]any{
		"name": "smoke", "image": "shop/checkout:1", "imagePullPolicy": "IfNotPresent",
		"command":         append([]string{"/checkout", "smoke", "-url", "http://checkout/products", "-rate", "40", "-duration", "3s"}, args...),
		"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}}},
	}
	template, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers":      []any{container},
		"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	return dgmv1alpha1.Test{Name: name, Timeout: "1m", JobTemplate: runtime.RawExtension{Raw: template}}
}

// expectNoSandbox waits until the sandboxes of a namespace are gone, and status says so.
func expectNoSandbox(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	expectStatus(t, w, func() error {
		if w.Status.Sandbox == nil || !w.Status.Sandbox.Removed {
			return fmt.Errorf("the sandbox is %+v", w.Status.Sandbox)
		}
		return nil
	})
	left := &corev1.NamespaceList{}
	if err := stack.client.List(t.Context(), left, client.MatchingLabels{dgmv1alpha1.LabelSandbox: string(w.UID)}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d sandboxes are left: %v", len(left.Items), err)
	}
}

// expectTestRuns waits until the first test was started.
func expectTestRuns(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	expectStatus(t, w, func() error {
		if len(w.Status.Tests) == 0 {
			return fmt.Errorf("phase %s: no test runs yet", w.Status.Phase)
		}
		return nil
	})
}

const testRow = `SELECT value->>'outcome', value->>'exitCode', (value->'results'->>'requests')::int > 50, (value->'results'->>'errors'),
	value->>'log' LIKE '%requests%p50%' FROM dgm.improvement_workspaces, jsonb_each(test_results->'tests') WHERE improvement_id = $1 AND key = $2`

func TestSandboxTriesTheChangeWithRealPodsAndTests(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := testedImprovement(t, ns, "cache", "60", smokeTest(t, "smoke", "-max-p50", "50ms"))
	create(t, w)
	expectTestRuns(t, w)
	expectIsolated(t, w)
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "5" {
		t.Errorf("CACHE_TTL is %q while the change is tried; want 5", ttl)
	}

	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	expectRow(t, []string{"Passed", "0", "true", "0", "true"}, testRow, w.Status.ImprovementID, "smoke")
	expectNoSandbox(t, w)
	expectServed(t, ns, "60")
}

// expectIsolated looks at the sandbox while its test runs. The local cluster's
// network enforces no NetworkPolicy: the objects are what can be seen.
func expectIsolated(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	in := client.InNamespace(w.Status.Sandbox.Namespace)
	eventually(t, "the sandbox", func(ctx context.Context) error {
		config, deployment := &corev1.ConfigMap{}, &appsv1.Deployment{}
		if err := stack.client.Get(ctx, client.ObjectKey{Namespace: w.Status.Sandbox.Namespace, Name: "checkout-config"}, config); err != nil {
			return err
		}
		if err := stack.client.Get(ctx, client.ObjectKey{Namespace: w.Status.Sandbox.Namespace, Name: "checkout"}, deployment); err != nil {
			return err
		}
		if config.Data["CACHE_TTL"] != "60" || deployment.Status.AvailableReplicas != 1 {
			return fmt.Errorf("the copy has CACHE_TTL %q and %d available pods; want 60 and 1", config.Data["CACHE_TTL"], deployment.Status.AvailableReplicas)
		}
		return nil
	})
	policies, pods, namespace := &networkingv1.NetworkPolicyList{}, &corev1.PodList{}, &corev1.Namespace{}
	for _, list := range []client.ObjectList{policies, pods} {
		if err := stack.client.List(t.Context(), list, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Name: w.Status.Sandbox.Namespace}, namespace); err != nil {
		t.Fatal(err)
	}
	if len(policies.Items) != 2 || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("%d policies, labels %v; want 2 and the pod security of the shop", len(policies.Items), namespace.Labels)
	}
	for _, pod := range pods.Items {
		for _, volume := range pod.Spec.Volumes {
			if volume.Projected != nil || volume.Secret != nil {
				t.Errorf("pod %s has volume %s, a token or a Secret", pod.Name, volume.Name)
			}
		}
	}
}

func TestSandboxFailingTestLeavesTheLiveServiceAlone(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := testedImprovement(t, ns, "no-cache", "0", smokeTest(t, "quick", "-max-p50", "1ms"), smokeTest(t, "never"))
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseFailed)
	expectRow(t, []string{"Failed", "1", "true", "0", "true"}, testRow, w.Status.ImprovementID, "quick")
	expectRow(t, []string{"quick"}, `SELECT string_agg(key, ',') FROM dgm.improvement_workspaces, jsonb_object_keys(test_results->'tests') key WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectNoSandbox(t, w)
	for _, c := range w.Status.Conditions {
		if c.Type == dgmv1alpha1.ConditionStalled && (c.Reason != dgmv1alpha1.ReasonTestsFailed || !strings.Contains(c.Message, "exit code 1: checkout: p50 is")) {
			t.Errorf("Stalled says %s: %s; want the exit code and the last line", c.Reason, c.Message)
		}
	}
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "5" {
		t.Errorf("CACHE_TTL is %q after a failed test; want 5", ttl)
	}
	expectServed(t, ns, "5")
}

func TestSandboxEndsATestInTime(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	endless := smokeTest(t, "endless", "-duration", "10m")
	endless.Timeout = "2s"
	w := testedImprovement(t, ns, "cache", "60", endless)
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseFailed)
	if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionStalled); c.Reason != dgmv1alpha1.ReasonTestsFailed || !strings.Contains(c.Message, "test endless: TimedOut: it did not end within 2s") {
		t.Errorf("Stalled says %s: %s", c.Reason, c.Message)
	}
	expectNoSandbox(t, w)
	expectServed(t, ns, "5")
}

// Whoever deletes a namespace need not know what is tried for it elsewhere.
func TestSandboxGoesWithItsNamespace(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := testedImprovement(t, ns, "cache", "60", smokeTest(t, "endless", "-duration", "10m"))
	create(t, w)
	expectTestRuns(t, w)
	if err := stack.client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both namespaces go", func(ctx context.Context) error {
		for _, name := range []string{ns, w.Status.Sandbox.Namespace} {
			if err := stack.client.Get(ctx, client.ObjectKey{Name: name}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s is there: %w", name, err)
			}
		}
		return nil
	})
	expectRows(t, w, "failed", "failed", "true")
}
