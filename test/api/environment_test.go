// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

func TestP1_WhatTheChangeFindsIsInTheDatabase(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("the target and what it reads", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5", "API_TOKEN": "hunter2"})
		w.configMap("settings", map[string]string{"COLOR": "green"})
		w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "keys"}, StringData: map[string]string{"key": "hunter2"}})
		w.deployment("shop", "shop:1", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: new(true)}},
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}},
			}
		})
		w.rollsOut()
		ttl := w.improvement("ttl", "config", targets("shop"))
		w.create(ttl)
		done := w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")

		found := w.environment(done)
		roles := map[string]string{}
		for _, object := range found.Objects {
			roles[object.Ref.String()] = object.Role
		}
		want := map[string]string{"ConfigMap/config": "changed", "Deployment/shop": "target", "ConfigMap/settings": "referenced"}
		if diff := cmp.Diff(want, roles); diff != "" {
			t.Errorf("captured (-want +got):\n%s", diff)
		}
		text := string(mustMarshal(w, found))
		w.says(text, `"COLOR":"green"`, `"CACHE_TTL":"5"`, "ConfigMap/absent does not exist", "Secret/keys is not captured: ServiceAccount improver may not get it")
		if contains(text, "hunter2") || len(found.Secrets) > 0 {
			t.Errorf("it shows a credential, or a Secret that the account may not read: %s", text)
		}
	})

	w.scenario("a Secret by its digest", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "keys"}, StringData: map[string]string{"key": "hunter2"}})
		w.tenantMay("secrets", "get")
		w.deployment("shop", "shop:1", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "keys"}}
		})
		w.rollsOut()
		ttl := w.improvement("ttl", "config", targets("shop"))
		w.create(ttl)
		found := w.environment(w.reaches(ttl, dgmv1alpha1.PhaseCompleted, ""))
		if len(found.Secrets) != 1 || found.Secrets[0].Name != "keys" || len(found.Secrets[0].SHA256) != 64 || len(found.Notes) > 0 {
			t.Errorf("it holds %+v, %v", found.Secrets, found.Notes)
		}
	})
}

func (w *world) environment(object *dgmv1alpha1.ImprovementWorkspace) snapshot.Environment {
	w.Helper()
	var found snapshot.Environment
	text := w.query(`SELECT environment_snapshot::text FROM dgm.improvement_workspaces WHERE improvement_id = $1`, object.Status.ImprovementID)
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		w.Fatalf("%v: %s", err, text)
	}
	return found
}

func mustMarshal(w *world, value any) []byte {
	w.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		w.Fatal(err)
	}
	return text
}

// A value that its owner puts back is a conflict that a person has to end; the
// others are put back, since half a change was judged by nobody.
func TestGitOpsConflict(t *testing.T) {
	w := newWorld(t)
	w.start()
	apply := func(w *world, owner, name, value string) {
		w.Helper()
		fields := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": w.namespace}, "data": map[string]any{"TTL": value}}
		configuration := client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: fields})
		if err := w.Apply(context.Background(), configuration, client.FieldOwner(owner), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(w *world, owner string) *dgmv1alpha1.ImprovementWorkspace {
		w.Helper()
		apply(w, owner, "owned", "5")
		w.configMap("free", map[string]string{"TTL": "5"})
		w.deployment("shop", "shop:1") // nobody rolls it out yet
		ttl := w.improvement("ttl", "free", targets("shop"),
			over([2]string{"ConfigMap/owned", `data: {TTL: "60"}`}, [2]string{"ConfigMap/free", `data: {TTL: "60"}`}),
			func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.OnGitOpsOwned = dgmv1alpha1.GitOpsProceed })
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRollingOut)
		w.values(map[string]string{"owned": "60", "free": "60"})
		return ttl
	}

	w.scenario("by a GitOps tool", func(w *world) {
		ttl := begin(w, "kustomize-controller")
		apply(w, "kustomize-controller", "owned", "5")
		w.rollsOut()
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonGitOpsConflict)
		w.says(message(failed), "ConfigMap/owned", "Flux (Kustomization)", "data.TTL", "status.diff", "everything else was put back")
		w.says(failed.Status.Diff, "upstream", `data: {TTL: "60"}`)
		if effective := conditionOf(failed, dgmv1alpha1.ConditionEffective); effective.Status != metav1.ConditionFalse {
			t.Errorf("Effective is %+v", effective)
		}
		w.values(map[string]string{"owned": "5", "free": "5"})
		w.synced(ttl)
		w.rows("failed|failed|1", stateOf, "ttl", w.namespace)
	})

	w.scenario("by who owned it before", func(w *world) {
		ttl := begin(w, "release-script")
		apply(w, "release-script", "owned", "7")
		w.rollsOut()
		failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonGitOpsConflict)
		w.says(message(failed), "field manager release-script")
		w.values(map[string]string{"owned": "7", "free": "5"})
	})

	w.scenario("while a kept change is watched", func(w *world) {
		apply(w, "release-script", "config", "5")
		w.rows("1", `SELECT count(*) FROM dgm.writer_fences`) // the schema is there
		w.service("watched", "config", changed(1))
		ttl := w.improvement("ttl", "config", over([2]string{"ConfigMap/config", `data: {TTL: "60"}`}), observed(func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Target.Service, object.Spec.Observe.WatchAfterCompletion = "watched", "4s"
			// What is measured does not matter here, nor does how much of it a busy machine takes.
			metric := &object.Spec.Metrics[0]
			metric.MaxRegression, metric.OnNoData, metric.OnInconclusive = "90%", dgmv1alpha1.UndecidedAccept, dgmv1alpha1.UndecidedAccept
		}))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		apply(w, "release-script", "config", "5")
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonGitOpsConflict)
		w.says(message(stalled), "field manager release-script", "ConfigMap/config")
		if effective := conditionOf(stalled, dgmv1alpha1.ConditionEffective); effective.Status != metav1.ConditionFalse {
			t.Errorf("Effective is %+v", effective)
		}
	})

	w.scenario("changed by a stranger", func(w *world) {
		ttl := begin(w, "release-script")
		w.setData("owned", "TTL", "7")
		w.rollsOut()
		undone := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonPartlyRolledBack)
		w.says(undone.Status.RollbackReason, dgmv1alpha1.ReasonTargetChanged, "ConfigMap/owned")
		w.values(map[string]string{"owned": "7", "free": "5"})
	})
}
