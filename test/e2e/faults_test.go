// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// These disturb what all tests share: they run one after the other, before the parallel ones go on.

func TestP3_OperatorKilledAtAnyMomentLosesNothing(t *testing.T) {
	const shops = 6
	var all []*dgmv1alpha1.ImprovementWorkspace
	for range shops {
		all = append(all, cacheImprovement(newShop(t), "cache", "60"))
	}
	for i, w := range all {
		create(t, w)
		if i%2 == 1 {
			killOperator(t)
			time.Sleep(time.Duration(i) * 300 * time.Millisecond) // another moment each time
		}
	}
	for _, w := range all {
		expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
		expectRows(t, w, "completed", "completed", "false")
		if ttl := checkoutConfig(t, w.Namespace).Data["CACHE_TTL"]; ttl != "60" {
			t.Errorf("CACHE_TTL in %s is %q; want 60", w.Namespace, ttl)
		}
		if w.Status.Attempt != 1 {
			t.Errorf("%s took %d attempts; want 1", w.Namespace, w.Status.Attempt)
		}
	}
}

// The operator is killed while a test runs in the sandbox, and while the new pods
// are awaited: nothing is done twice, and no sandbox is left.
func TestP2_OperatorKilledWhileOthersWorkForIt(t *testing.T) {
	ns := newShop(t)
	w := testedImprovement(t, ns, "cache", "60", smokeTest(t, "smoke"))
	w.Spec.Rollout = &dgmv1alpha1.Rollout{Restart: []dgmv1alpha1.WorkloadReference{{Kind: "Deployment", Name: "checkout"}}}
	create(t, w)
	for _, reason := range []string{dgmv1alpha1.ReasonTesting, dgmv1alpha1.ReasonRollingOut} {
		expectStatus(t, w, func() error {
			c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling)
			if c == nil || c.Reason != reason || len(w.Status.Tests) == 0 {
				return fmt.Errorf("phase %s; want %s", w.Status.Phase, reason)
			}
			return nil
		})
		killOperator(t)
	}
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	expectRow(t, []string{"Passed", "1"}, `SELECT test_results #>> '{tests,smoke,outcome}', test_results #>> '{tests,smoke,tries}' FROM dgm.improvement_workspaces WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectNoSandbox(t, w)
	d := &appsv1.Deployment{}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "checkout"}, d); err != nil || d.Generation != 2 {
		t.Errorf("the Deployment was written %d times (%v); want once", d.Generation-1, err)
	}
}

func TestP3_DeletionWhileTheOperatorIsAwayBecomesATombstone(t *testing.T) {
	ns := newShop(t)
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	scaleOperator(t, 0)
	t.Cleanup(func() { scaleOperator(t, 1) })
	if err := stack.client.Delete(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	scaleOperator(t, 1)
	expectRows(t, w, "completed", "completed", "true")
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "60" {
		t.Errorf("CACHE_TTL is %q; deleting a completed improvement keeps its change", ttl)
	}
}

func TestP10_RollbackNeedsNoDatabase(t *testing.T) {
	w, late := cacheImprovement(newShop(t), "cache", "60"), cacheImprovement(newShop(t), "cache", "60")
	create(t, w)
	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	stopDatabase(t)

	order(t, w, dgmv1alpha1.AnnotationRollback, "with the database away")
	expectStatus(t, w, func() error {
		if w.Status.Phase != dgmv1alpha1.PhaseRolledBack || meta.IsStatusConditionTrue(w.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced) {
			return fmt.Errorf("phase %s; want RolledBack and not DatabaseSynced", w.Status.Phase)
		}
		return nil
	})
	if ttl := checkoutConfig(t, w.Namespace).Data["CACHE_TTL"]; ttl != "5" {
		t.Errorf("CACHE_TTL is %q after the rollback; want 5", ttl)
	}

	create(t, late)
	expectStatus(t, late, func() error {
		c := meta.FindStatusCondition(late.Status.Conditions, dgmv1alpha1.ConditionReconciling)
		if late.Status.Phase != dgmv1alpha1.PhasePending || c == nil || c.Reason != dgmv1alpha1.ReasonDatabaseUnavailable {
			return fmt.Errorf("phase %s; want Pending, DatabaseUnavailable", late.Status.Phase)
		}
		return nil
	})

	startDatabase(t)
	expectPhase(t, w, dgmv1alpha1.PhaseRolledBack)
	expectRows(t, w, "failed", "rolled_back", "false")
	expectPhase(t, late, dgmv1alpha1.PhaseCompleted)
}

func TestP10_StartsWithoutDatabase(t *testing.T) {
	scaleOperator(t, 0)
	t.Cleanup(func() { scaleOperator(t, 1) })
	stopDatabase(t)
	setReplicas(t, 1)
	var pod corev1.Pod
	eventually(t, "an operator that runs and is not ready", func(ctx context.Context) error {
		pods, err := operatorPods(ctx)
		if err != nil || len(pods) != 1 || len(pods[0].Status.ContainerStatuses) != 1 {
			return fmt.Errorf("%d pods: %w", len(pods), err)
		}
		if pod = pods[0]; pod.Status.ContainerStatuses[0].State.Running == nil || time.Since(pod.CreationTimestamp.Time) < 15*time.Second {
			return errors.New("not yet running for 15 s")
		}
		return nil
	})
	if s := pod.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.Ready {
		t.Errorf("without a database: %d restarts, ready %v; want none, not ready", s.RestartCount, s.Ready)
	}
	startDatabase(t)
	scaleOperator(t, 1)
}

func TestP4_AnotherReplicaTakesOverWithAHigherEpoch(t *testing.T) {
	scaleOperator(t, 2)
	t.Cleanup(func() { scaleOperator(t, 1) })
	first, second := cacheImprovement(newShop(t), "cache", "60"), cacheImprovement(newShop(t), "cache", "60")
	create(t, first)
	expectPhase(t, first, dgmv1alpha1.PhaseCompleted)
	epoch := epochOf(t, first)

	lease := &coordinationv1.Lease{}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Namespace: systemNS, Name: operatorName}, lease); err != nil {
		t.Fatal(err)
	}
	leader, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: systemNS, Name: leader}}
	if err := stack.client.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	// The process may outlive its pod for a moment.
	eventually(t, "another replica leads", func(ctx context.Context) error {
		err := stack.client.Get(ctx, client.ObjectKey{Namespace: systemNS, Name: operatorName}, lease)
		if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || strings.HasPrefix(*lease.Spec.HolderIdentity, leader+"_") {
			return fmt.Errorf("nobody yet: %w", err)
		}
		return nil
	})
	create(t, second)
	expectPhase(t, second, dgmv1alpha1.PhaseCompleted)
	expectRows(t, second, "completed", "completed", "false")
	if next := epochOf(t, second); next <= epoch {
		t.Errorf("the next leader writes with epoch %d; want more than %d", next, epoch)
	}
}

func epochOf(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) int {
	t.Helper()
	got, err := row(t.Context(), `SELECT writer_epoch FROM dgm.improvement_workspaces WHERE improvement_id = $1`, w.Status.ImprovementID)
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := strconv.Atoi(got[0])
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// killOperator ends the operator's process as kill -9 does; the Deployment makes another.
func killOperator(t *testing.T) {
	t.Helper()
	pods, err := operatorPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods {
		if err := client.IgnoreNotFound(stack.client.Delete(t.Context(), &pods[i], client.GracePeriodSeconds(0))); err != nil {
			t.Fatal(err)
		}
	}
}

func operatorPods(ctx context.Context) ([]corev1.Pod, error) {
	pods := &corev1.PodList{}
	err := stack.client.List(ctx, pods, client.InNamespace(systemNS), client.MatchingLabels{"app.kubernetes.io/name": operatorName})
	return pods.Items, err
}

func setReplicas(t *testing.T, n int32) {
	t.Helper()
	d := &appsv1.Deployment{}
	d.Namespace, d.Name = systemNS, operatorName
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)
	if err := stack.client.Patch(context.Background(), d, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

// scaleOperator waits until that many replicas are ready and no other is left.
func scaleOperator(t *testing.T, n int32) {
	t.Helper()
	setReplicas(t, n)
	deadline := time.Now().Add(patience)
	for {
		pods, err := operatorPods(context.Background())
		ready := int32(0)
		for _, p := range pods {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if err == nil && ready == n && len(pods) == int(n) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d replicas ready after %s: %v", ready, n, patience, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func stopDatabase(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { startDatabase(t) })
	if err := script("postgres.sh", "stop"); err != nil {
		t.Fatal(err)
	}
}

func startDatabase(t *testing.T) {
	t.Helper()
	if err := script("postgres.sh", "up"); err != nil {
		t.Fatal(err)
	}
}

func httpGet(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
