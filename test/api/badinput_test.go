// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// patching makes an improvement change an object by a patch of a type.
func patching(apiVersion, kind, name string, patchType dgmv1alpha1.PatchType, patch string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Changes[0] = dgmv1alpha1.Change{
			Name: "change", Type: patchType, Patch: patch,
			TargetRef: dgmv1alpha1.ObjectReference{APIVersion: apiVersion, Kind: kind, Name: name},
		}
	}
}

func TestWhatCannotBeAppliedSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.start()
	const merge, strategic, operations = dgmv1alpha1.PatchMerge, dgmv1alpha1.PatchStrategicMerge, dgmv1alpha1.PatchJSON
	for _, test := range []struct {
		name   string
		change func(*dgmv1alpha1.ImprovementWorkspace)
		reason string
		says   []string
	}{
		{"no YAML", patching("v1", "ConfigMap", "config", merge, "data: {CACHE_TTL: "), dgmv1alpha1.ReasonInvalidPatch, []string{"change change", "neither YAML nor JSON"}},
		{"a key twice", patching("v1", "ConfigMap", "config", merge, "data: {A: \"1\", A: \"2\"}"), dgmv1alpha1.ReasonInvalidPatch, []string{"already"}},
		{"no object", patching("v1", "ConfigMap", "config", merge, "just words"), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "correct spec.changes"}},
		{"a number where the kind has text", patching("v1", "ConfigMap", "config", merge, "data: {CACHE_TTL: 60}"), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "correct spec.changes"}},
		{"a field that the kind does not have", patching("v1", "ConfigMap", "config", merge, "dta: {CACHE_TTL: \"60\"}"), dgmv1alpha1.ReasonInvalidPatch, []string{"dta", "correct spec.changes"}},
		{"a map where operations are due", patching("v1", "ConfigMap", "config", operations, "data: {CACHE_TTL: \"60\"}"), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "correct spec.changes"}},
		{"a test operation that fails", patching("v1", "ConfigMap", "config", operations, `[{"op":"test","path":"/data/CACHE_TTL","value":"6"},{"op":"replace","path":"/data/CACHE_TTL","value":"60"}]`), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "/data/CACHE_TTL", "correct spec.changes"}},
		{"a path that is not there", patching("v1", "ConfigMap", "config", operations, `[{"op":"remove","path":"/data/NONE"}]`), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "/data/NONE", "correct spec.changes"}},
		{"a strategic merge of a custom kind", patching("example.com/v1", "Widget", "widget", strategic, "spec: {size: 2}"), dgmv1alpha1.ReasonInvalidPatch, []string{"Widget/widget", "correct spec.changes"}},
		{"an object that does not exist", patching("v1", "ConfigMap", "missing", merge, "{}"), dgmv1alpha1.ReasonTargetNotFound, []string{"ConfigMap/missing does not exist in namespace", "retry"}},
		{"a kind that does not exist", patching("example.com/v1", "Nothing", "x", merge, "{}"), dgmv1alpha1.ReasonTargetNotFound, []string{"Nothing/x", "does not know this kind", "retry"}},
		{"a kind outside of namespaces", patching("rbac.authorization.k8s.io/v1", "ClusterRole", "dgm-tenant", merge, "{}"), dgmv1alpha1.ReasonChangeRefused, []string{"ClusterRole", "its own namespace"}},
		{"owners", patching("v1", "ConfigMap", "config", merge, `metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: x, uid: u}]}`), dgmv1alpha1.ReasonChangeRefused, []string{"metadata.ownerReferences", "remove that from the patch"}},
		{"finalizers", patching("v1", "ConfigMap", "config", merge, `metadata: {finalizers: [example.com/x]}`), dgmv1alpha1.ReasonChangeRefused, []string{"metadata.finalizers", "remove that from the patch"}},
		{"another name", patching("v1", "ConfigMap", "config", merge, `metadata: {name: other}`), dgmv1alpha1.ReasonInvalidPatch, []string{"ConfigMap/config", "correct spec.changes"}},
		{"too large", patching("v1", "ConfigMap", "config", merge, `data: {BIG: "`+strings.Repeat("x", 480<<10)+`", BIG2: null}`), dgmv1alpha1.ReasonTooLarge, []string{"921600", "change"}},
	} {
		w.scenario(test.name, func(w *world) {
			w.widget()
			data := map[string]string{"CACHE_TTL": "5"}
			if test.reason == dgmv1alpha1.ReasonTooLarge {
				data["BIG2"] = strings.Repeat("y", 400<<10)
			}
			before := w.configMap("config", data)
			ttl := w.improvement("ttl", "config", test.change)
			w.create(ttl)
			failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, test.reason)
			w.says(message(failed), test.says...)
			if live := w.live("ConfigMap/config"); live.GetResourceVersion() != before.ResourceVersion {
				w.Error("the ConfigMap was touched")
			}
			w.synced(ttl)
			w.rows("failed|failed|1", stateOf, "ttl", w.namespace)
		})
	}
}

