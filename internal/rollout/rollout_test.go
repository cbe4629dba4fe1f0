// SPDX-License-Identifier: Apache-2.0

package rollout_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/acgs/dgm-operator/internal/rollout"
)

func workload(t *testing.T, kind, fields string) *unstructured.Unstructured {
	t.Helper()
	apiVersion := "apps/v1"
	if kind == "Service" {
		apiVersion = "v1"
	}
	if kind == "Widget" {
		apiVersion = "example.org/v1"
	}
	object := &unstructured.Unstructured{}
	text, err := yaml.YAMLToJSON([]byte(fields))
	if err == nil {
		err = json.Unmarshal(text, &object.Object) // whole numbers stay whole
	}
	if err != nil {
		t.Fatal(err)
	}
	object.SetAPIVersion(apiVersion)
	object.SetKind(kind)
	object.SetName("shop")
	object.SetGeneration(2)
	return object
}

func TestEvaluate(t *testing.T) {
	changedAt := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	const seen = "observedGeneration: 2, "
	const halfWay = "metadata: {namespace: shop, uid: u}\nstatus: {" + seen + "replicas: 1, updatedReplicas: 0, currentRevision: a, updateRevision: b}"
	for _, test := range []struct {
		name      string
		kind      string
		fields    string
		unchanged bool
		pods      []corev1.Pod
		want      rollout.State
		says      string
	}{
		{"rolled out", "Deployment", "spec: {replicas: 3}\nstatus: {" + seen + "replicas: 3, updatedReplicas: 3, availableReplicas: 3}", false, nil, rollout.Healthy, ""},
		{"one replica unless said", "Deployment", "status: {" + seen + "replicas: 1, updatedReplicas: 1, availableReplicas: 1}", false, nil, rollout.Healthy, ""},
		{"an autoscaler made it more", "Deployment", "spec: {replicas: 1}\nstatus: {" + seen + "replicas: 5, updatedReplicas: 5, availableReplicas: 5}", false, nil, rollout.Healthy, ""},
		{"the change is not seen yet", "Deployment", "status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: 1}", false, nil, rollout.Progressing, "controller"},
		{"no status yet", "Deployment", "spec: {}", false, nil, rollout.Progressing, "controller"},
		{"new pods are missing", "Deployment", "spec: {replicas: 3}\nstatus: {" + seen + "replicas: 4, updatedReplicas: 2, availableReplicas: 3}", false, nil, rollout.Progressing, "new pods"},
		{"old pods are there", "Deployment", "spec: {replicas: 3}\nstatus: {" + seen + "replicas: 4, updatedReplicas: 3, availableReplicas: 4}", false, nil, rollout.Progressing, "state before"},
		{"not available", "Deployment", "spec: {replicas: 3}\nstatus: {" + seen + "replicas: 3, updatedReplicas: 3, availableReplicas: 2}", false, nil, rollout.Progressing, "available"},
		{"scaled to nothing", "Deployment", "spec: {replicas: 0}\nstatus: {" + seen + "}", false, nil, rollout.Healthy, ""},
		{"paused", "Deployment", "spec: {paused: true}\nstatus: {" + seen + "replicas: 1, availableReplicas: 1}", false, nil, rollout.Progressing, "kubectl rollout resume deployment/shop"},
		{"paused and as wanted", "Deployment", "spec: {paused: true}\nstatus: {" + seen + "replicas: 1, updatedReplicas: 1, availableReplicas: 1}", false, nil, rollout.Healthy, ""},
		{"deadline", "Deployment", "status: {" + seen + "replicas: 1, conditions: [{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded, message: too long}]}", false, nil, rollout.Failed, "too long"},
		{"deadline before the change", "Deployment", "status: {" + seen + "replicas: 1, conditions: [{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded, message: too long}]}", true, nil, rollout.Progressing, "too long"},
		{"quota", "Deployment", "status: {" + seen + "conditions: [{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: exceeded quota}]}", false, nil, rollout.Progressing, "exceeded quota"},

		{"rolled out", "StatefulSet", "spec: {replicas: 2}\nstatus: {" + seen + "replicas: 2, updatedReplicas: 2, availableReplicas: 2, currentRevision: b, updateRevision: b}", false, nil, rollout.Healthy, ""},
		{"half way", "StatefulSet", "spec: {replicas: 2}\nstatus: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 2, currentRevision: a, updateRevision: b}", false, nil, rollout.Progressing, "new pods"},
		{"not taken over yet", "StatefulSet", "spec: {replicas: 2}\nstatus: {" + seen + "replicas: 2, updatedReplicas: 2, availableReplicas: 2, currentRevision: a, updateRevision: b}", false, nil, rollout.Progressing, "new pods"},
		{"not available", "StatefulSet", "spec: {replicas: 2}\nstatus: {" + seen + "replicas: 2, updatedReplicas: 2, availableReplicas: 1, currentRevision: b, updateRevision: b}", false, nil, rollout.Progressing, "available"},
		{"a partition keeps the old ones", "StatefulSet", "spec: {replicas: 3, updateStrategy: {rollingUpdate: {partition: 2}}}\nstatus: {" + seen + "replicas: 3, updatedReplicas: 1, availableReplicas: 3, currentRevision: a, updateRevision: b}", false, nil, rollout.Healthy, ""},
		{"scaled to nothing", "StatefulSet", "spec: {replicas: 0}\nstatus: {" + seen + "replicas: 0, currentRevision: b, updateRevision: b}", false, nil, rollout.Healthy, ""},
		{"OnDelete", "StatefulSet", "spec: {updateStrategy: {type: OnDelete}}\nstatus: {" + seen + "replicas: 1, availableReplicas: 1, currentRevision: a, updateRevision: b}", false, nil, rollout.Failed, "OnDelete"},
		{"OnDelete, and deleted", "StatefulSet", "spec: {updateStrategy: {type: OnDelete}}\nstatus: {" + seen + "replicas: 1, updatedReplicas: 1, availableReplicas: 1, currentRevision: a, updateRevision: b}", false, nil, rollout.Healthy, ""},

		{"rolled out", "DaemonSet", "status: {" + seen + "desiredNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 2}", false, nil, rollout.Healthy, ""},
		{"half way", "DaemonSet", "status: {" + seen + "desiredNumberScheduled: 2, updatedNumberScheduled: 1, numberAvailable: 2}", false, nil, rollout.Progressing, "new pods"},
		{"not available", "DaemonSet", "status: {" + seen + "desiredNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 1}", false, nil, rollout.Progressing, "available"},
		{"no node", "DaemonSet", "status: {" + seen + "desiredNumberScheduled: 0}", false, nil, rollout.Healthy, ""},
		{"OnDelete", "DaemonSet", "spec: {updateStrategy: {type: OnDelete}}\nstatus: {" + seen + "desiredNumberScheduled: 1}", false, nil, rollout.Failed, "OnDelete"},

		{"exists", "Service", "status: {loadBalancer: {}}", false, nil, rollout.Healthy, ""},
		{"ready", "Widget", "status: {conditions: [{type: Ready, status: 'True'}]}", false, nil, rollout.Healthy, ""},
		{"not ready", "Widget", "status: {conditions: [{type: Ready, status: 'False', message: soon}]}", false, nil, rollout.Progressing, "soon"},
		{"stalled", "Widget", "status: {conditions: [{type: Stalled, status: 'True', message: broken}]}", false, nil, rollout.Failed, "broken"},
		{"stalled before the change", "Widget", "status: {conditions: [{type: Stalled, status: 'True', message: broken}]}", true, nil, rollout.Progressing, "broken"},

		{"a new pod crashes", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{crashing(changedAt)}, rollout.Failed, "pod shop-1, container main: CrashLoopBackOff (it ended with exit code 3, Error)"},
		{"the same second counts", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{crashing(changedAt.Truncate(time.Second))}, rollout.Failed, "CrashLoopBackOff"},
		{"an old pod crashes", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{crashing(changedAt.Add(-2 * time.Second))}, rollout.Progressing, "state before"},
		{"a pod that goes crashes", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{ending(crashing(changedAt))}, rollout.Progressing, "state before"},
		{"a pod of an unchanged workload crashes", "Deployment", "status: {" + seen + "replicas: 1, updatedReplicas: 1, availableReplicas: 0}", true, []corev1.Pod{crashing(changedAt)}, rollout.Progressing, "available"},
		{"an image is missing", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{waiting(changedAt, "ImagePullBackOff", "Back-off pulling image shop:9")}, rollout.Failed, "ImagePullBackOff (Back-off pulling image shop:9)"},
		{"a pod starts", "Deployment", "status: {" + seen + "replicas: 2, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{waiting(changedAt, "ContainerCreating", "")}, rollout.Progressing, "state before"},
		{"an older pod is in the way", "StatefulSet", halfWay, false, []corev1.Pod{ofRevision("a", crashing(changedAt.Add(-time.Hour)))}, rollout.Progressing, "does not replace such a pod by itself: kubectl delete pod shop-1 --namespace=shop"},
		{"an older pod goes", "StatefulSet", halfWay, false, []corev1.Pod{ending(ofRevision("a", crashing(changedAt.Add(-time.Hour))))}, rollout.Progressing, "new pods"},
		{"an older pod, in parallel", "StatefulSet", "spec: {podManagementPolicy: Parallel}\n" + halfWay, false, []corev1.Pod{ofRevision("a", crashing(changedAt.Add(-time.Hour)))}, rollout.Progressing, "new pods"},
		{"a new pod starts", "StatefulSet", halfWay, false, []corev1.Pod{ofRevision("b", waiting(changedAt, "ContainerCreating", ""))}, rollout.Progressing, "new pods"},
		{"it crashed and has recovered", "Deployment", "status: {" + seen + "replicas: 1, updatedReplicas: 1, availableReplicas: 1}", false, []corev1.Pod{crashing(changedAt)}, rollout.Healthy, ""},
	} {
		t.Run(test.kind+": "+test.name, func(t *testing.T) {
			w := rollout.Workload{Object: workload(t, test.kind, test.fields), Pods: test.pods, ChangedAt: changedAt}
			if test.unchanged {
				w.ChangedAt = time.Time{}
			}
			got, err := rollout.Evaluate(w)
			if err != nil {
				t.Fatal(err)
			}
			if got.State != test.want || !strings.Contains(got.Message, test.says) {
				t.Errorf("it is %s: %q; want %s that says %q", got.State, got.Message, test.want, test.says)
			}
		})
	}
}

func TestEvaluateRefusesWhatIsNoWorkload(t *testing.T) {
	_, err := rollout.Evaluate(rollout.Workload{Object: workload(t, "Deployment", "spec: {replicas: many}\nstatus: {observedGeneration: 2}")})
	if err == nil || !strings.Contains(err.Error(), "Deployment/shop") {
		t.Errorf("the error is %v, want one that names the object", err)
	}
}

func TestChangedBy(t *testing.T) {
	object := workload(t, "Deployment", `metadata: {managedFields: [
		{manager: dgm-operator, operation: Update, time: "2026-01-02T03:04:05Z"},
		{manager: dgm-operator, operation: Update, subresource: status, time: "2026-01-02T03:04:09Z"},
		{manager: other, operation: Update, time: "2026-01-02T03:04:08Z"}]}`)
	if got := rollout.ChangedBy(object, "dgm-operator"); !got.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("it was changed at %s", got)
	}
	if got := rollout.ChangedBy(object, "nobody"); !got.IsZero() {
		t.Errorf("nobody has changed it, at %s", got)
	}
}

func TestSelector(t *testing.T) {
	selector, err := rollout.Selector(workload(t, "Deployment", "spec: {selector: {matchLabels: {app: shop}, matchExpressions: [{key: tier, operator: Exists}]}}"))
	if err != nil || selector.String() != "app=shop,tier" {
		t.Errorf("the selector is %v, %v", selector, err)
	}
	if _, err := rollout.Selector(workload(t, "Deployment", "spec: {}")); err == nil {
		t.Error("a workload without a selector would choose every pod")
	}
}

func waiting(created time.Time, reason, message string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "shop-1", CreationTimestamp: metav1.NewTime(created)},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
		}}},
	}
}

func crashing(created time.Time) corev1.Pod {
	pod := waiting(created, "CrashLoopBackOff", "back-off 10s restarting failed container")
	pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}
	return pod
}

// ofRevision is a pod of the StatefulSet with uid u.
func ofRevision(revision string, pod corev1.Pod) corev1.Pod {
	pod.Labels = map[string]string{"controller-revision-hash": revision}
	pod.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", UID: "u", Controller: new(true)}}
	return pod
}

func ending(pod corev1.Pod) corev1.Pod {
	pod.DeletionTimestamp = new(metav1.Now())
	return pod
}
