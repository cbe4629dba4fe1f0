// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/tink-crypto/tink-go/v2/tink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/keyset"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// population is a cluster in which something is in every state, in a database
// that is restored to a moment in the middle of its life.
type population struct {
	*world
	gate   *liveGate
	backup pgtest.Backup
	moment pgtest.Target
	epoch  string
	// objects by name; ConfigMap of the same name.
	objects map[string]*dgmv1alpha1.ImprovementWorkspace
}

func newPopulation(t *testing.T) *population {
	t.Helper()
	t.Parallel()
	server := pgtest.StartArchiving(t)
	w := newOwnWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	p := &population{world: w, gate: w.gate(), objects: map[string]*dgmv1alpha1.ImprovementWorkspace{}}
	p.beforeTheBackup()
	p.backup = server.BaseBackup(t)
	p.beforeTheMoment()
	p.moment = server.Moment(t)
	p.afterTheMoment()
	server.Archive(t)
	p.epoch = w.query(`SELECT epoch FROM dgm.writer_fences`)
	return p
}

// add makes an improvement over a ConfigMap of its own name.
func (p *population) add(name string, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
	p.Helper()
	if _, again := p.objects[name]; !again {
		p.configMap(name, map[string]string{"CACHE_TTL": "5"})
	}
	object := p.improvement(name, name, edits...)
	p.create(object)
	p.objects[name] = object
	return object
}

func (p *population) complete(name string) {
	p.Helper()
	p.add(name)
	p.reaches(p.objects[name], dgmv1alpha1.PhaseCompleted, "")
}