// widget makes a custom kind, once, and an object of it that the account may patch.
func (w *world) widget() {
	w.Helper()
	w.eventually("the kind Widget is there", func() error {
		if err := w.Create(context.Background(), widgetKind()); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		err := w.Create(context.Background(), widgetObject(w.namespace))
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	w.create(widgetRole(w.namespace))
	w.create(widgetBinding(w.namespace))
}

func TestRefusedAtAdmission(t *testing.T) {
	w := newWorld(t)
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	for _, test := range []struct {
		name string
		edit func(*dgmv1alpha1.ImprovementWorkspace)
		says string
	}{
		{"secret", patching("v1", "Secret", "s", dgmv1alpha1.PatchMerge, "{}"), "Secrets cannot be changed by an improvement"},
		{"secret-target", func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Target.Ref = dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "Secret", Name: "s"}
		}, "a Secret cannot be the target"},
		{"own-kind", patching("dgm.acgs.io/v1alpha1", "BanditPolicy", "s", dgmv1alpha1.PatchMerge, "{}"), "dgm.acgs.io cannot be changed"},
		{"twice", over([2]string{"ConfigMap/config", "{}"}, [2]string{"ConfigMap/config", "{}"}), "each object may be named by one change only"},
		{"no-changes", over(), "spec.changes"},
		{"type", patching("v1", "ConfigMap", "config", "Replace", "{}"), "Unsupported value"},
		{"path-as-name", patching("v1", "ConfigMap", "../../secrets/x", dgmv1alpha1.PatchMerge, "{}"), "spec.changes[0].targetRef.name"},
		{"dots-as-name", patching("v1", "ConfigMap", "..", dgmv1alpha1.PatchMerge, "{}"), "spec.changes[0].targetRef.name"},
		{"huge", patching("v1", "ConfigMap", "config", dgmv1alpha1.PatchMerge, strings.Repeat("x", 524289)), "524288"},
		{"no-description", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Description = "" }, "spec.description"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := w.Create(context.Background(), w.improvement(test.name, "config", test.edit))
			if err == nil || !contains(err.Error(), test.says) {
				t.Errorf("the answer is %v, want one that says %q", err, test.says)
			}
		})
	}
}

func TestAnyTextIsStoredAsItIs(t *testing.T) {
	w := newWorld(t)
	w.start()
	for name, text := range map[string]string{
		"NUL":      "a\x00b \x01 c",
		"unicode":  "größer, 速い, 🚀, \u202eright to left, e\u0301",
		"SQL":      `'); DROP TABLE dgm.dgm_archive; -- $1 \' "`,
		"template": `{{.Values}} ${HOME} %s %n \u0000`,
	} {
		w.scenario(name, func(w *world) {
			data, err := convertPatch(text)
			if err != nil {
				t.Fatal(err)
			}
			w.configMap("config", map[string]string{"CACHE_TTL": "5"})
			ttl := w.improvement("ttl", "config", service(text), func(object *dgmv1alpha1.ImprovementWorkspace) {
				object.Spec.Description, object.Spec.Approval = text, &dgmv1alpha1.Approval{Policy: dgmv1alpha1.ApprovalNever}
				object.Spec.Changes[0].Patch = data
			})
			w.create(ttl)
			w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
			if got := w.data("config")["TEXT"]; got != text {
				w.Errorf("the live value is %q, want %q", got, text)
			}
			if err := w.patch(ttl, annotations(w, map[string]string{
				dgmv1alpha1.AnnotationRollback: text, dgmv1alpha1.AnnotationRollback + dgmv1alpha1.AnnotationReasonSuffix: text,
			})); err != nil {
				t.Fatal(err)
			}
			done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
			if done.Status.LastHandled.Rollback != text {
				w.Errorf("the handled token is %q, want %q", done.Status.LastHandled.Rollback, text)
			}
			w.synced(ttl)
			w.rows("rolled_back|failed|1", stateOf, "ttl", w.namespace)
			if _, exists := w.data("config")["TEXT"]; exists {
				w.Error("the value is still there after the rollback")
			}
			stored := w.query("SELECT description FROM dgm.dgm_archive WHERE namespace = $1", w.namespace)
			if !strings.ContainsRune(text, 0) && name != "template" && stored != text {
				w.Errorf("the archive says %q, want %q", stored, text)
			}
		})
	}

	w.scenario("a patch of 400 KiB", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		big := strings.Repeat("0123456789abcde\n", 400<<10/16)
		data, err := convertPatch(big)
		if err != nil {
			t.Fatal(err)
		}
		ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Changes[0].Patch = data })
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		if got := w.data("config")["TEXT"]; got != big {
			w.Errorf("the live value has %d bytes, want %d", len(got), len(big))
		}
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.synced(ttl)
	})
}

func annotations(w *world, values map[string]string) string {
	w.Helper()
	return indented(w, map[string]any{"metadata": map[string]any{"annotations": values}})
}

func TestDryRunTouchesNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "config"}, Data: map[string]string{"CACHE_TTL": "5"}}
	w.create(object)
	ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Mode = dgmv1alpha1.ModeDryRun })
	w.create(ttl)
	done := w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun)
	w.says(done.Status.Diff, "ConfigMap", "CACHE_TTL", "5", "60")
	w.says(message(done), "nothing was touched")
	if live := w.live("ConfigMap/config"); live.GetResourceVersion() != object.ResourceVersion {
		t.Error("the ConfigMap was touched")
	}
	if _, err := w.revision(done); !apierrors.IsNotFound(err) {
		t.Errorf("there is a snapshot: %v", err)
	}
	w.synced(ttl)
	w.rows("", "SELECT sha256 FROM dgm.rollback_snapshots s JOIN dgm.dgm_archive USING (improvement_id) WHERE namespace = $1", w.namespace)
	w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
	w.says(w.refused(ttl), "nothing to put back")
	// The same improvement, for real.
	if err := w.patch(ttl, `{"spec":{"mode":"Apply"}}`); err != nil {
		t.Fatal(err)
	}
	w.attempt(ttl, 2, dgmv1alpha1.PhaseCompleted)
	if err := w.Get(context.Background(), client.ObjectKeyFromObject(object), object); err != nil || object.Data["CACHE_TTL"] != "60" {
		t.Errorf("the ConfigMap holds %v, %v", object.Data, err)
	}
}
