// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// testsOf is what the database has of the tests of an attempt.
const testsOf = `SELECT key, value->>'outcome', value->>'exitCode', value->>'tries', value->'results', value->>'message'
	FROM dgm.improvement_workspaces w, jsonb_each(w.test_results->'tests') WHERE w.improvement_id = $1 ORDER BY key`

func TestSandbox(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("the change is tried and what the tests said is kept", func(w *world) {
		var let atomic.Bool
		k := w.keeper(func(job *batchv1.Job) (int32, string, bool) {
			code, message, _ := passes(job)
			return code, message, let.Load()
		})
		ttl := w.testedShop(testOf("smoke"), testOf("words", func(s *batchv1.JobSpec) { s.Template.Spec.Containers[0].Name = "words" }))
		w.create(ttl)
		ttl = w.firstTestRuns(ttl)
		w.says(ttl.Status.Sandbox.LeftOut, "Secret/db", "Deployment/checkout")
		w.isolated(ttl)
		if got := w.data("config")["CACHE_TTL"]; got != "5" {
			t.Errorf("the live value is %s while the change is tried; want 5", got)
		}
		w.quiet(ttl)
		let.Store(true)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.rows("smoke|Passed|0|1|map[p99:1.5]|\nwords|Passed|0|1|map[p99:1.5]|", testsOf, ttl.Status.ImprovementID)
		w.rows(ttl.Status.Sandbox.Namespace+"|2", `SELECT test_results->'sandbox'->>'namespace', jsonb_array_length(test_results->'sandbox'->'leftOut')
			FROM dgm.improvement_workspaces WHERE improvement_id = $1`, ttl.Status.ImprovementID)
		k.noSandbox()
		w.eventually("status says that it is gone", func() error {
			if ttl = w.refresh(ttl); !ttl.Status.Sandbox.Removed {
				return errorf("it is %+v", ttl.Status.Sandbox)
			}
			return nil
		})
		if jobs, namespaces := k.seen(); jobs != 2 || namespaces != 1 {
			t.Errorf("%d Jobs in %d sandboxes; want 2 in 1", jobs, namespaces)
		}
	})

	w.scenario("P8 images are pulled as the workload pulls them live, as far as the account may know", func(w *world) {
		k := w.keeper(func(*batchv1.Job) (int32, string, bool) { return 0, "", false })
		w.create(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
			StringData: map[string]string{corev1.DockerConfigJsonKey: `{"auths":{}}`},
		})
		w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "runner"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}})
		ttl := w.testedShop(testOf("smoke"))
		if err := w.Patch(context.Background(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "checkout"}},
			client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"template":{"spec":{"serviceAccountName":"runner"}}}}`))); err != nil {
			w.Fatal(err)
		}
		running := func(ttl *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
			w.create(ttl)
			return w.firstTestRuns(ttl)
		}
		unknown := running(ttl.DeepCopy())
		w.says(unknown.Status.Sandbox.LeftOut, "ServiceAccount/runner, as which Deployment/checkout runs: the Secrets to pull images by")
		if secrets := inSandbox(w, unknown, &corev1.SecretList{}); len(secrets.Items) != 0 {
			t.Errorf("%d Secrets are copied that the account may not get", len(secrets.Items))
		}
		w.annotate(unknown, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(unknown, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)

		w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "pulls"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts", "secrets"}, ResourceNames: []string{"runner", "registry"}, Verbs: []string{"get"}},
		}})
		w.create(&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "pulls"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pulls"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: "improver"}},
		})
		again := ttl.DeepCopy()
		again.Name = "known"
		known := running(again)
		accounts := inSandbox(w, known, &corev1.ServiceAccountList{}).Items
		if secrets := inSandbox(w, known, &corev1.SecretList{}).Items; len(secrets) != 1 || secrets[0].Name != "registry" || len(accounts) != 1 ||
			len(accounts[0].ImagePullSecrets) != 1 || accounts[0].ImagePullSecrets[0].Name != "registry" {
			t.Errorf("the sandbox has %d Secrets and the accounts %+v", len(secrets), accounts)
		}
		w.annotate(known, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(known, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
		k.noSandbox()
	})

	w.scenario("a test that fails ends it with nothing touched", func(w *world) {
		k := w.keeper(func(job *batchv1.Job) (int32, string, bool) {
			if job.Labels[dgmv1alpha1.LabelTest] == "smoke" {
				return passes(job)
			}
			return 3, "too slow: \x00p99 is 80 ms", true
		})
		slow := testOf("slow")
		slow.Retries = new(int32(1))
		ttl := w.testedShop(testOf("smoke"), slow, testOf("never"))
		observed()(ttl)
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTestsFailed)
		w.says(message(ttl), "test slow: Failed with exit code 3 in try 2", "too slow")
		w.rows("0", `SELECT metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, ttl.Status.ImprovementID) // P5
		w.values(map[string]string{"config": "5"})
		w.rows("slow|Failed|3|2||too slow: \uFFFDp99 is 80 ms\nsmoke|Passed|0|1|map[p99:1.5]|", testsOf, ttl.Status.ImprovementID)
		w.rows("1|Failed|3|too slow: \uFFFDp99 is 80 ms", `SELECT e->>'try', e->>'outcome', e->>'exitCode', e->>'message'
			FROM dgm.improvement_workspaces w, jsonb_array_elements(w.test_results #> '{tests,slow,earlierTries}') e WHERE w.improvement_id = $1`, ttl.Status.ImprovementID)
		w.rows("failed|failed|1", stateOf, "ttl", w.namespace)
		k.noSandbox()
		if jobs, _ := k.seen(); jobs != 3 {
			t.Errorf("%d Jobs; want 3: the third test must not run", jobs)
		}
	})

	w.scenario("a test that does not end is ended", func(w *world) {
		k := w.keeper(func(*batchv1.Job) (int32, string, bool) { return 0, "", false })
		endless := testOf("endless")
		endless.Timeout = "1s"
		ttl := w.testedShop(endless)
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTestsFailed)
		w.says(message(ttl), "test endless: TimedOut", "within 1s")
		k.noSandbox()
	})

	w.scenario("a candidate that does not come up ends it", func(w *world) {
		k := w.keeper(passes)
		k.mu.Lock()
		k.serves = false
		k.mu.Unlock()
		ttl := w.testedShop(testOf("smoke"))
		ttl.Spec.Rollout = &dgmv1alpha1.Rollout{Timeout: "2s"}
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonSandboxFailed)
		w.says(message(ttl), "Deployment/checkout", "within 2s", "nothing live was touched")
		k.noSandbox()
		if jobs, _ := k.seen(); jobs != 0 {
			t.Errorf("%d tests ran against what does not serve", jobs)
		}
	})

	w.scenario("P8 pods that pod security refuses are said at once", func(w *world) {
		k := w.keeper(passes)
		ttl := w.testedShop(testOf("smoke"), testOf("root", func(s *batchv1.JobSpec) {
			s.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		}))
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTestsFailed)
		w.says(message(ttl), "test root cannot be run", "privileged", "spec.tests[root].jobTemplate")
		k.noSandbox()
		if jobs, _ := k.seen(); jobs != 0 {
			t.Errorf("%d tests ran before", jobs)
		}
	})

	w.scenario("P8 nothing runs for an account that may not create Jobs", func(w *world) {
		k := w.keeper(passes)
		ttl := w.testedShop(testOf("smoke"))
		w.remove(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "runs-jobs"}})
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonForbidden)
		w.says(message(ttl), "improver may not create Jobs in namespace "+w.namespace, "verb create on jobs")
		k.hasMadeNothing(ttl)
	})

	w.scenario("P8 no way out is opened for an account that may not open one", func(w *world) {
		k := w.keeper(passes)
		ttl := w.testedShop(testOf("smoke"))
		ttl.Spec.Sandbox.Egress = []dgmv1alpha1.SandboxEgress{{CIDR: "0.0.0.0/0"}}
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonForbidden)
		w.says(message(ttl), "improver may not create NetworkPolicies in namespace "+w.namespace, "verb create on networkpolicies in the group networking.k8s.io")
		k.hasMadeNothing(ttl)
	})

	w.scenario("a sandbox without tests shows that the candidate serves", func(w *world) {
		k := w.keeper(passes)
		ttl := w.testedShop()
		w.create(ttl)
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.rows(ttl.Status.Sandbox.Namespace, `SELECT test_results->'sandbox'->>'namespace' FROM dgm.improvement_workspaces WHERE improvement_id = $1`, ttl.Status.ImprovementID)
		k.noSandbox()
	})
}

