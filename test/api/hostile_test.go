// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// What one tenant writes must neither stop the operator nor hold others up.
func TestHostilePatchesFailAlone(t *testing.T) {
	w := newWorld(t)
	w.start()
	bomb := "a: &a " + strings.Repeat("x", 200<<10) + "\nb: [" + strings.Repeat("*a,", 60_000) + "]\n"
	copies := `[{"op":"add","path":"/data/A","value":"` + strings.Repeat("x", 1<<10) + `"}` +
		strings.Repeat(`,{"op":"copy","from":"/data","path":"/data/B"}`, 60) + `]`
	for _, test := range []struct {
		name      string
		patchType dgmv1alpha1.PatchType
		patch     string
		says      []string
	}{
		{"gigabytes of aliases", dgmv1alpha1.PatchMerge, bomb, []string{"change change", "aliases"}},
		{"terabytes of copies", dgmv1alpha1.PatchJSON, copies, []string{"ConfigMap/config", "correct spec.changes"}},
		{"several documents", dgmv1alpha1.PatchMerge, "data: {CACHE_TTL: \"60\"}\n---\ndata: {B: \"1\"}\n", []string{"several documents"}},
		{"another resourceVersion", dgmv1alpha1.PatchMerge, `metadata: {resourceVersion: "1"}`, []string{"remove metadata.resourceVersion"}},
		{"another uid", dgmv1alpha1.PatchMerge, `metadata: {uid: 3b1fbf0e-4f0e-4a62-9a55-5b5e1e0f6c1d}`, []string{"metadata.uid"}},
	} {
		w.scenario(test.name, func(w *world) {
			w.configMap("config", map[string]string{"CACHE_TTL": "5"})
			hostile := w.improvement("hostile", "config", patching("v1", "ConfigMap", "config", test.patchType, test.patch))
			w.create(hostile)
			w.says(message(w.stalls(hostile, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonInvalidPatch)), test.says...)

			after := w.improvement("after", "config")
			w.create(after)
			w.reaches(after, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		})
	}
}

// The API server quotes the whole object when it cannot read what a patch made
// of it; its values are not for status, events and rows.
func TestP8_ARefusalShowsNoValues(t *testing.T) {
	w := newWorld(t)
	w.start()
	const secret = "hunter2-is-the-password"
	w.configMap("config", map[string]string{"CACHE_TTL": "5", "DB_PASSWORD": secret})
	wrong := w.improvement("wrong", "config", patching("v1", "ConfigMap", "config", dgmv1alpha1.PatchMerge, `dta: {CACHE_TTL: "60"}`))
	w.create(wrong)
	failed := w.stalls(wrong, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonInvalidPatch)
	w.says(message(failed), `unknown field "dta"`)
	w.synced(wrong)
	if strings.Contains(indented(w, failed), secret) {
		t.Errorf("status shows a value of the object: %s", message(failed))
	}
	w.rows("false", `select (metadata::text || outcome_reason) like '%' || $2 || '%' from dgm.dgm_archive where namespace = $1`, w.namespace, secret)
	w.eventually("an event says so", func() error {
		var events eventsv1.EventList
		if err := w.List(context.Background(), &events, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		for i := range events.Items {
			if strings.Contains(events.Items[i].Note, secret) {
				t.Fatalf("an event shows a value of the object: %s", events.Items[i].Note)
			}
			if events.Items[i].Reason == dgmv1alpha1.ReasonInvalidPatch {
				return nil
			}
		}
		return errorf("there is none")
	})
}
