// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// A StatefulSet with storage and a DaemonSet: tried as copies, restarted, and
// restarted again when the change is put back.
func TestP2_StatefulSetAndDaemonSetAreTriedRestartedAndPutBack(t *testing.T) {
	t.Parallel()
	ns := newWorkloads(t)
	before := podsOf(t, ns)
	// Eight lists that nobody has asked for are slow, and fast the second time.
	test := smokeTest(t, "twice", "-url", "http://stock/products", "-rate", "10", "-duration", "700ms", "-max-p50", "50ms")
	test.Retries = new(int32(1))
	w := cacheImprovement(ns, "cache", "60")
	w.Spec.Target.Ref = dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "stock"}
	w.Spec.Rollout = &dgmv1alpha1.Rollout{Restart: []dgmv1alpha1.WorkloadReference{{Kind: "StatefulSet", Name: "stock"}, {Kind: "DaemonSet", Name: "edge"}}}
	w.Spec.Sandbox = &dgmv1alpha1.Sandbox{Include: []dgmv1alpha1.ObjectReference{
		{APIVersion: "v1", Kind: "PersistentVolumeClaim", Name: "stock"}, {APIVersion: "v1", Kind: "Service", Name: "stock"},
	}}
	w.Spec.Tests = []dgmv1alpha1.Test{test}
	create(t, w)

	expectTestRuns(t, w)
	expectPowerless(t, w.Status.Sandbox.Namespace)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	// In the second try every list is in the cache. The pods with the labels of the Job have written nothing.
	expectRow(t, []string{"Passed", "2", "1", "0"}, `SELECT value ->> 'outcome', value ->> 'tries', value #>> '{results,hitRatio}', value #>> '{results,errors}'
		FROM dgm.improvement_workspaces, jsonb_each(test_results -> 'tests') WHERE improvement_id = $1 AND key = 'twice'`, w.Status.ImprovementID)
	for _, part := range []string{"Secret/db, which StatefulSet/stock uses: Secrets are not copied", "DaemonSet/edge: it is tried as a Deployment of one pod"} {
		if !strings.Contains(w.Status.Sandbox.LeftOut, part) {
			t.Errorf("left out is %q; want %q", w.Status.Sandbox.LeftOut, part)
		}
	}
	changed := podsOf(t, ns)
	for name, pod := range changed {
		if pod.UID == before[name].UID || pod.CreationTimestamp.Time.Before(w.Status.ActiveSince.Time) {
			t.Errorf("pod %s of %s is no newer than the change", pod.Name, pod.CreationTimestamp)
		}
	}

	order(t, w, dgmv1alpha1.AnnotationRollback, "prices were stale")
	expectPhase(t, w, dgmv1alpha1.PhaseRolledBack)
	for name, pod := range podsOf(t, ns) {
		if pod.UID == changed[name].UID || pod.Annotations[dgmv1alpha1.AnnotationRestartedFor] != "" {
			t.Errorf("pod %s is still that of the change: %v", pod.Name, pod.Annotations)
		}
	}
	expectNoSandbox(t, w)
}

// A StatefulSet does not replace a broken pod, not even by what worked before: the
// improvement says what to type, deletes nothing itself, and ends when that is done.
func TestP2_ABrokenStatefulSetIsPutBackWithTheHelpOfAPerson(t *testing.T) {
	t.Parallel()
	ns := newWorkloads(t)
	w := cacheImprovement(ns, "broken", "60")
	stock := dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "stock"}
	w.Spec.Target.Ref, w.Spec.Rollout = stock, &dgmv1alpha1.Rollout{Timeout: "90s"}
	w.Spec.Changes = []dgmv1alpha1.Change{{
		Name: "args", Type: dgmv1alpha1.PatchStrategicMerge, TargetRef: stock,
		Patch: `spec: {template: {spec: {containers: [{name: checkout, args: [-no-such-flag]}]}}}`,
	}}
	create(t, w)
	command := ""
	expectStatus(t, w, func() error {
		if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReady); c != nil {
			command = regexp.MustCompile(`kubectl delete pod .*`).FindString(c.Message)
		}
		if w.Status.Phase != dgmv1alpha1.PhaseRollingBack || command == "" {
			return fmt.Errorf("phase %s; want RollingBack, and what to type", w.Status.Phase)
		}
		return nil
	})
	if !strings.Contains(w.Status.RollbackReason, "pod stock-0, container checkout: CrashLoopBackOff") {
		t.Errorf("rolled back since %q", w.Status.RollbackReason)
	}
	if want := "kubectl delete pod stock-0 --namespace=" + ns; command != want {
		t.Fatalf("the command is %q; want %q", command, want)
	}
	administrator().types(t, command)
	expectFinished(t, w, dgmv1alpha1.PhaseRolledBack)
	podsOf(t, ns)
}

