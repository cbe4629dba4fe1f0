// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// serves makes a service with its settings, and an improvement of the settings
// that restarts it.
func (w *world) serves(edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	w.deployment("shop", "shop:1")
	w.rollsOut()
	return w.improvement("ttl", "config", append([]func(*dgmv1alpha1.ImprovementWorkspace){targets("shop"), restarts("shop", "1m")}, edits...)...)
}

func targets(name string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Target.Ref = dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
	}
}

func restarts(name string, timeout dgmv1alpha1.Duration) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Rollout = &dgmv1alpha1.Rollout{Restart: []dgmv1alpha1.WorkloadReference{{Kind: "Deployment", Name: name}}, Timeout: timeout}
	}
}

func follows(timeout dgmv1alpha1.Duration) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Rollout = &dgmv1alpha1.Rollout{Timeout: timeout}
	}
}

func TestP2_RestartIsPartOfTheChangeAndUndoneExactly(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("settings, then a restart", func(w *world) {
		ttl := w.serves()
		objects := []string{"ConfigMap/config", "Deployment/shop"}
		gate := w.gate()
		before := w.contents(objects)
		w.create(ttl)
		done := w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		if got := w.template("shop").Annotations[dgmv1alpha1.AnnotationRestartedFor]; got != done.Status.ImprovementID {
			t.Errorf("the pod template says %q, want %s", got, done.Status.ImprovementID)
		}
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			t.Errorf("after the rollback (-before +after):\n%s", diff)
		}
		// Pods restart after what they read has changed, in both directions.
		w.inOrder(gate.updates("/"), "ConfigMap/config", "Deployment/shop", "ConfigMap/config", "Deployment/shop")
	})

	w.scenario("a workload that is changed as well", func(w *world) {
		ttl := w.serves(over(
			[2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:2"}]}}}`},
			[2]string{"ConfigMap/config", `data: {CACHE_TTL: "60"}`},
		))
		objects := []string{"ConfigMap/config", "Deployment/shop"}
		before := w.contents(objects)
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		template := w.template("shop")
		if template.Annotations[dgmv1alpha1.AnnotationRestartedFor] == "" || template.Spec.Containers[0].Image != "shop:2" {
			t.Errorf("the template is %+v", template)
		}
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			t.Errorf("after the rollback (-before +after):\n%s", diff)
		}
	})

	// The pods have read what the first one changed: a restart in between does not
	// spare them another one.
	w.scenario("restarted by a later improvement", func(w *world) {
		ttl := w.serves()
		w.configMap("other", map[string]string{"CACHE_TTL": "5"})
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		later := w.improvement("later", "other", targets("shop"), restarts("shop", "1m"))
		w.create(later)
		w.reaches(later, dgmv1alpha1.PhaseCompleted, "")
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		undone := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if got, want := w.template("shop").Annotations[dgmv1alpha1.AnnotationRestartedFor], undone.Status.ImprovementID+"-rolled-back"; got != want {
			t.Errorf("the pod template says %q, want %s", got, want)
		}
		w.values(map[string]string{"config": "5", "other": "60"})
	})
}

// inOrder fails the test unless the wanted items are among those seen, in order.
func (w *world) inOrder(seen []string, want ...string) {
	w.Helper()
	left := want
	for _, item := range seen {
		if len(left) > 0 && item == left[0] {
			left = left[1:]
		}
	}
	if len(left) > 0 {
		w.Errorf("%v does not hold %v in order", seen, want)
	}
}

