// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Waiting names a workload that does not serve yet, empty when all do.
func Waiting(deployments []appsv1.Deployment, sets []appsv1.StatefulSet) string {
	for i := range deployments {
		d := &deployments[i]
		if want := *cmp.Or(d.Spec.Replicas, new(int32(1))); d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < want || d.Status.AvailableReplicas < want {
			return "Deployment/" + d.Name
		}
	}
	for i := range sets {
		s := &sets[i]
		if want := *cmp.Or(s.Spec.Replicas, new(int32(1))); s.Status.ObservedGeneration < s.Generation || s.Status.UpdatedReplicas < want || s.Status.AvailableReplicas < want {
			return "StatefulSet/" + s.Name
		}
	}
	return ""
}

// WhyNotReady says what keeps the pods from serving. final: waiting longer will
// not help.
func WhyNotReady(deployments []appsv1.Deployment, pods []corev1.Pod, now time.Time) (why string, final bool) {
	for i := range pods {
		if reason := cannotStart(&pods[i], now); reason != "" {
			return fmt.Sprintf("pod %s: %s", pods[i].Name, reason), true
		}
	}
	for i := range pods {
		if reason := notReady(&pods[i]); reason != "" {
			return fmt.Sprintf("pod %s: %s", pods[i].Name, reason), false
		}
	}
	for i := range deployments {
		for _, c := range deployments[i].Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
				return fmt.Sprintf("Deployment/%s: %s", deployments[i].Name, clean(c.Message, maxLine*2)), false
			}
		}
	}
	return "", false
}

// neverStarts are reasons of a waiting container that need somebody to act.
var neverStarts = []string{"CreateContainerConfigError", "InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "ErrImagePull"}

// cannotStart says why a pod will not start, once that has had time to pass.
func cannotStart(pod *corev1.Pod, now time.Time) string {
	if now.Sub(pod.CreationTimestamp.Time) < settleTime {
		return ""
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := status.State.Waiting; waiting != nil && slices.Contains(neverStarts, waiting.Reason) {
			return fmt.Sprintf("container %s: %s: %s", status.Name, waiting.Reason, clean(waiting.Message, maxLine))
		}
	}
	return ""
}

func notReady(pod *corev1.Pod) string {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waiting := status.State.Waiting; waiting != nil && waiting.Reason != "PodInitializing" {
			said := fmt.Sprintf("container %s: %s: %s", status.Name, waiting.Reason, clean(waiting.Message, maxLine))
			if last := status.LastTerminationState.Terminated; last != nil {
				said += fmt.Sprintf(" (its last exit code: %d %s)", last.ExitCode, last.Reason)
			}
			return said
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return clean(c.Message, maxLine)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse {
			return cmp.Or(clean(c.Message, maxLine), c.Reason)
		}
	}
	return ""
}