// quiet checks that following a test writes nothing (P12).
func (w *world) quiet(ttl *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.synced(ttl)
	versions := func() [2]string {
		return [2]string{w.refresh(ttl).ResourceVersion, w.query(`SELECT xmin::text FROM dgm.improvement_workspaces WHERE improvement_id = $1`, ttl.Status.ImprovementID)}
	}
	before := versions()
	time.Sleep(5 * time.Second) // two looks at the test
	if after := versions(); after != before {
		w.Errorf("object and row are written while nothing happens: %v, then %v", before, after)
	}
}

// isolated checks that a sandbox holds the changed copies, and nothing that leads out.
func (w *world) isolated(ttl *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	namespace := &corev1.Namespace{}
	if err := w.Get(context.Background(), client.ObjectKey{Name: ttl.Status.Sandbox.Namespace}, namespace); err != nil {
		w.Fatal(err)
	}
	if namespace.Labels["pod-security.kubernetes.io/enforce"] != "baseline" || namespace.Labels[dgmv1alpha1.LabelSandbox] != string(ttl.UID) {
		w.Errorf("the labels are %v", namespace.Labels)
	}
	for _, config := range inSandbox(w, ttl, &corev1.ConfigMapList{}).Items {
		if config.Name == "config" && config.Data["CACHE_TTL"] != "60" {
			w.Errorf("the copy has %v; want the change", config.Data)
		}
	}
	deployment := inSandbox(w, ttl, &appsv1.DeploymentList{}).Items[0]
	job := inSandbox(w, ttl, &batchv1.JobList{}).Items[0]
	if *deployment.Spec.Replicas != 1 {
		w.Errorf("%d replicas; want 1", *deployment.Spec.Replicas)
	}
	for _, pod := range []corev1.PodSpec{deployment.Spec.Template.Spec, job.Spec.Template.Spec} {
		if pod.ServiceAccountName != "dgm-sandbox" || *pod.AutomountServiceAccountToken {
			w.Errorf("a pod runs as %s with a token: %v", pod.ServiceAccountName, *pod.AutomountServiceAccountToken)
		}
	}
	if len(inSandbox(w, ttl, &corev1.SecretList{}).Items) != 0 || len(inSandbox(w, ttl, &corev1.ResourceQuotaList{}).Items) != 1 || len(inSandbox(w, ttl, &corev1.LimitRangeList{}).Items) != 1 {
		w.Error("want no Secret, a quota and limits")
	}
	policies := policiesOf(w, ttl)
	if deny, ok := policies["deny-all"]; !ok || len(deny.Ingress)+len(deny.Egress) != 0 || len(deny.PolicyTypes) != 2 {
		w.Errorf("the policies are %v", policies)
	}
}

