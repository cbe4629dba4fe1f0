// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// exec changes the database as its superuser.
func (w *world) exec(sql string) {
	w.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
}

// revision is the ControllerRevision that holds an improvement's snapshot.
func (w *world) revision(object *dgmv1alpha1.ImprovementWorkspace) (*appsv1.ControllerRevision, error) {
	var revision appsv1.ControllerRevision
	key := client.ObjectKey{Namespace: w.namespace, Name: "dgm-" + object.Status.ImprovementID}
	return &revision, w.Get(context.Background(), key, &revision)
}

// damage makes the copy of a snapshot in the database one that cannot be decrypted.
func (w *world) damage(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.exec(fmt.Sprintf(`SET session_replication_role = replica; UPDATE dgm.rollback_snapshots SET bytes = '\x00' WHERE improvement_id = '%s'`, object.Status.ImprovementID))
}

func (w *world) deleteRevision(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	revision, err := w.revision(object)
	if err == nil {
		err = w.Delete(context.Background(), revision)
	}
	if err != nil {
		w.Fatal(err)
	}
}

// snapshotStored says what is missing of an improvement's snapshot at this moment.
func (w *world) snapshotStored(object *dgmv1alpha1.ImprovementWorkspace) error {
	now := &dgmv1alpha1.ImprovementWorkspace{}
	if err := w.Get(context.Background(), client.ObjectKeyFromObject(object), now); err != nil {
		return err
	}
	if now.Status.Snapshot == nil || now.Status.Phase != dgmv1alpha1.PhaseApplying {
		return errorf("status in phase %s names the snapshot %v", now.Status.Phase, now.Status.Snapshot)
	}
	if len(now.Finalizers) == 0 {
		return errorf("there is no finalizer")
	}
	revision, err := w.revision(now)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(revision.Data.Raw)
	if digest := hex.EncodeToString(sum[:]); digest != now.Status.Snapshot.Digest {
		return errorf("the ControllerRevision has digest %s, status says %s", digest, now.Status.Snapshot.Digest)
	}
	stored, err := w.tryQuery(`SELECT s.sha256 FROM dgm.rollback_snapshots s JOIN dgm.dgm_archive a USING (improvement_id)
		WHERE improvement_id = $1 AND a.rollback_data IS NOT NULL`, now.Status.ImprovementID)
	if err != nil || stored != now.Status.Snapshot.Digest {
		return errorf("the database holds %q (%v), status says %s", stored, err, now.Status.Snapshot.Digest)
	}
	return nil
}

func TestP1_SnapshotIsStoredBeforeAnythingIsChanged(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("at the moment of each change", func(w *world) {
		gate := w.gate()
		for _, name := range []string{"one", "two"} {
			w.configMap(name, map[string]string{"TTL": "5"})
		}
		ttl := w.improvement("ttl", "one", over([2]string{"ConfigMap/one", `data: {TTL: "60"}`}, [2]string{"ConfigMap/two", `data: {TTL: "60"}`}))
		var mu sync.Mutex
		var missing []error
		gate.rule(func(object string) gateAnswer {
			if !strings.HasPrefix(object, "ConfigMap/") {
				return gateAllow
			}
			if err := w.snapshotStored(ttl); err != nil {
				mu.Lock()
				defer mu.Unlock()
				missing = append(missing, fmt.Errorf("when %s was changed: %w", object, err))
			}
			return gateAllow
		})
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		if asked := gate.updates("ConfigMap/"); len(asked) < 2 {
			t.Errorf("the gate saw %v only", asked)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, err := range missing {
			w.Error(err)
		}
	})

	for table, check := range map[string]string{
		"dgm_archive":        "ALTER TABLE dgm.dgm_archive ADD CHECK (improvement_id <> '%s' OR rollback_data IS NULL) NOT VALID",
		"rollback_snapshots": "ALTER TABLE dgm.rollback_snapshots ADD CHECK (improvement_id <> '%s') NOT VALID",
	} {
		w.scenario("refused by "+table, func(w *world) {
			before := w.configMap("config", map[string]string{"CACHE_TTL": "5"})
			ttl := w.improvement("ttl", "config", suspended)
			w.create(ttl)
			ttl = w.synced(ttl)
			w.exec(fmt.Sprintf(check, ttl.Status.ImprovementID))
			if err := w.patch(ttl, `{"spec":{"suspend":false}}`); err != nil {
				t.Fatal(err)
			}
			failed := w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonRowRefused)
			w.says(message(failed), "table "+table)
			if live := w.live("ConfigMap/config"); live.GetResourceVersion() != before.ResourceVersion {
				w.Errorf("the ConfigMap was touched: %v", live)
			}
			w.rows("", "SELECT sha256 FROM dgm.rollback_snapshots WHERE improvement_id = $1", ttl.Status.ImprovementID)
		})
	}
}

func TestP1_RollbackFromWhicheverCopyIsLeft(t *testing.T) {
	w := newWorld(t)
	w.start()
	completed := func(w *world) *dgmv1alpha1.ImprovementWorkspace {
		w.Helper()
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		return w.synced(ttl)
	}
	for name, harm := range map[string]func(*world, *dgmv1alpha1.ImprovementWorkspace){
		"revision deleted":  func(w *world, ttl *dgmv1alpha1.ImprovementWorkspace) { w.deleteRevision(ttl) },
		"revision replaced": func(w *world, ttl *dgmv1alpha1.ImprovementWorkspace) { w.replaceRevision(ttl, `"CACHE_TTL":"666"`) },
		"revision no plan":  func(w *world, ttl *dgmv1alpha1.ImprovementWorkspace) { w.replaceRevision(ttl, "") },
		"database damaged":  func(w *world, ttl *dgmv1alpha1.ImprovementWorkspace) { w.damage(ttl) },
	} {
		w.scenario(name, func(w *world) {
			ttl := completed(w)
			harm(w, ttl)
			w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
			w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
			if got := w.data("config")["CACHE_TTL"]; got != "5" {
				w.Errorf("CACHE_TTL is %s, want 5", got)
			}
		})
	}

	w.scenario("both damaged", func(w *world) {
		ttl := completed(w)
		revision, err := w.revision(ttl)
		if err != nil {
			t.Fatal(err)
		}
		w.damage(ttl)
		w.deleteRevision(ttl)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		stalled := w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonSnapshotDamaged)
		w.says(message(stalled), "ControllerRevision", "database")
		if got := w.data("config")["CACHE_TTL"]; got != "60" {
			w.Errorf("CACHE_TTL is %s, want it untouched", got)
		}
		// A person restores it from a backup of the cluster.
		revision.ResourceVersion, revision.UID = "", ""
		w.create(revision)
		w.annotate(ttl, "example.com/look", "again")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if got := w.data("config")["CACHE_TTL"]; got != "5" {
			w.Errorf("CACHE_TTL is %s, want 5", got)
		}
	})
}
