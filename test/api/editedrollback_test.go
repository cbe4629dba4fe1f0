// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// An edit for the next attempt and a rollback of this one, sent at once.
func TestP13_ARollbackGoesByWhatWasChangedNotByTheEditedSpec(t *testing.T) {
	w := newWorld(t)
	w.start()
	editAndRollBack := func(w *world, object *dgmv1alpha1.ImprovementWorkspace) {
		elsewhere := w.improvement(object.Name, "other")
		elsewhere.Spec.Target.Service = "another-service"
		w.eventually("it is edited and commanded to roll back", func() error {
			edited := w.refresh(object)
			edited.Spec = elsewhere.Spec
			edited.Annotations = map[string]string{dgmv1alpha1.AnnotationRollback: "1"}
			return w.Update(context.Background(), edited)
		})
	}
	objects := func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.configMap("other", map[string]string{"CACHE_TTL": "7"})
	}
	w.scenario("nothing later", func(w *world) {
		objects(w)
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.synced(ttl)
		editAndRollBack(w, ttl)
		w.rows("1 rolled_back config service-of-ttl,2 completed other another-service",
			`select string_agg(concat_ws(' ', a.attempt, a.status, i.configuration #>> '{changes,0,targetRef,name}', i.target_service), ',' order by a.attempt)
			from dgm.dgm_archive a join dgm.improvement_workspaces i using (improvement_id) where a.namespace = $1`, w.namespace)
		w.values(map[string]string{"config": "5", "other": "60"})
	})
	w.scenario("a later one on the same path", func(w *world) {
		objects(w)
		ttl := w.improvement("ttl", "config")
		later := w.improvement("later", "config", patching("v1", "ConfigMap", "config", dgmv1alpha1.PatchMerge, `data: {CACHE_TTL: "90"}`))
		for _, object := range []*dgmv1alpha1.ImprovementWorkspace{ttl, later} {
			w.create(object)
			w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
			w.synced(object)
		}
		editAndRollBack(w, ttl)
		w.rows("1 completed,2 completed", `select string_agg(concat_ws(' ', attempt, status), ',' order by attempt) from dgm.dgm_archive where namespace = $1 and name = 'ttl'`, w.namespace)
		w.values(map[string]string{"config": "90", "other": "60"})
	})
}