func (p *population) rollBack(name string) {
	p.Helper()
	p.annotate(p.objects[name], dgmv1alpha1.AnnotationRollback, "1")
	p.reaches(p.objects[name], dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
}

func (p *population) abort(name string) {
	p.Helper()
	p.synced(p.objects[name]) // it knows all annotations before as obeyed
	p.annotate(p.objects[name], dgmv1alpha1.AnnotationAbort, "1")
	p.reaches(p.objects[name], dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
}

// deletedFor deletes an improvement and waits for its tombstone.
func (p *population) deletedFor(name string) {
	p.Helper()
	p.deleted(p.objects[name])
	p.goes(p.objects[name])
	p.rows("true", `SELECT bool_and(deleted_at IS NOT NULL) FROM dgm.dgm_archive WHERE name = $1`, name)
}

func (p *population) beforeTheBackup() {
	p.Helper()
	p.complete("completed")
	p.complete("rolled-back-before")
	p.rollBack("rolled-back-before")
	p.add("aborted-before", suspended)
	p.abort("aborted-before")
	p.complete("deleted-before")
	p.deletedFor("deleted-before")
	p.create(p.policy("policy", "keep", "fast"))
	p.create(p.policy("replaced-policy", "keep", "old"))
	p.agree()
}

func (p *population) beforeTheMoment() {
	p.Helper()
	p.add("pending", suspended)
	p.complete("rolled-back-after")
	p.complete("deleted-after")
	p.add("aborted-after", suspended)
	p.add("replaced", suspended)
	p.add("pending-deleted-after", suspended)
	p.gate.hold("ConfigMap/applying")
	p.add("applying")
	p.reaches(p.objects["applying"], dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
	p.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('before the moment', 'latency', 'service', 1);
		INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, status, assessment_method) VALUES ('before the moment', 'compliant', 'completed', 'manual')`)
	p.agree()
}

func (p *population) afterTheMoment() {
	p.Helper()
	p.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('after the moment', 'latency', 'service', 1)`)
	p.rollBack("rolled-back-after")
	p.abort("aborted-after")
	p.deletedFor("deleted-after")
	p.deletedFor("pending-deleted-after")
	p.deletedFor("replaced")
	p.add("replaced", suspended, func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Description = "other material under an old name"
	})
	p.remove(p.policy("replaced-policy"))
	p.rows("2", `SELECT count(*) FROM dgm.bandit_states WHERE name = 'replaced-policy' AND deleted_at IS NOT NULL`)
	p.create(p.policy("replaced-policy", "keep", "new"))
	p.edit(p.policy("policy"), `{"spec":{"safety":{"threshold":"0.9"}}}`)
	p.complete("created-after")
	p.agree()
	p.gate.rule(func(object string) gateAnswer {
		if object == "ConfigMap/applying" || object == "ConfigMap/applying-after" {
			return gateBreak
		}
		return gateAllow
	})
	p.add("applying-after")
	p.reaches(p.objects["applying-after"], dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
	p.agree()
}

// restored checks what a restored database must hold once the operator is
// through, and that every promise goes on from there.
func (p *population) restored() {
	p.Helper()
	p.agree()
	p.rows("aborted-after|failed|failed|Aborted\naborted-before|failed|failed|Aborted\napplying|running|validating|\napplying-after|running|validating|\n"+
		"completed|completed|completed|Completed\ncreated-after|completed|completed|Completed\npending|pending|created|\n"+
		"replaced|pending|created|\nrolled-back-after|rolled_back|failed|RolledBack\nrolled-back-before|rolled_back|failed|RolledBack",
		`SELECT a.name, a.status, w.status, coalesce(a.outcome_reason, '') FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id)
			WHERE a.deleted_at IS NULL ORDER BY 1`)
	p.rows("deleted-after|completed|1\ndeleted-before|completed|1\npending-deleted-after|failed|1\nreplaced|failed|1",
		`SELECT name, status, attempt FROM dgm.dgm_archive WHERE deleted_at IS NOT NULL ORDER BY 1`)
	p.rows("policy fast false|policy keep false|replaced-policy keep false|replaced-policy new false|replaced-policy old true",
		`SELECT string_agg(name || ' ' || arm_id || ' ' || (deleted_at IS NOT NULL), '|' ORDER BY name, arm_id) FROM dgm.bandit_states`)
	p.rows("before the moment|before the moment", `SELECT m.metric_name, l.operation_type FROM dgm.performance_metrics m, dgm.constitutional_compliance_logs l WHERE m.service_name IS DISTINCT FROM 'system' AND l.service_name IS DISTINCT FROM 'system' AND l.operation_type <> 'improvement'`)
	// What was judged after the moment is written again from status (P3).
	p.rows("applying false|applying-after true|completed false|created-after true|rolled-back-after false|rolled-back-before false",
		`SELECT string_agg(a.name || ' ' || (l.evidence ->> 'note' IS NOT NULL), '|' ORDER BY a.name) FROM dgm.dgm_archive a JOIN dgm.constitutional_compliance_logs l USING (improvement_id)
			WHERE a.deleted_at IS NULL AND l.compliance_level = 'compliant' AND l.compliance_score_exact = 0.95 AND l.violations #>> '{0,principle}' = 'beneficence' AND l.status = 'completed'`)
	p.rows("true|true", `SELECT f.epoch > $1::text::bigint, f.epoch >= (SELECT max(writer_epoch) FROM dgm.dgm_archive) FROM dgm.writer_fences f WHERE f.cluster = 'test'`, p.epoch)
	p.snapshotsIntact()
}

// snapshotsIntact reads the exact bytes of every live improvement from the
// database, as a rollback would that has lost the cluster's copy.
func (p *population) snapshotsIntact() {
	p.Helper()
	store := pgstore.New(pgstore.Config{
		URL: func() (string, error) { return p.url, nil }, ClusterName: "reader", ClusterUID: "reader",
		AEAD: func(ctx context.Context) (tink.AEAD, string, error) {
			return keyset.Load(ctx, p.Client, p.Client, types.NamespacedName{Namespace: "dgm-system", Name: "dgm-operator-keyset"})
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	led := make(chan error, 1)
	go func() { led <- store.Lead(ctx) }()
	defer func() { cancel(); <-led }()
	p.eventually("the reader is ready", store.Ready)
	checked := 0
	for _, name := range []string{"completed", "applying", "applying-after", "created-after", "rolled-back-after", "rolled-back-before"} {
		object := p.refresh(p.objects[name])
		stored, err := store.LoadSnapshot(ctx, uuid.MustParse(object.Status.ImprovementID))
		if err != nil {
			p.Errorf("%s: %v", name, err)
			continue
		}
		revision, err := p.revision(object)
		if err != nil {
			p.Fatal(err)
		}
		sum := sha256.Sum256(stored)
		if digest := hex.EncodeToString(sum[:]); digest != object.Status.Snapshot.Digest || string(revision.Data.Raw) != string(stored) {
			p.Errorf("%s: the stored bytes have digest %s, status says %s; the ControllerRevision holds %s", name, digest, object.Status.Snapshot.Digest, revision.Data.Raw)
		}
		checked++
	}
	if checked != 6 {
		p.Errorf("%d snapshots are intact, want 6", checked)
	}
}

// goesOn opens the gate: what was held ends, and the ended can be rolled back
// from the database's copy alone.
func (p *population) goesOn() {
	p.Helper()
	p.gate.open()
	for _, name := range []string{"applying", "applying-after"} {
		p.nudge(p.objects[name])
		p.reaches(p.objects[name], dgmv1alpha1.PhaseCompleted, "")
	}
	for _, name := range []string{"completed", "applying-after", "created-after"} {
		p.deleteRevision(p.refresh(p.objects[name]))
		p.rollBack(name)
	}
	p.values(map[string]string{"completed": "5", "applying": "60", "applying-after": "5", "created-after": "5", "rolled-back-after": "5", "deleted-after": "60"})
	p.agree()
}

// watchSnapshots goes on holding these improvements, and looks whether their
// snapshots are stored whenever somebody tries to change what they change. The
// function that it returns says what was found missing.
func (p *population) watchSnapshots(names ...string) func() []error {
	p.Helper()
	var mu sync.Mutex
	var missing []error
	asked := map[string]bool{}
	p.gate.rule(func(object string) gateAnswer {
		name := strings.TrimPrefix(object, "ConfigMap/")
		if !slices.Contains(names, name) {
			return gateAllow
		}
		err := p.snapshotStored(p.objects[name])
		mu.Lock()
		defer mu.Unlock()
		asked[name] = true
		if err != nil {
			missing = append(missing, fmt.Errorf("when %s was to be changed: %w", name, err))
		}
		return gateBreak
	})
	return func() []error {
		p.eventually("all are tried again", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(asked) < len(names) {
				return errorf("only %v", asked)
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		return missing
	}
}

// P1, P3, P4, P10, P11: the database is destroyed while the operator is down.
func TestP3_RestoredToAMomentWhileTheOperatorIsDown(t *testing.T) {
	p := newPopulation(t)
	p.crash()
	p.server.Destroy(t)
	p.server.RestoreTo(t, p.backup, p.moment)
	missing := p.watchSnapshots("applying", "applying-after")
	p.lead(quickTakeover...)
	p.restored()
	for _, err := range missing() {
		t.Errorf("P1: %v", err)
	}
	p.goesOn()
}

// The same under the eyes of the operator, which rolls back meanwhile.
func TestP3_RestoredToAMomentUnderTheOperator(t *testing.T) {
	p := newPopulation(t)
	p.server.Destroy(t)
	p.annotate(p.objects["created-after"], dgmv1alpha1.AnnotationRollback, "while the database is away")
	p.reaches(p.objects["created-after"], dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	p.values(map[string]string{"created-after": "5"})
	p.eventually("it says that the database is away", func() error {
		return unsyncedFor(p.refresh(p.objects["created-after"]), dgmv1alpha1.ReasonDatabaseUnavailable)
	})
	p.server.RestoreTo(t, p.backup, p.moment)
	p.operator.WaitReady(t)
	p.agree()
	p.rows("rolled_back", `SELECT status FROM dgm.dgm_archive WHERE name = 'created-after'`)
	p.snapshotsIntact()
}

// A leader that was frozen all through a restore wakes up beside its successor.
func TestP4_LeaderFrozenThroughARestore(t *testing.T) {
	server := pgtest.StartArchiving(t)
	w := newWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	done := w.improvement("done", "config")
	w.create(done)
	w.reaches(done, dgmv1alpha1.PhaseCompleted, "")
	w.agree()
	backup := server.BaseBackup(t)
	w.crash()
	moment := server.Moment(t)
	w.lead(quickTakeover...) // its epoch is later than the moment
	w.agree()
	server.Archive(t)
	frozen := w.operator
	if err := frozen.Pause(); err != nil {
		t.Fatal(err)
	}
	server.Destroy(t)
	server.RestoreTo(t, backup, moment)
	w.operator = w.launch("replica-1", quickTakeover...)
	w.eventually("the successor leads", func() error { return leads(w.operator) })
	w.annotate(done, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(done, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	w.agree()
	epoch := w.query(`SELECT epoch FROM dgm.writer_fences`)
	if err := frozen.Continue(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-frozen.Exited():
	case <-time.After(30 * time.Second):
		t.Errorf("the leader that was frozen goes on: %s", frozen.LogTail())
	}
	w.rows(epoch+"|replica-1|rolled_back", `SELECT f.epoch, left(f.holder, 9), a.status FROM dgm.writer_fences f, dgm.dgm_archive a`)
	w.agree()
}

// Who restores the database without the keyset has the cluster's copies left.
func TestP1_KeysetIsLost(t *testing.T) {
	w := newWorld(t)
	w.lead(quickTakeover...)
	for _, name := range []string{"with-revision", "without"} {
		w.configMap(name, map[string]string{"CACHE_TTL": "5"})
		w.create(w.improvement(name, name))
		w.reaches(w.improvement(name, name), dgmv1alpha1.PhaseCompleted, "")
	}
	w.agree()
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: "dgm-system", Name: "dgm-operator-keyset"}
	if err := w.Get(context.Background(), key, secret); err != nil {
		t.Fatal(err)
	}
	w.crash()
	if err := w.Delete(context.Background(), secret.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	w.lead(quickTakeover...)
	without := w.refresh(w.improvement("without", "without"))
	w.deleteRevision(without)
	for _, name := range []string{"with-revision", "without"} {
		w.annotate(w.improvement(name, name), dgmv1alpha1.AnnotationRollback, "1")
	}
	w.reaches(w.improvement("with-revision", ""), dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	stalled := w.stalls(without, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonSnapshotDamaged)
	w.says(message(stalled), "is missing from the keyset", "restore one of them from a backup")

	// A person brings the Secret back from a backup, over the one that the operator made meanwhile.
	secret.ResourceVersion, secret.UID = "", ""
	if err := w.Update(context.Background(), secret); err != nil {
		t.Fatal(err)
	}
	w.nudge(without)
	w.reaches(without, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	w.values(map[string]string{"with-revision": "5", "without": "5"})
}