func TestRolloutIsFollowedToHealth(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("it waits for new pods, also across a crash", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		d := w.deployment("shop", "shop:1")
		ttl := w.improvement("ttl", "config", targets("shop"), restarts("shop", "1m"))
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
		w.says(message(waiting), "Deployment/shop")
		if waiting.Status.AppliedAt == nil {
			t.Error("status.appliedAt is empty while the rollout is followed")
		}
		w.values(map[string]string{"config": "60"})
		version := waiting.ResourceVersion
		time.Sleep(2 * time.Second)
		if again := w.refresh(ttl); again.ResourceVersion != version && again.Status.Phase == dgmv1alpha1.PhaseApplying {
			// P12: DatabaseSynced may have come after; nothing else may.
			w.onlySynced(waiting, again)
		}
		w.setReplicas(d, 3) // as an autoscaler would
		w.rollsOut()
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	})

	w.scenario("out of time", func(w *world) {
		ttl := w.serves(over([2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:stuck"}]}}}`}), follows("1s"))
		w.create(ttl)
		undone := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(undone.Status.RollbackReason, dgmv1alpha1.ReasonRolloutFailed, "Deployment/shop", "within 1s", "spec.rollout.timeout")
		if image := w.template("shop").Spec.Containers[0].Image; image != "shop:1" {
			t.Errorf("the image is %s", image)
		}
	})

	w.scenario("the progress deadline passes", func(w *world) {
		ttl := w.serves(over([2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:late"}]}}}`}), follows("10m"))
		w.create(ttl)
		undone := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(undone.Status.RollbackReason, dgmv1alpha1.ReasonRolloutFailed, "ProgressDeadlineExceeded", "timed out progressing")
	})

	w.scenario("a new pod crashes", func(w *world) {
		ttl := w.serves(over([2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:stuck"}]}}}`}), follows("10m"))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
		w.crashingPod("shop")
		time.Sleep(time.Second)
		if phase := w.refresh(ttl).Status.Phase; phase != dgmv1alpha1.PhaseApplying {
			t.Errorf("it is %s: it has read pods that its account may not list", phase)
		}
		w.tenantMay("pods", "list")
		undone := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(undone.Status.RollbackReason, dgmv1alpha1.ReasonRolloutFailed, "pod shop-new, container main: CrashLoopBackOff", "exit code 7")
	})

	w.scenario("aborted while it is followed", func(w *world) {
		ttl := w.serves(over([2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:stuck"}]}}}`}), follows("10m"))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	})

	w.scenario("a workload scaled to nothing", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.deployment("shop", "shop:1", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
		w.rollsOut()
		ttl := w.improvement("ttl", "config", targets("shop"), restarts("shop", "1m"))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	})

	w.scenario("the target is deleted meanwhile", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		d := w.deployment("shop", "shop:1") // nobody rolls it out
		ttl := w.improvement("ttl", "config", targets("shop"))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
		if err := w.Delete(context.Background(), d); err != nil {
			t.Fatal(err)
		}
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetGone)
		w.says(message(failed), "Deployment/shop")
		w.values(map[string]string{"config": "5"})
	})
}

func TestRollbackWaitsUntilTheWorkloadIsHealthy(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	d := w.deployment("shop", "shop:1")
	set := func() {
		w.eventually("the status is set", func() error {
			if err := w.Get(context.Background(), client.ObjectKeyFromObject(d), d); err != nil {
				return err
			}
			d.Status = deploymentStatus(d.Generation, 1)
			return w.Status().Update(context.Background(), d)
		})
	}
	set()
	ttl := w.improvement("ttl", "config", targets("shop"), restarts("shop", "2s"))
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
	set()
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
	stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRollbackUnhealthy)
	w.says(message(stalled), "everything is put back", "Deployment/shop")
	w.values(map[string]string{"config": "5"})
	set()
	w.nudge(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
}

func (w *world) onlySynced(before, after *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	a, b := before.Status.DeepCopy(), after.Status.DeepCopy()
	for _, status := range []*dgmv1alpha1.ImprovementWorkspaceStatus{a, b} {
		for i := range status.Conditions {
			if status.Conditions[i].Type == dgmv1alpha1.ConditionDatabaseSynced {
				status.Conditions[i] = metav1.Condition{}
			}
		}
	}
	if diff := cmp.Diff(a, b); diff != "" {
		w.Errorf("status changes while it waits:\n%s", diff)
	}
}

func (w *world) setReplicas(d *appsv1.Deployment, replicas int32) {
	w.Helper()
	base := d.DeepCopy()
	d.Spec.Replicas = &replicas
	if err := w.Patch(context.Background(), d, client.MergeFrom(base), client.FieldOwner("autoscaler")); err != nil {
		w.Fatal(err)
	}
}

// crashingPod makes a pod of a Deployment that crashes again and again.
func (w *world) crashingPod(deployment string) {
	w.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: deployment + "-new", Labels: map[string]string{"app": deployment}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "shop:stuck"}}},
	}
	w.create(pod)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name:                 "main",
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7, Reason: "Error"}},
	}}
	if err := w.Status().Update(context.Background(), pod); err != nil {
		w.Fatal(err)
	}
}

// tenantMay gives the account improver another right.
func (w *world) tenantMay(resource, verb string) {
	w.Helper()
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: verb + "-" + resource}
	w.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: role.Name},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{verb}}},
	})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: role.Name}, RoleRef: role,
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: "improver"}},
	})
}
