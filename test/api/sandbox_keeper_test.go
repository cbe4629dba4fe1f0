// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// keeper does for the sandboxes of a test what the controllers of a cluster and
// its kubelets do: quotas are counted, workloads serve, Jobs get a pod that ends
// as the test says, and namespaces end.
type keeper struct {
	*world
	mu      sync.Mutex
	verdict func(job *batchv1.Job) (exitCode int32, message string, ended bool)
	serves  bool
	// everybody's sandboxes are kept, not only those of the test's namespace.
	everybody bool
	// jobs and namespaces are the uids of all that were seen.
	jobs, namespaces map[string]bool
}

func (w *world) keeper(verdict func(job *batchv1.Job) (int32, string, bool)) *keeper {
	w.Helper()
	k := &keeper{world: w, verdict: verdict, serves: true, jobs: map[string]bool{}, namespaces: map[string]bool{}}
	k.keep()
	return k
}

// keep does its rounds until the test ends.
func (k *keeper) keep() {
	k.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			k.round(ctx)
			time.Sleep(30 * time.Millisecond)
		}
	})
	k.Cleanup(func() {
		stop()
		done.Wait()
	})
}

// passes lets every test pass.
func passes(*batchv1.Job) (int32, string, bool) { return 0, `{"p99":1.5}`, true }

func (k *keeper) seen() (jobs, namespaces int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.jobs), len(k.namespaces)
}

// sandboxes are those of this test that are there.
func (k *keeper) sandboxes(ctx context.Context) ([]corev1.Namespace, error) {
	var list corev1.NamespaceList
	err := k.List(ctx, &list, client.HasLabels{dgmv1alpha1.LabelSandbox})
	var own []corev1.Namespace
	for i := range list.Items {
		if of := list.Items[i].Annotations[dgmv1alpha1.AnnotationSandboxOf]; k.everybody || strings.HasPrefix(of, k.namespace+"/") {
			own = append(own, list.Items[i])
		}
	}
	return own, err
}

// round looks at every sandbox once; what fails is tried again in the next.
func (k *keeper) round(ctx context.Context) {
	own, _ := k.sandboxes(ctx)
	for i := range own {
		namespace := &own[i]
		k.mu.Lock()
		k.namespaces[string(namespace.UID)] = true
		k.mu.Unlock()
		if !namespace.DeletionTimestamp.IsZero() {
			namespace.Spec.Finalizers = nil
			_ = k.SubResource("finalize").Update(ctx, namespace)
			continue
		}
		k.keepQuota(ctx, namespace.Name)
		k.keepWorkloads(ctx, namespace.Name)
		k.keepJobs(ctx, namespace.Name)
	}
}

func (k *keeper) keepQuota(ctx context.Context, namespace string) {
	var quotas corev1.ResourceQuotaList
	_ = k.List(ctx, &quotas, client.InNamespace(namespace))
	for i := range quotas.Items {
		quota := &quotas.Items[i]
		if quota.Status.Hard != nil {
			continue
		}
		quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, corev1.ResourceList{}
		for name, hard := range quota.Spec.Hard {
			hard.Sub(hard)
			quota.Status.Used[name] = hard
		}
		_ = k.Status().Update(ctx, quota)
	}
}

func (k *keeper) keepWorkloads(ctx context.Context, namespace string) {
	k.mu.Lock()
	serves := k.serves
	k.mu.Unlock()
	var deployments appsv1.DeploymentList
	_ = k.List(ctx, &deployments, client.InNamespace(namespace))
	for i := range deployments.Items {
		if d := &deployments.Items[i]; serves && d.Status.AvailableReplicas == 0 {
			n := *d.Spec.Replicas
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
			_ = k.Status().Update(ctx, d)
		}
	}
}