func TestSandbox_NoneIsLeft(t *testing.T) {
	w := newWorld(t)
	w.start()
	endless := func(*batchv1.Job) (int32, string, bool) { return 0, "", false }
	running := func(w *world) (*keeper, *dgmv1alpha1.ImprovementWorkspace) {
		k := w.keeper(endless)
		ttl := w.testedShop(testOf("endless"))
		w.create(ttl)
		w.eventually("the test runs", func() error {
			if len(w.refresh(ttl).Status.Tests) == 0 {
				return errorf("no test yet: %s", message(w.refresh(ttl)))
			}
			return nil
		})
		return k, ttl
	}

	w.scenario("aborted", func(w *world) {
		k, ttl := running(w)
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
		k.noSandbox()
		w.eventually("no test is called running", func() error {
			if ttl = w.refresh(ttl); !ttl.Status.Sandbox.Removed || ttl.Status.Tests[0].Outcome != dgmv1alpha1.TestError {
				return errorf("%+v %+v", ttl.Status.Sandbox, ttl.Status.Tests)
			}
			return nil
		})
	})
	w.scenario("retried", func(w *world) {
		k, ttl := running(w)
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
		w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "1")
		w.attempt(ttl, 2, dgmv1alpha1.PhaseTesting)
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "2")
		w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
		k.noSandbox()
	})
	w.scenario("its status lost", func(w *world) {
		k, ttl := running(w)
		w.wipe(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		k.noSandbox()
		w.values(map[string]string{"config": "5"})
	})
	w.scenario("removed under it", func(w *world) {
		k, ttl := running(w)
		own, err := k.sandboxes(context.Background())
		if err != nil || len(own) != 1 {
			t.Fatalf("%d sandboxes: %v", len(own), err)
		}
		if err := w.Delete(context.Background(), &own[0]); err != nil {
			t.Fatal(err)
		}
		// Nothing collects the objects of a namespace here.
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: own[0].Name, Name: "endless-1"}}
		if err := w.Delete(context.Background(), job, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
		ttl = w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTestsFailed)
		w.says(message(ttl), "test endless: Error", "its Job is gone")
		k.noSandbox()
	})
}

func TestSandbox_OrphansAreSweptAtStart(t *testing.T) {
	w := newWorld(t)
	k := w.keeper(passes)
	orphan := sandboxNamed("dgm-sandbox-0000000000000000000a", "the-uid-of-nobody")
	orphan.Annotations = map[string]string{dgmv1alpha1.AnnotationSandboxOf: w.namespace + "/gone"}
	if err := w.asOperator().Create(context.Background(), orphan); err != nil {
		t.Fatal(err)
	}
	w.start()
	k.noSandbox()
}