// newWorkloads is a shop with a StatefulSet, a DaemonSet and storage for the
// claim of the StatefulSet and for its copy.
func newWorkloads(t *testing.T) (namespace string) {
	t.Helper()
	ns := newShop(t)
	for i := range 2 {
		volume := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", ns, i)},
			Spec: corev1.PersistentVolumeSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ns,
				Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}},
			},
		}
		create(t, volume)
		t.Cleanup(func() { _ = stack.client.Delete(context.Background(), volume) })
	}
	for _, object := range manifests(t, "test/e2e/testdata/workloads.yaml", ns) {
		if object.GetKind() == "PersistentVolumeClaim" {
			object.Object["spec"].(map[string]any)["storageClassName"] = ns
		}
		create(t, object)
	}
	eventually(t, "the workloads", func(ctx context.Context) error {
		pods, err := serving(ctx, ns)
		if err == nil && len(pods) != 2 {
			err = fmt.Errorf("%d pods serve", len(pods))
		}
		return err
	})
	return ns
}

// podsOf are the pods of StatefulSet and DaemonSet, by their label app. They have
// to be ready already: nobody waits for them here.
func podsOf(t *testing.T, namespace string) map[string]corev1.Pod {
	t.Helper()
	pods, err := serving(t.Context(), namespace)
	if err != nil || len(pods) != 2 {
		t.Fatalf("the pods that serve are %v: %v", maps.Keys(pods), err)
	}
	return pods
}

func serving(ctx context.Context, namespace string) (map[string]corev1.Pod, error) {
	list, set := &corev1.PodList{}, &appsv1.StatefulSet{}
	if err := stack.client.List(ctx, list, client.InNamespace(namespace), client.HasLabels{"app"}); err != nil {
		return nil, err
	}
	if err := stack.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "stock"}, set); err != nil {
		return nil, err
	}
	if set.Status.AvailableReplicas != 1 {
		return nil, fmt.Errorf("StatefulSet/stock is %+v", set.Status)
	}
	pods := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
				pods[pod.Labels["app"]] = pod
			}
		}
	}
	return pods, nil
}

// expectPowerless asks the API server what the account of a sandbox's pods may
// do, and looks at the only Secret there.
func expectPowerless(t *testing.T, sandbox string) {
	t.Helper()
	for _, may := range []authorizationv1.ResourceAttributes{
		{Verb: "get", Resource: "secrets"}, {Verb: "create", Resource: "pods"}, {Verb: "update", Resource: "pods", Subresource: "status"},
		{Verb: "update", Group: "batch", Resource: "jobs", Subresource: "status"}, {Verb: "patch", Group: "dgm.acgs.io", Resource: "improvementworkspaces", Subresource: "status"},
	} {
		may.Namespace = sandbox
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + sandbox + ":dgm-sandbox", Groups: []string{"system:serviceaccounts", "system:authenticated"}, ResourceAttributes: &may,
		}}
		create(t, review)
		if review.Status.Allowed {
			t.Errorf("pods of the sandbox may %s %s/%s", may.Verb, may.Resource, may.Subresource)
		}
	}
	secrets := &corev1.SecretList{}
	if err := stack.client.List(t.Context(), secrets, client.InNamespace(sandbox)); err != nil || len(secrets.Items) != 1 || secrets.Items[0].Type != corev1.SecretTypeDockerConfigJson {
		t.Errorf("the sandbox has %d Secrets (%v); want the one by which images are pulled", len(secrets.Items), err)
	}
}
