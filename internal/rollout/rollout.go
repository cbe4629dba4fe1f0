// SPDX-License-Identifier: Apache-2.0

// Package rollout decides, from a workload and its pods as they are, whether it
// is healthy with all its pods made from its present template.
package rollout

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// State is how a workload is.
type State string

// The states.
const (
	// Healthy: every pod that is wanted is there, available and new.
	Healthy State = "Healthy"
	// Progressing: it may become healthy by itself.
	Progressing State = "Progressing"
	// Failed: the change has broken it; waiting is not worth it.
	Failed State = "Failed"
)

// Health is the state of a workload, and why for people. The message has no
// counters, so that it changes only when something else is awaited.
type Health struct {
	State   State
	Message string
}

// Workload is what is known of a workload at one moment.
type Workload struct {
	// Object is the live object; any kind.
	Object *unstructured.Unstructured
	// Pods are those that its selector chooses; none when they may not be listed.
	Pods []corev1.Pod
	// ChangedAt is when its template was changed, by the API server's clock. Zero:
	// it was not, and what ails it is not the change's fault.
	ChangedAt time.Time
}

var apps = schema.GroupVersion{Group: "apps", Version: "v1"}

// HasPods reports whether objects of a kind are workloads, whose pods are followed.
func HasPods(kind schema.GroupKind) bool {
	return kind.Group == apps.Group && (kind.Kind == "Deployment" || kind.Kind == "StatefulSet" || kind.Kind == "DaemonSet")
}

// Evaluate decides how a workload is. An object of another kind is healthy when
// it exists, and as its conditions say by the rules of kstatus if it has any.
func Evaluate(w Workload) (Health, error) {
	health, err := evaluateKind(w)
	if err != nil {
		return Health{}, fmt.Errorf("%s/%s: %w", w.Object.GetKind(), w.Object.GetName(), err)
	}
	if health.State == Healthy {
		return health, nil
	}
	if w.ChangedAt.IsZero() {
		health.State = Progressing
		return health, nil
	}
	if trouble := newPodTrouble(w.Pods, w.ChangedAt); trouble != "" {
		return Health{State: Failed, Message: trouble}, nil
	}
	if w.Object.GetKind() == "StatefulSet" {
		if stuck := stuckPod(w.Object, w.Pods); stuck != "" {
			health.Message = stuck
		}
	}
	return health, nil
}

func evaluateKind(w Workload) (Health, error) {
	if !HasPods(w.Object.GroupVersionKind().GroupKind()) {
		return evaluateOther(w.Object)
	}
	if !observed(w.Object) {
		return Health{Progressing, "its controller has not taken the change up yet"}, nil
	}
	switch w.Object.GetKind() {
	case "Deployment":
		return convert(w.Object, evaluateDeployment)
	case "StatefulSet":
		return convert(w.Object, evaluateStatefulSet)
	default:
		return convert(w.Object, evaluateDaemonSet)
	}
}

func convert[T any](object *unstructured.Unstructured, evaluate func(*T) Health) (Health, error) {
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, typed); err != nil {
		return Health{}, err
	}
	return evaluate(typed), nil
}

func observed(object *unstructured.Unstructured) bool {
	generation, found, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	return err == nil && found && generation >= object.GetGeneration()
}

// What a workload is waited for.
const (
	awaitNew       = "its new pods are not all there yet"
	awaitOld       = "pods of the state before are still there"
	awaitAvailable = "its pods are not all available yet"
)

// evaluateDeployment follows the rules of kubectl rollout status.
func evaluateDeployment(d *appsv1.Deployment) Health {
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" {
			return Health{Failed, "ProgressDeadlineExceeded: " + c.Message}
		}
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue && d.Status.UpdatedReplicas < wanted {
			return Health{Progressing, c.Reason + ": " + c.Message}
		}
	}
	health := evaluateReplicas(wanted, d.Status.UpdatedReplicas, d.Status.Replicas, d.Status.AvailableReplicas)
	if health.State == Progressing && d.Spec.Paused {
		health.Message = "it is paused, so that its pods do not follow the change: kubectl rollout resume deployment/" + d.Name
	}
	return health
}

func evaluateReplicas(wanted, updated, all, available int32) Health {
	switch {
	case updated < wanted:
		return Health{Progressing, awaitNew}
	case all > updated:
		return Health{Progressing, awaitOld}
	case available < wanted:
		return Health{Progressing, awaitAvailable}
	default:
		return Health{State: Healthy}
	}
}

func evaluateStatefulSet(s *appsv1.StatefulSet) Health {
	wanted, partition := int32(1), int32(0)
	if s.Spec.Replicas != nil {
		wanted = *s.Spec.Replicas
	}
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		partition = min(*rolling.Partition, wanted)
	}
	onlyDeleted := s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
	health := evaluateReplicas(wanted-partition, s.Status.UpdatedReplicas, s.Status.Replicas-partition, wanted-partition)
	switch {
	case onlyDeleted && s.Status.UpdatedReplicas < wanted:
		return Health{Failed, onDelete}
	case health.State != Healthy:
		return health
	case !onlyDeleted && partition == 0 && s.Status.CurrentRevision != s.Status.UpdateRevision:
		return Health{Progressing, awaitNew}
	case s.Status.AvailableReplicas < wanted:
		return Health{Progressing, awaitAvailable}
	default:
		return Health{State: Healthy}
	}
}

const onDelete = "its update strategy is OnDelete, so that its pods do not follow a change: set it to RollingUpdate"

func evaluateDaemonSet(d *appsv1.DaemonSet) Health {
	wanted := d.Status.DesiredNumberScheduled
	switch {
	case d.Status.UpdatedNumberScheduled < wanted && d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType:
		return Health{Failed, onDelete}
	case d.Status.UpdatedNumberScheduled < wanted:
		return Health{Progressing, awaitNew}
	case d.Status.NumberAvailable < wanted:
		return Health{Progressing, awaitAvailable}
	default:
		return Health{State: Healthy}
	}
}

// evaluateOther reads conditions only: a Service that waits for a load balancer
// serves all the same.
func evaluateOther(object *unstructured.Unstructured) (Health, error) {
	conditions, found, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil || !found || len(conditions) == 0 {
		return Health{State: Healthy}, nil //nolint:nilerr // conditions of another shape say nothing
	}
	result, err := status.Compute(object)
	if err != nil {
		return Health{}, err
	}
	switch result.Status {
	case status.FailedStatus:
		return Health{Failed, result.Message}, nil
	case status.InProgressStatus, status.TerminatingStatus:
		return Health{Progressing, result.Message}, nil
	default:
		return Health{State: Healthy}, nil
	}
}
