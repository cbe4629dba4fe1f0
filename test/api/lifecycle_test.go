// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
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

func TestP3_TheEndOfAnAttemptIsRecordedBeforeTheNextBegins(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config")
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.synced(ttl)

	// The end of the rollback and the edit both happen while the database is away.
	server.Stop(t)
	w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if err := w.patch(ttl, `{"spec":{"description":"the next one"}}`); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	w.eventually("the second attempt is completed", func() error {
		if status := w.refresh(ttl).Status; status.Attempt != 2 || status.Phase != dgmv1alpha1.PhaseCompleted {
			return errorf("attempt %d is %s", status.Attempt, status.Phase)
		}
		return nil
	})
	w.synced(ttl)
	w.rows("rolled_back|failed|1\ncompleted|completed|2", stateOf, "ttl", w.namespace)
	w.rows("cache for a minute\nthe next one",
		`SELECT description FROM dgm.dgm_archive WHERE name = $1 AND namespace = $2 ORDER BY attempt`, "ttl", w.namespace)
}
