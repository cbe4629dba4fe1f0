// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const stateOf = `SELECT a.status, w.status, a.attempt FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id)
	WHERE w.name = $1 AND w.namespace = $2 ORDER BY a.attempt`

func TestApplyAndRollBack(t *testing.T) {
	w := newWorld(t)
	w.start()
	before := map[string]string{"CACHE_TTL": "5", "OTHER": "kept"}
	w.configMap("config", before)
	ttl := w.improvement("ttl", "config")
	w.create(ttl)

	done := w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	if diff := cmp.Diff(map[string]string{"CACHE_TTL": "60", "OTHER": "kept"}, w.data("config")); diff != "" {
		t.Errorf("ConfigMap after (-want +got):\n%s", diff)
	}
	if done.Status.Snapshot == nil || done.Status.Diff == "" {
		t.Errorf("status shows no snapshot or no diff: %+v", done.Status)
	}
	w.synced(ttl)
	w.rows("completed|completed|1", stateOf, "ttl", w.namespace)

	w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
	w.annotate(ttl, dgmv1alpha1.AnnotationRollback+"-reason", "p99 is up")
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if diff := cmp.Diff(before, w.data("config")); diff != "" {
		t.Errorf("ConfigMap after the rollback (-want +got):\n%s", diff)
	}
	w.synced(ttl)
	w.rows("rolled_back|failed|1", stateOf, "ttl", w.namespace)
	w.eventually("the finalizer goes", func() error {
		if finalizers := w.refresh(ttl).Finalizers; len(finalizers) > 0 {
			return errorf("finalizers %v", finalizers)
		}
		return nil
	})
}