func (k *keeper) keepJobs(ctx context.Context, namespace string) {
	var jobs batchv1.JobList
	_ = k.List(ctx, &jobs, client.InNamespace(namespace))
	for i := range jobs.Items {
		job := &jobs.Items[i]
		k.mu.Lock()
		k.jobs[string(job.UID)] = true
		k.mu.Unlock()
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: job.Name + "-pod", Labels: job.Spec.Template.Labels,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
			},
			Spec: *job.Spec.Template.Spec.DeepCopy(),
		}
		// Each attempt to make one counts against the quota, which nobody counts anew here.
		err := k.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		if apierrors.IsNotFound(err) {
			err = k.Create(ctx, pod)
		}
		if err != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		code, message, ended := k.verdict(job)
		if !ended {
			continue
		}
		pod.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			pod.Status.Phase = corev1.PodFailed
		}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: message, FinishedAt: metav1.Now()},
		}}}
		_ = k.Status().Update(ctx, pod)
	}
}

// noSandbox waits until no sandbox of this test is left.
func (k *keeper) noSandbox() {
	k.Helper()
	k.eventually("no sandbox is left", func() error {
		left, err := k.sandboxes(context.Background())
		if err != nil || len(left) > 0 {
			return errorf("%d are left: %v", len(left), err)
		}
		return nil
	})
}

// testedShop is a ConfigMap and the Deployment that reads it, and an improvement
// that tries its change in a sandbox by tests.
func (w *world) testedShop(tests ...dgmv1alpha1.Test) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	w.create(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "checkout"}, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "checkout"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "checkout"}}, Spec: corev1.PodSpec{
			ServiceAccountName: "improver",
			Containers: []corev1.Container{{
				Name: "checkout", Image: "shop/checkout:1",
				EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}},
				Env:     []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "db"}, Key: "password"}}}},
			}},
		}},
	}})
	w.mayRunJobs()
	return w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Sandbox = &dgmv1alpha1.Sandbox{Include: []dgmv1alpha1.ObjectReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"}}}
		object.Spec.Tests = tests
	})
}

// mayRunJobs grants the account what a sandbox asks for.
func (w *world) mayRunJobs() {
	w.Helper()
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "runs-jobs"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"create"}},
	}})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "runs-jobs"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "runs-jobs"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: "improver"}},
	})
}

// testOf is a test of one container.
func testOf(name string, edits ...func(*batchv1.JobSpec)) dgmv1alpha1.Test {
	spec := batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "test", Image: "shop/checkout:1", Command: []string{"/checkout", "smoke"}}},
	}}}
	for _, edit := range edits {
		edit(&spec)
	}
	template, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		panic(err)
	}
	return dgmv1alpha1.Test{Name: name, JobTemplate: runtime.RawExtension{Raw: template}}
}

// firstTestRuns waits until a test of an improvement was started.
func (w *world) firstTestRuns(object *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.eventually("the first test runs", func() error {
		if object = w.refresh(object); len(object.Status.Tests) == 0 {
			return errorf("the status is %+v: %s", object.Status.Sandbox, message(object))
		}
		return nil
	})
	return object
}

// hasMadeNothing ends an improvement for which no sandbox may have been made.
func (k *keeper) hasMadeNothing(object *dgmv1alpha1.ImprovementWorkspace) {
	k.Helper()
	if _, namespaces := k.seen(); namespaces != 0 {
		k.Error("a sandbox was made")
	}
	k.annotate(object, dgmv1alpha1.AnnotationAbort, "1")
	k.reaches(object, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
}

// inSandbox reads the objects of a kind in an improvement's sandbox.
func inSandbox[L client.ObjectList](w *world, object *dgmv1alpha1.ImprovementWorkspace, list L) L {
	w.Helper()
	if err := w.List(context.Background(), list, client.InNamespace(object.Status.Sandbox.Namespace)); err != nil {
		w.Fatal(err)
	}
	return list
}

func policiesOf(w *world, object *dgmv1alpha1.ImprovementWorkspace) map[string]networkingv1.NetworkPolicySpec {
	w.Helper()
	found := map[string]networkingv1.NetworkPolicySpec{}
	for _, policy := range inSandbox(w, object, &networkingv1.NetworkPolicyList{}).Items {
		found[policy.Name] = policy.Spec
	}
	return found
}
