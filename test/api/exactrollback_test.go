// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// shop makes a small service: its settings, its Deployment and its Service.
// Two of them are applied server-side, so that somebody owns their fields.
func (w *world) shop() (objects []string) {
	w.Helper()
	labels := map[string]string{"app": "shop"}
	w.configMap("settings", map[string]string{"TTL": "5", "OTHER": "kept"})
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "shop"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "log", Image: "log:1", Env: []corev1.EnvVar{{Name: "CACHE", Value: "other"}}},
				{Name: "shop", Image: "shop:1", Env: []corev1.EnvVar{{Name: "FIRST", Value: "1"}, {Name: "CACHE", Value: "small"}, {Name: "LAST", Value: "9"}}},
			}},
		}},
	}
	w.apply(deployment, "apps/v1", "Deployment")
	w.rollsOut()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "shop"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "admin", Port: 90}}},
	}
	w.apply(service, "v1", "Service")
	return []string{"ConfigMap/settings", "Deployment/shop", "Service/shop"}
}

func (w *world) apply(object client.Object, apiVersion, kind string) {
	w.Helper()
	fields := map[string]any{}
	if err := convert(object, &fields); err != nil {
		w.Fatal(err)
	}
	configuration := &unstructured.Unstructured{Object: fields}
	configuration.SetAPIVersion(apiVersion)
	configuration.SetKind(kind)
	unstructured.RemoveNestedField(configuration.Object, "status")
	if err := w.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(configuration), client.FieldOwner("somebody")); err != nil {
		w.Fatal(err)
	}
}

