// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestP2_ChangesAreFollowedToHealthyPods(t *testing.T) {
	t.Parallel()
	ns := newRolloutShop(t)
	before := checkoutPod(t, ns)

	t.Run("a restart", func(t *testing.T) {
		w := cacheImprovement(ns, "cache", "60")
		w.Spec.Rollout = &dgmv1alpha1.Rollout{
			Restart: []dgmv1alpha1.WorkloadReference{{Kind: "Deployment", Name: "checkout"}}, Timeout: "60s",
		}
		create(t, w)
		expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
		after := checkoutPod(t, ns)
		if after.UID == before.UID || after.CreationTimestamp.Time.Before(w.Status.ActiveSince.Time) {
			t.Errorf("pod %s of %s serves, which is no newer than the change", after.Name, after.CreationTimestamp)
		}
		order(t, w, dgmv1alpha1.AnnotationRollback, "prices were stale")
		expectPhase(t, w, dgmv1alpha1.PhaseRolledBack)
		if restored := checkoutPod(t, ns); restored.UID == after.UID {
			t.Errorf("pod %s still serves after the rollback", restored.Name)
		} else if _, marked := restored.Annotations[dgmv1alpha1.AnnotationRestartedFor]; marked {
			t.Errorf("the restored pod is marked: %v", restored.Annotations)
		}
	})

	t.Run("another environment", func(t *testing.T) {
		w := deploymentImprovement(ns, "env", `spec: {template: {spec: {containers: [{name: checkout, env: [{name: COLOR, value: green}]}]}}}`)
		create(t, w)
		expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
		if env := checkoutPod(t, ns).Spec.Containers[0].Env; len(env) != 1 || env[0].Value != "green" {
			t.Errorf("the pod that serves has %v", env)
		}
	})
}

// The service answers every request while a change that crashes is made, found
// out and put back: the pods of the state before are never touched.
func TestP2_ABrokenChangeIsPutBackAndServesAllTheTime(t *testing.T) {
	t.Parallel()
	ns := newRolloutShop(t)
	before := checkoutPod(t, ns)
	stop := requestAlways(t, ns)

	w := deploymentImprovement(ns, "broken", `spec: {template: {spec: {containers: [{name: checkout, args: [-no-such-flag]}]}}}`)
	w.Spec.Rollout.Timeout = "5m"
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseRolledBack)
	for _, part := range []string{dgmv1alpha1.ReasonRolloutFailed, "container checkout: CrashLoopBackOff", "exit code 2"} {
		if !strings.Contains(w.Status.RollbackReason, part) {
			t.Errorf("rolled back since %q, which does not say %q", w.Status.RollbackReason, part)
		}
	}
	expectRows(t, w, "failed", "rolled_back", "false")
	answered, failed := stop()
	if len(failed) > 0 || answered < 30 {
		t.Errorf("%d requests were answered, %d failed: %v", answered, len(failed), slices.Collect(maps.Keys(failed)))
	}
	t.Logf("%d requests, none failed", answered)
	if after := checkoutPod(t, ns); after.UID != before.UID {
		t.Errorf("pod %s serves in the place of %s", after.Name, before.Name)
	}
}

// newRolloutShop is a shop whose account may change the Deployment and see its pods.
func newRolloutShop(t *testing.T) (namespace string) {
	t.Helper()
	ns := newShop(t)
	create(t, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "rollout", Namespace: ns},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "patch"}},
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
		},
	})
	create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "rollout", Namespace: ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "rollout"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "improver", Namespace: ns}},
	})
	return ns
}

func deploymentImprovement(namespace, name, patch string) *dgmv1alpha1.ImprovementWorkspace {
	w := cacheImprovement(namespace, name, "60")
	w.Spec.Changes = []dgmv1alpha1.Change{{
		Name: name, Type: dgmv1alpha1.PatchStrategicMerge, Patch: patch,
		TargetRef: dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"},
	}}
	w.Spec.Rollout = &dgmv1alpha1.Rollout{Timeout: "60s"}
	return w
}

// checkoutPod is the one pod of the service, once it is available and the others
// are gone.
func checkoutPod(t *testing.T, namespace string) corev1.Pod {
	t.Helper()
	var serving []corev1.Pod
	eventually(t, "the pod that serves", func(ctx context.Context) error {
		d := &appsv1.Deployment{}
		if err := stack.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "checkout"}, d); err != nil {
			return err
		}
		pods := &corev1.PodList{}
		if err := stack.client.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/name": "checkout"}); err != nil {
			return err
		}
		serving = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		if len(serving) != 1 || d.Status.AvailableReplicas != 1 {
			return fmt.Errorf("%d pods, %d available", len(serving), d.Status.AvailableReplicas)
		}
		return nil
	})
	return serving[0]
}

// requestAlways asks the service again and again, over new connections, until it
// is stopped; it returns how many requests were answered and how the others failed.
func requestAlways(t *testing.T, namespace string) (stop func() (answered int, failed map[string]int)) {
	t.Helper()
	service := &corev1.Service{}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "checkout"}, service); err != nil {
		t.Fatal(err)
	}
	url := "http://" + service.Spec.ClusterIP + "/settings"
	eventually(t, "the service", func(ctx context.Context) error {
		_, err := httpGet(ctx, url)
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	answered, failed := 0, map[string]int{}
	var done sync.WaitGroup
	done.Go(func() {
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			response, err := fresh.Get(url) //nolint:noctx // it has a timeout, and is not to be broken off
			switch {
			case err != nil:
				failed[err.Error()]++
				continue
			case response.StatusCode != http.StatusOK:
				failed[response.Status]++
			default:
				answered++
			}
			_ = response.Body.Close()
		}
	})
	return func() (int, map[string]int) {
		cancel()
		done.Wait()
		return answered, failed
	}
}
