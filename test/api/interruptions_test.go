// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// halfApplied starts an improvement over two ConfigMaps and holds it between the
// first and the second.
func (w *world) halfApplied() (*liveGate, *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	gate, ttl := w.overTwo()
	gate.hold("ConfigMap/two")
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
	if got := w.data("one")["TTL"]; got != "60" {
		w.Fatalf("the first object has TTL %s, want 60", got)
	}
	return gate, ttl
}

func (w *world) overTwo() (*liveGate, *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	for _, name := range []string{"one", "two"} {
		w.configMap(name, map[string]string{"TTL": "5"})
	}
	return w.gate(), w.improvement("ttl", "one", over([2]string{"ConfigMap/one", `data: {TTL: "60"}`}, [2]string{"ConfigMap/two", `data: {TTL: "60"}`}))
}

// nudge has an improvement looked at again at once.
func (w *world) nudge(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.annotate(object, "example.com/look", fmt.Sprint(w.refresh(object).ResourceVersion))
}

func (w *world) deleted(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	if err := w.Delete(context.Background(), object.DeepCopy()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) goes(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.eventually(object.Name+" goes", func() error {
		var left dgmv1alpha1.ImprovementWorkspace
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(object), &left); !apierrors.IsNotFound(err) {
			return errorf("it is still there in phase %s, with finalizers %v: %v", left.Status.Phase, left.Finalizers, err)
		}
		return nil
	})
}

// values checks CACHE_TTL or TTL in ConfigMaps.
func (w *world) values(want map[string]string) {
	w.Helper()
	got := map[string]string{}
	for name := range want {
		data := w.data(name)
		got[name] = data["TTL"] + data["CACHE_TTL"]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("a rollback goes on while suspended and frozen", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.freeze("true")
		if err := w.patch(ttl, `{"spec":{"suspend":true}}`); err != nil {
			t.Fatal(err)
		}
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "5"})
	})

	w.scenario("frozen, then not", func(w *world) {
		w.freeze("true")
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonFrozen)
		w.says(message(waiting), "kubectl label namespace "+w.namespace)
		w.values(map[string]string{"config": "5"})
		w.freeze("false")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	})

	w.scenario("aborted before and while it is applied", func(w *world) {
		gate, ttl := w.halfApplied()
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort+dgmv1alpha1.AnnotationReasonSuffix, "wrong shop")
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		gate.open()
		done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(message(done), "wrong shop")
		w.values(map[string]string{"one": "5", "two": "5"})

		pending := w.improvement("pending", "one", suspended)
		w.create(pending)
		w.synced(pending)
		w.annotate(pending, dgmv1alpha1.AnnotationAbort, "1")
		w.stalls(pending, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
	})

	w.scenario("target deleted", func(w *world) {
		_, ttl := w.overTwo()
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.deleteConfigMap("one")
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetGone)
		w.says(message(failed), "ConfigMap/one", "not made anew")
		w.values(map[string]string{"two": "5"})
		if err := w.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: "one"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
			w.Errorf("the deleted ConfigMap is there again: %v", err)
		}
		w.synced(ttl)
		w.rows("completed|failed|1", stateOf, "ttl", w.namespace)
	})

	w.scenario("target deleted and made anew while it is applied", func(w *world) {
		gate, ttl := w.halfApplied()
		w.deleteConfigMap("two")
		w.configMap("two", map[string]string{"TTL": "7"})
		gate.open()
		w.nudge(ttl)
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetGone)
		w.says(message(failed), "ConfigMap/two")
		w.values(map[string]string{"one": "5", "two": "7"})
	})
}

// preparing starts an improvement and holds it while its snapshot is stored.
func (w *world) preparing() (*liveGate, *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	gate := w.gate()
	gate.rule(func(object string) gateAnswer {
		if strings.HasPrefix(object, "ControllerRevision/") {
			return gateBreak
		}
		return gateAllow
	})
	ttl := w.improvement("ttl", "config")
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhasePreparing, dgmv1alpha1.ReasonRetrying)
	return gate, ttl
}

func TestInterruptedWhilePreparing(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("frozen, then edited by others", func(w *world) {
		gate, ttl := w.preparing()
		w.freeze("true")
		gate.open()
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhasePreparing, dgmv1alpha1.ReasonFrozen)
		w.values(map[string]string{"config": "5"})
		w.setData("config", "OTHER", "theirs")
		w.freeze("false")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		if diff := cmp.Diff(map[string]string{"CACHE_TTL": "60", "OTHER": "theirs"}, w.data("config")); diff != "" {
			w.Error(diff)
		}
	})

	w.scenario("the touched value changed by others", func(w *world) {
		gate, ttl := w.preparing()
		w.freeze("true")
		gate.open()
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhasePreparing, dgmv1alpha1.ReasonFrozen)
		w.setData("config", "CACHE_TTL", "30")
		w.nudge(ttl)
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetChanged)
		w.says(message(failed), "ConfigMap/config", dgmv1alpha1.AnnotationRetry)
		w.values(map[string]string{"config": "30"})
	})

	// A snapshot is stored once: what is edited after that is another attempt,
	// never the old plan.
	w.scenario("edited after its snapshot was stored", func(w *world) {
		gate, ttl := w.preparing()
		w.freeze("true")
		gate.open()
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhasePreparing, dgmv1alpha1.ReasonFrozen)
		w.grants("improver")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhasePending, "")
		if err := w.patch(ttl, `{"spec":{"changes":[{"name":"cache","targetRef":{"apiVersion":"v1","kind":"ConfigMap","name":"config"},"patch":"data: {CACHE_TTL: \"90\"}"}]}}`); err != nil {
			t.Fatal(err)
		}
		w.grants("improver", "get", "patch")
		w.freeze("false")
		w.nudge(ttl)
		w.attempt(ttl, 2, dgmv1alpha1.PhaseCompleted)
		w.values(map[string]string{"config": "90"})
		w.synced(ttl)
		w.rows("1|failed|0\n2|completed|1", attempts, "ttl", w.namespace)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "5"})
	})
}

