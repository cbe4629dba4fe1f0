// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// rollsOut does for the Deployments of the namespace what the controller manager
// would, which the API server of these tests lacks: it sets their status. An
// image whose tag is "stuck" never becomes available, and "late" says that it
// does not in time. It ends with the test.
func (w *world) rollsOut() {
	w.Helper()
	w.rollsOutWithin(20 * time.Millisecond)
}

// rollsOutWithin is rollsOut by a controller that takes its time.
func (w *world) rollsOutWithin(pause time.Duration) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			w.rollOutOnce(ctx)
			time.Sleep(pause)
		}
	})
	w.Cleanup(func() { cancel(); done.Wait() })
}

func (w *world) rollOutOnce(ctx context.Context) {
	var list appsv1.DeploymentList
	if w.List(ctx, &list, client.InNamespace(w.namespace)) != nil {
		return
	}
	for i := range list.Items {
		d := &list.Items[i]
		image := d.Spec.Template.Spec.Containers[0].Image
		if d.Status.ObservedGeneration == d.Generation {
			continue
		}
		d.Status = deploymentStatus(d.Generation, *d.Spec.Replicas)
		if strings.HasSuffix(image, ":stuck") || strings.HasSuffix(image, ":late") {
			d.Status.Replicas, d.Status.UpdatedReplicas = *d.Spec.Replicas+1, 1
		}
		if strings.HasSuffix(image, ":late") {
			d.Status.Conditions = []appsv1.DeploymentCondition{{
				Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "ReplicaSet has timed out progressing.",
			}}
		}
		_ = w.Status().Update(ctx, d) // on a conflict, the next round
	}
}

func deploymentStatus(generation int64, replicas int32) appsv1.DeploymentStatus {
	return appsv1.DeploymentStatus{
		ObservedGeneration: generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas,
	}
}

// deployment makes a Deployment with one container.
func (w *world) deployment(name, image string, edits ...func(*appsv1.Deployment)) *appsv1.Deployment {
	w.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
			},
		},
	}
	for _, edit := range edits {
		edit(d)
	}
	w.create(d)
	return d
}

// template is the pod template of a Deployment as it is.
func (w *world) template(name string) corev1.PodTemplateSpec {
	w.Helper()
	var d appsv1.Deployment
	if err := w.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: name}, &d); err != nil {
		w.Fatal(err)
	}
	return d.Spec.Template
}
