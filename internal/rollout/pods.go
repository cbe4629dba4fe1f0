// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// hopeless are the reasons for which a container waits after it has failed more
// than once, or that trying again does not mend.
var hopeless = []string{"CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}

// newPodTrouble says what ails the pods that were made since a moment, "" when
// nothing does for good. Times of the API server are whole seconds.
func newPodTrouble(pods []corev1.Pod, since time.Time) string {
	for i := range pods {
		pod := &pods[i]
		if pod.DeletionTimestamp != nil || pod.CreationTimestamp.Time.Before(since.Truncate(time.Second)) {
			continue
		}
		for _, container := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if waiting := container.State.Waiting; waiting != nil && slices.Contains(hopeless, waiting.Reason) {
				return fmt.Sprintf("pod %s, container %s: %s%s", pod.Name, container.Name, waiting.Reason, detail(container))
			}
		}
	}
	return ""
}

// stuckPod says which pod a StatefulSet waits for that it will not replace: unless
// it manages its pods in parallel, it replaces none while an older one is not
// ready (kubernetes/kubernetes#67250). Nobody but a person may delete one.
func stuckPod(set *unstructured.Unstructured, pods []corev1.Pod) string {
	policy, _, _ := unstructured.NestedString(set.Object, "spec", "podManagementPolicy")
	revision, _, _ := unstructured.NestedString(set.Object, "status", "updateRevision")
	if policy == string(appsv1.ParallelPodManagement) || revision == "" {
		return ""
	}
	for i := range pods {
		pod := &pods[i]
		owner := metav1.GetControllerOf(pod)
		if owner == nil || owner.UID != set.GetUID() || pod.Labels[appsv1.ControllerRevisionHashLabelKey] == revision || pod.DeletionTimestamp != nil || ready(pod) {
			continue
		}
		return fmt.Sprintf("pod %s is not ready, and a StatefulSet does not replace such a pod by itself: kubectl delete pod %s --namespace=%s", pod.Name, pod.Name, set.GetNamespace())
	}
	return ""
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// maxDetail bounds, in bytes, what the kubelet says of a container.
const maxDetail = 256

// detail is how a container ended, or why it cannot begin.
func detail(container corev1.ContainerStatus) string {
	if ended := container.LastTerminationState.Terminated; ended != nil {
		return fmt.Sprintf(" (it ended with exit code %d, %s)", ended.ExitCode, ended.Reason)
	}
	said := strings.ToValidUTF8(strings.Join(strings.Fields(container.State.Waiting.Message), " "), "")
	if said == "" {
		return ""
	}
	if len(said) > maxDetail {
		said = strings.ToValidUTF8(said[:maxDetail], "") + " …"
	}
	return " (" + said + ")"
}

// Selector is the label selector of a workload's pods.
func Selector(workload *unstructured.Unstructured) (labels.Selector, error) {
	fields, found, err := unstructured.NestedMap(workload.Object, "spec", "selector")
	if err != nil || !found {
		return nil, fmt.Errorf("%s/%s has no selector", workload.GetKind(), workload.GetName())
	}
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &selector); err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(&selector)
}

// ChangedBy is when a field manager last wrote an object, by the API server's
// clock; zero when it does not own anything of it.
func ChangedBy(object *unstructured.Unstructured, manager string) time.Time {
	var at time.Time
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == manager && entry.Subresource == "" && entry.Time != nil && entry.Time.After(at) {
			at = entry.Time.Time
		}
	}
	return at
}