func (w *world) freeze(value string) {
	w.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, dgmv1alpha1.LabelFreeze, value)
	if err := w.Patch(context.Background(), namespace, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		w.Fatal(err)
	}
}

func (w *world) deleteConfigMap(name string) {
	w.Helper()
	if err := w.Delete(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}); err != nil {
		w.Fatal(err)
	}
}

// grants makes the account's rights on ConfigMaps and Deployments these verbs.
func (w *world) grants(account string, verbs ...string) {
	w.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: account}}
	if len(verbs) > 0 {
		role.Rules = []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: verbs},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: verbs},
		}
	}
	if err := w.Update(context.Background(), role); err != nil {
		w.Fatal(err)
	}
	w.eventually("the rights of "+account+" are in force", func() error {
		for _, verb := range []string{"get", "patch"} {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               "system:serviceaccount:" + w.namespace + ":" + account,
				ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: w.namespace, Resource: "configmaps", Verb: verb},
			}}
			if err := w.Create(context.Background(), review); err != nil || review.Status.Allowed != slices.Contains(verbs, verb) {
				return errorf("%s is allowed: %v, %v", verb, review.Status.Allowed, err)
			}
		}
		return nil
	})
}

func TestP8_RightsThatVanishStopIt(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("before it is applied", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.grants("improver", "get")
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonForbidden)
		w.says(message(waiting), "ServiceAccount improver", "patch ConfigMap/config", "Role in namespace "+w.namespace)
		w.values(map[string]string{"config": "5"})
		w.grants("improver", "get", "patch")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	})

	w.scenario("while it is applied", func(w *world) {
		gate, ttl := w.halfApplied()
		w.grants("improver", "get")
		w.nudge(ttl)
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRollbackForbidden)
		w.says(message(stalled), "ConfigMap/one by hand", `"path":"/data/TTL","value":"5"`)
		gate.open()
		w.grants("improver", "get", "patch")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"one": "5", "two": "5"})
	})

	// Nobody nudges here: the operator looks again by itself.
	w.scenario("before it is rolled back", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.grants("improver")
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRollbackForbidden)
		w.says(message(stalled), "grant the right back", "get ConfigMap/config")
		w.grants("improver", "get")
		w.nudge(ttl)
		w.eventually("it shows the patch for a person", func() error {
			if shown := message(w.refresh(ttl)); !contains(shown, `"path":"/data/CACHE_TTL","value":"5"`) {
				return errorf("the message is %q", shown)
			}
			return nil
		})
		w.grants("improver", "get", "patch")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "5"})
	})

	w.scenario("namespace opted out before it is rolled back", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.optOut()
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRollbackForbidden)
		w.says(message(stalled), "dgm-tenant")
		w.optIn()
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "5"})
	})
}

// optOut takes the operator's right to act in the namespace away, and waits for
// that: the API server remembers for ten seconds whom it let act as whom.
func (w *world) optOut() {
	w.Helper()
	config := kubetest.UserConfig(w, operatortest.User)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + w.namespace + ":improver"}
	improver, err := client.New(config, client.Options{Mapper: w.RESTMapper()})
	if err != nil {
		w.Fatal(err)
	}
	read := func() error {
		return improver.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: "config"}, &corev1.ConfigMap{})
	}
	if err := read(); err != nil {
		w.Fatal(err)
	}
	if err := w.Delete(context.Background(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "dgm-tenant"}}); err != nil {
		w.Fatal(err)
	}
	w.eventually("the namespace has opted out", func() error {
		if err := read(); !apierrors.IsForbidden(err) {
			return errorf("the operator may still act there: %v", err)
		}
		return nil
	})
}

func TestGitOpsOwnedObjects(t *testing.T) {
	w := newWorld(t)
	w.start()
	owned := func(w *world) {
		w.Helper()
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "config"}, Data: map[string]string{"CACHE_TTL": "5"}}
		if err := w.Create(context.Background(), object, client.FieldOwner("argocd-controller")); err != nil {
			t.Fatal(err)
		}
	}

	w.scenario("refused", func(w *world) {
		owned(w)
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonGitOpsOwned)
		w.says(message(failed), "Argo CD", "ConfigMap/config", "onGitOpsOwned")
		w.says(failed.Status.Diff, "upstream", `CACHE_TTL: "60"`)
		w.values(map[string]string{"config": "5"})
	})

	w.scenario("proceeded with", func(w *world) {
		owned(w)
		ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.OnGitOpsOwned = dgmv1alpha1.GitOpsProceed })
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.values(map[string]string{"config": "60"})
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(w.owners("ConfigMap/config"), "argocd-controller Update", "CACHE_TTL")
	})
}