func changeShop() func(*dgmv1alpha1.ImprovementWorkspace) {
	return over(
		[2]string{"ConfigMap/settings", `data: {TTL: "60", NEW: "1"}`},
		[2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: shop, image: "shop:2", env: [{name: CACHE, value: large}, {name: ADDED, value: "1"}]}]}}}`},
		[2]string{"Service/shop", `spec: {ports: [{port: 80, targetPort: 8080}, {port: 91, name: added}]}`},
	)
}

func (w *world) contents(objects []string) map[string]string {
	w.Helper()
	contents := map[string]string{}
	for _, object := range objects {
		contents[object] = w.content(object)
	}
	return contents
}

func (w *world) strategic(object, patch string) {
	w.Helper()
	if err := w.Patch(context.Background(), w.live(object), client.RawPatch("application/strategic-merge-patch+json", []byte(patch)), client.FieldOwner("meddler")); err != nil {
		w.Fatal(err)
	}
}

func TestP2_RollbackIsExact(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("several objects, their order and their owners", func(w *world) {
		objects := w.shop()
		before, owners := w.contents(objects), map[string]string{}
		for _, object := range objects {
			owners[object] = w.owners(object)
		}
		shop := w.improvement("shop", "settings", changeShop())
		w.create(shop)
		w.reaches(shop, dgmv1alpha1.PhaseCompleted, "")
		for object, was := range before {
			if w.content(object) == was {
				w.Errorf("%s was not changed", object)
			}
			w.says(w.owners(object), dgmv1alpha1.FieldManager+" Update")
		}
		w.says(w.content("Deployment/shop"), `"value": "large"`, `"value": "other"`, `"name": "ADDED"`, "shop:2")
		w.annotate(shop, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(shop, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			w.Errorf("live objects (-before +after the rollback):\n%s", diff)
		}
		for _, object := range objects {
			if diff := cmp.Diff(owners[object], w.owners(object)); diff != "" {
				w.Errorf("owners of %s (-before +after the rollback):\n%s", object, diff)
			}
		}
	})

	w.scenario("edits of others stay and are named", func(w *world) {
		objects := w.shop()
		before := w.contents(objects)
		shop := w.improvement("shop", "settings", changeShop())
		w.create(shop)
		w.reaches(shop, dgmv1alpha1.PhaseCompleted, "")
		w.strategic("Deployment/shop", `{"spec":{"template":{"spec":{"containers":[{"name":"shop","env":[{"name":"CACHE","value":"theirs"}]}]}}}}`)
		w.setData("settings", "OTHER", "theirs")
		w.annotate(shop, dgmv1alpha1.AnnotationRollback, "1")
		done := w.reaches(shop, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonPartlyRolledBack)
		w.says(message(done), "Deployment/shop", "CACHE", "left alone")
		want := map[string]string{
			"ConfigMap/settings": strings.Replace(before["ConfigMap/settings"], "kept", "theirs", 1),
			"Deployment/shop":    strings.Replace(before["Deployment/shop"], "small", "theirs", 1),
			"Service/shop":       before["Service/shop"],
		}
		if diff := cmp.Diff(want, w.contents(objects)); diff != "" {
			w.Errorf("live objects (-want +got):\n%s", diff)
		}
		w.says(w.owners("Deployment/shop"), "meddler Update")
		for _, object := range objects {
			if owners := w.owners(object); strings.Contains(owners, dgmv1alpha1.FieldManager+" Update") {
				w.Errorf("the operator still owns something of %s:\n%s", object, owners)
			}
		}
	})

	w.scenario("put back by others already", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.setData("config", "CACHE_TTL", "5")
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(map[string]string{"CACHE_TTL": "5"}, w.data("config")); diff != "" {
			w.Error(diff)
		}
	})
}

func TestP2_PartialFailureIsUndoneInReverseOrder(t *testing.T) {
	w := newWorld(t)
	w.start()
	three := over([2]string{"ConfigMap/one", `data: {TTL: "60"}`}, [2]string{"ConfigMap/two", `data: {TTL: "60"}`}, [2]string{"ConfigMap/three", `data: {TTL: "60"}`})
	objects := []string{"ConfigMap/one", "ConfigMap/two", "ConfigMap/three"}
	prepare := func(w *world) (*liveGate, map[string]string) {
		w.Helper()
		for _, name := range []string{"one", "two", "three"} {
			w.configMap(name, map[string]string{"TTL": "5"})
		}
		return w.gate(), w.contents(objects)
	}

	w.scenario("the third is refused", func(w *world) {
		gate, before := prepare(w)
		gate.rule(func(object string) gateAnswer {
			if object == "ConfigMap/three" {
				return gateDeny
			}
			return gateAllow
		})
		ttl := w.improvement("ttl", "one", three)
		w.create(ttl)
		done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(message(done), "ConfigMap/three", "refused by the test")
		w.says(done.Status.RollbackReason, "ConfigMap/three")
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			w.Errorf("live objects (-before +after):\n%s", diff)
		}
		updates := slices.DeleteFunc(slices.Compact(gate.updates("ConfigMap/")), func(object string) bool { return object == "ConfigMap/"+gateProbe })
		if diff := cmp.Diff([]string{"ConfigMap/one", "ConfigMap/two", "ConfigMap/three", "ConfigMap/two", "ConfigMap/one"}, updates); diff != "" {
			w.Errorf("order of updates (-want +got):\n%s", diff)
		}
		w.synced(ttl)
		w.rows("rolled_back|failed|1", stateOf, "ttl", w.namespace)
	})

	w.scenario("putting back is refused", func(w *world) {
		gate, before := prepare(w)
		ttl := w.improvement("ttl", "one", three)
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		gate.rule(func(object string) gateAnswer {
			if object == "ConfigMap/two" {
				return gateDeny
			}
			return gateAllow
		})
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRollbackRefused)
		w.says(message(stalled), "ConfigMap/two by hand", `"path":"/data/TTL","value":"5"`, "refused by the test")
		gate.open()
		w.annotate(ttl, "example.com/look", "again")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			w.Errorf("live objects (-before +after):\n%s", diff)
		}
	})

	w.scenario("somebody edits what was changed meanwhile", func(w *world) {
		gate, before := prepare(w)
		gate.hold("ConfigMap/two")
		ttl := w.improvement("ttl", "one", three)
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
		w.setData("one", "TTL", "99")
		gate.open()
		w.annotate(ttl, "example.com/look", "again")
		done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonPartlyRolledBack)
		w.says(message(done), "ConfigMap/one", "TTL")
		before["ConfigMap/one"] = strings.Replace(before["ConfigMap/one"], `"5"`, `"99"`, 1)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			w.Errorf("live objects (-want +got):\n%s", diff)
		}
	})
}

// kills is how often the operator is killed in each direction.
const kills = 5

func TestP2_KilledAtAnyMomentNothingEndsHalfDone(t *testing.T) {
	w := newWorld(t)
	w.start("--workers=4")
	var all []*dgmv1alpha1.ImprovementWorkspace
	for round := range kills {
		fresh := w.roundOfThree(round)
		w.killAfter(time.Duration(rand.IntN(400)) * time.Millisecond)
		for _, improvement := range fresh {
			w.reaches(improvement, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
			w.wholly(improvement, "60")
		}
		for _, improvement := range fresh {
			w.annotate(improvement, dgmv1alpha1.AnnotationRollback, "1")
		}
		w.killAfter(time.Duration(rand.IntN(200)) * time.Millisecond)
		for _, improvement := range fresh {
			w.reaches(improvement, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
			w.wholly(improvement, "5")
		}
		all = append(all, fresh...)
	}
	for _, improvement := range all {
		w.synced(improvement)
		w.rows("rolled_back|failed|1", stateOf, improvement.Name, w.namespace)
	}
}

// roundOfThree creates three improvements that change four ConfigMaps each.
func (w *world) roundOfThree(round int) []*dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	var made []*dgmv1alpha1.ImprovementWorkspace
	for i := range 3 {
		name := "kill-" + string(rune('a'+round)) + string(rune('a'+i))
		var changes [][2]string
		for _, part := range []string{"1", "2", "3", "4"} {
			w.configMap(name+part, map[string]string{"TTL": "5"})
			changes = append(changes, [2]string{"ConfigMap/" + name + part, `data: {TTL: "60"}`})
		}
		made = append(made, w.improvement(name, name+"1", over(changes...)))
	}
	for _, improvement := range made {
		w.create(improvement)
	}
	return made
}

func (w *world) killAfter(delay time.Duration) {
	w.Helper()
	time.Sleep(delay)
	w.crash()
	w.start("--workers=4")
}

// wholly checks that every object of an improvement has the same value.
func (w *world) wholly(improvement *dgmv1alpha1.ImprovementWorkspace, want string) {
	w.Helper()
	for _, change := range improvement.Spec.Changes {
		if got := w.data(change.TargetRef.Name)["TTL"]; got != want {
			w.Errorf("%s: TTL is %s, want %s everywhere", change.TargetRef.Name, got, want)
		}
	}
}

// The gate kills the operator when it asks for the n-th update; the API server
// makes that update all the same.
func TestP2_KilledAtEachUpdateNothingEndsHalfDone(t *testing.T) {
	w := newWorld(t)
	w.start()
	gate := w.gate()
	objects := []string{"ConfigMap/one", "ConfigMap/two"}
	for _, name := range []string{"one", "two"} {
		w.configMap(name, map[string]string{"TTL": "5"})
	}
	before := w.contents(objects)
	ttl := w.improvement("ttl", "one", suspended, over([2]string{"ConfigMap/one", `data: {TTL: "60"}`}, [2]string{"ConfigMap/two", `data: {TTL: "60"}`}))
	w.create(ttl)
	w.synced(ttl)
	survive := func(n int32, command func()) {
		var asked atomic.Int32
		gate.rule(func(string) gateAnswer {
			if asked.Add(1) == n {
				_ = syscall.Kill(w.operator.Pid(), syscall.SIGKILL)
			}
			return gateAllow
		})
		command()
		<-w.operator.Exited()
		w.crash()
		w.start()
	}
	for n := int32(1); n <= 2; n++ {
		survive(n, func() {
			w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "apply-"+string('0'+n))
			if err := w.patch(ttl, `{"spec":{"suspend":false}}`); err != nil {
				t.Fatal(err)
			}
		})
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.wholly(ttl, "60")
		gate.open()
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "apply-"+string('0'+n))
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	}
	// Putting back takes two updates of each object: its values, then its owners.
	for n := int32(1); n <= 4; n++ {
		w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "undo-"+string('0'+n))
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		survive(n, func() { w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "undo-"+string('0'+n)) })
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if diff := cmp.Diff(before, w.contents(objects)); diff != "" {
			w.Errorf("killed at update %d of the rollback (-before +after):\n%s", n, diff)
		}
		for _, object := range objects {
			if owners := w.owners(object); strings.Contains(owners, dgmv1alpha1.FieldManager+" Update") {
				w.Errorf("killed at update %d, the operator still owns something of %s:\n%s", n, object, owners)
			}
		}
	}
	if attempt := w.refresh(ttl).Status.Attempt; attempt != 6 {
		w.Errorf("attempt %d, want 6", attempt)
	}
}
