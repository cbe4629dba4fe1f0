// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// quickTakeover are flags with which a killed leader is replaced soon.
var quickTakeover = []string{"--lease-duration=2s"}

func TestP3_BothKindsAreMirrored(t *testing.T) {
	w := newWorld(t)
	w.lead()
	defer w.watchTruth()()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	waiting, running, policy := w.improvement("waiting", "config", suspended), w.improvement("running", "config"), w.policy("policy", "keep", "fast")
	w.create(waiting)
	w.create(running)
	w.create(policy)
	w.reaches(running, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.agree()

	w.edit(waiting, `{"spec":{"description":"edited","priority":"High"}}`)
	w.edit(policy, `{"spec":{"safety":{"threshold":"0.9"},"arms":[{"name":"keep"},{"name":"slow"}]}}`)
	w.agree()
	w.rows("edited|High", `SELECT w.description, w.priority FROM dgm.improvement_workspaces w WHERE w.name = 'waiting'`)
	w.rows("fast|true\nkeep|false\nslow|false", `SELECT arm_id, deleted_at IS NOT NULL FROM dgm.bandit_states WHERE cluster IS NOT NULL ORDER BY arm_id`)

	w.remove(waiting)
	w.remove(running)
	w.remove(policy)
	w.rows("running|completed|completed|true|true\nwaiting|failed|failed|true|true",
		`SELECT a.name, a.status, w.status, a.deleted_at IS NOT NULL, w.deleted_at IS NOT NULL
		FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id) ORDER BY a.name`)
	w.rows("3", `SELECT count(*) FROM dgm.bandit_states WHERE deleted_at IS NOT NULL`)
}

func TestP3_KilledAtAnyMoment(t *testing.T) {
	const objects, kills, clients = 100, 5, 8
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	t.Logf("seed %d", seed)
	kill := w.kubelet(quickTakeover...)
	w.rows("1", `SELECT count(*) FROM dgm.writer_fences`)
	check := w.watchOrder(t)
	defer w.watchTruth()()
	var clientsDone sync.WaitGroup
	clientsDone.Go(func() { inParallel(clients, objects, func(i int) { w.liveOneLife(i, seed) }) })
	moments := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not a secret
	for range kills {
		time.Sleep(time.Duration(moments.IntN(3000)) * time.Millisecond)
		kill()
	}
	clientsDone.Wait()
	w.agree()
	check()
	w.rows("0", `SELECT count(*) FROM dgm.dgm_archive WHERE namespace = $1 AND (deleted_at IS NULL) <> (name NOT LIKE '%-gone')`, w.namespace)
}

// liveOneLife creates, edits and deletes an object as a client would; those
// whose name ends in -gone are deleted in the end.
func (w *world) liveOneLife(i int, seed uint64) {
	choices := rand.New(rand.NewPCG(seed, uint64(i)+1)) //nolint:gosec // not a secret
	pause := func() { time.Sleep(time.Duration(choices.IntN(400)) * time.Millisecond) }
	name := fmt.Sprintf("life-%d", i)
	deleted := choices.IntN(3) == 0
	if deleted {
		name += "-gone"
	}
	pause()
	if i%5 == 0 {
		policy := w.policy(name, "keep", "fast")
		w.create(policy)
		pause()
		w.edit(policy, `{"spec":{"safety":{"threshold":"0.7"}}}`)
		pause()
		if deleted {
			w.remove(policy)
		}
		return
	}
	object := w.improvement(name, name, func(object *dgmv1alpha1.ImprovementWorkspace) {
		if i%5 != 1 {
			suspended(object)
		}
	})
	w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	w.create(object)
	pause()
	w.edit(object, `{"spec":{"priority":"Low"}}`)
	pause()
	w.edit(object, `{"spec":{"priority":"Critical"}}`)
	pause()
	if deleted {
		w.remove(object)
	}
}

func TestP3_DatabaseAwayForLong(t *testing.T) {
	t.Parallel()
	const outage = 12 * time.Second
	server := pgtest.Start(t)
	w := newOwnWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	defer w.watchTruth()()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	completed := w.improvement("completed", "config")
	w.create(completed)
	w.reaches(completed, dgmv1alpha1.PhaseCompleted, "")
	kept, edited, deleted := w.policy("kept", "keep"), w.improvement("edited", "config", suspended), w.improvement("deleted", "config", suspended)
	w.create(kept)
	w.create(edited)
	w.create(deleted)
	w.agree()

	server.Stop(t)
	back := time.Now().Add(outage)
	created, waiting := w.improvement("created", "config", suspended), w.improvement("waiting", "config", func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Changes[0].Patch = `data: {CACHE_TTL: "90"}`
	})
	w.create(created)
	w.create(waiting)
	w.edit(edited, `{"spec":{"description":"edited while the database was away"}}`)
	w.remove(deleted)
	w.eventually("objects say that the database is away", func() error {
		for _, object := range []*dgmv1alpha1.ImprovementWorkspace{created, waiting, edited} {
			if err := unsyncedFor(w.refresh(object), dgmv1alpha1.ReasonDatabaseUnavailable); err != nil {
				return err
			}
		}
		return nil
	})
	w.operator.Kill()
	w.edit(kept, `{"spec":{"arms":[{"name":"keep"},{"name":"new"}]}}`)
	w.operator = w.launch("replica-0", quickTakeover...)
	w.eventually("a restarted operator says it as well", func() error {
		fresh := &dgmv1alpha1.BanditPolicy{}
		if err := w.Get(context.Background(), clientKey(kept), fresh); err != nil {
			return err
		}
		return saysUnavailable(fresh.Status.Conditions, fresh.Generation, "")
	})
	if got := w.data("config")["CACHE_TTL"]; got != "60" {
		t.Errorf("CACHE_TTL is %s: something was applied while its snapshot could not be stored", got)
	}
	time.Sleep(time.Until(back))
	server.Start(t)

	w.agree()
	w.reaches(waiting, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.agree()
	w.rows("edited while the database was away", `SELECT description FROM dgm.dgm_archive WHERE name = 'edited'`)
	w.rows("true", `SELECT deleted_at IS NOT NULL FROM dgm.dgm_archive WHERE name = 'deleted'`)
}

// unsyncedFor is nil when an object says for its present generation that it is
// not synced, and why.
func unsyncedFor(object *dgmv1alpha1.ImprovementWorkspace, reason string) error {
	synced := meta.FindStatusCondition(object.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	if synced == nil || synced.Status != metav1.ConditionFalse || synced.Reason != reason || synced.ObservedGeneration != object.Generation {
		return errorf("%s: DatabaseSynced is %+v", object.Name, synced)
	}
	return nil
}

// saysUnavailable is nil when conditions say for the present generation that the
// database is away, and why.
func saysUnavailable(conditions []metav1.Condition, generation int64, why string) error {
	synced := meta.FindStatusCondition(conditions, dgmv1alpha1.ConditionDatabaseSynced)
	if synced == nil || synced.Status != metav1.ConditionFalse || synced.Reason != dgmv1alpha1.ReasonDatabaseUnavailable ||
		synced.ObservedGeneration != generation || !strings.Contains(synced.Message, why) {
		return errorf("DatabaseSynced is %+v", synced)
	}
	return nil
}

func TestP3_DeletedWhileTheOperatorIsDown(t *testing.T) {
	w := newWorld(t)
	w.lead(quickTakeover...)
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ended, again, waiting, policy := w.improvement("ended", "config"), w.improvement("again", "config", suspended),
		w.improvement("waiting", "config", suspended), w.policy("policy", "keep", "fast")
	for _, object := range []*dgmv1alpha1.ImprovementWorkspace{ended, again, waiting} {
		w.create(object)
	}
	w.create(policy)
	w.reaches(ended, dgmv1alpha1.PhaseCompleted, "")
	w.agree()
	w.annotate(ended, dgmv1alpha1.AnnotationRetry, "1")
	w.eventually("a second attempt ends", func() error {
		if fresh := w.refresh(ended); fresh.Status.Attempt != 2 || !fresh.Status.Phase.IsTerminal() {
			return errorf("attempt %d is %s", fresh.Status.Attempt, fresh.Status.Phase)
		}
		return nil
	})
	w.agree()

	w.operator.Kill()
	w.remove(ended)
	w.remove(again)
	w.remove(waiting)
	w.remove(policy)
	w.create(w.improvement("ended", "config"))
	w.create(w.improvement("again", "config", suspended, func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Description = "other material under an old name"
	}))
	w.operator = w.launch("replica-0", quickTakeover...)
	w.agree()
	w.rows("1|failed|true\n2|pending|false", `SELECT attempt, status, deleted_at IS NOT NULL FROM dgm.dgm_archive WHERE name = 'again' ORDER BY 1`)
	w.rows("failed|ObjectDeleted", `SELECT status, outcome_reason FROM dgm.dgm_archive WHERE name = 'waiting'`)
}

func TestP3_HandEditsOfRowsAreMended(t *testing.T) {
	w := newWorld(t)
	w.lead("--resync-interval=1s")
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ended, waiting, policy := w.improvement("ended", "config"), w.improvement("waiting", "config", suspended), w.policy("policy", "keep", "fast")
	w.create(waiting)
	w.create(ended)
	w.create(policy)
	w.reaches(ended, dgmv1alpha1.PhaseCompleted, "")
	w.agree()
	w.edit(ended, `{"spec":{"priority":"Low"}}`) // which an archived outcome may follow
	w.agree()
	for _, edit := range []string{
		`UPDATE dgm.improvement_workspaces SET status = 'archived', description = 'by hand' WHERE name = 'waiting'`,
		`UPDATE dgm.improvement_workspaces SET configuration = '{}', deleted_at = now() WHERE name = 'ended'`,
		`UPDATE dgm.dgm_archive SET status = 'running', metadata = NULL, description = 'by hand' WHERE name = 'waiting'`,
		`UPDATE dgm.dgm_archive SET deleted_at = now(), uid = 'nobody'`,
		`UPDATE dgm.bandit_states SET safety_threshold = 0.1, generation = 77 WHERE arm_id = 'keep'`,
		`DELETE FROM dgm.bandit_states WHERE arm_id = 'fast'`,
		`DELETE FROM dgm.improvement_workspaces WHERE name = 'waiting'`,
		`INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, cluster, namespace, name, uid, safety_threshold, risk_tolerance)
			VALUES ('ucb1', 'test/nowhere/nobody/default', 'ghost', 'test', 'nowhere', 'nobody', 'ghost', 0.5, 0.5)`,
	} {
		w.query(edit)
		w.agree()
	}
	w.rows("true", `SELECT deleted_at IS NOT NULL FROM dgm.bandit_states WHERE arm_id = 'ghost'`)
	for _, refused := range []string{
		`UPDATE dgm.dgm_archive SET status = 'running', metadata = NULL WHERE name = 'ended'`,
		`UPDATE dgm.dgm_archive SET status = 'completed' WHERE name = 'waiting'`,
		`DELETE FROM dgm.dgm_archive`,
	} {
		w.refusedSQL(refused, "23001") // P11
	}
	w.agree()
}

func TestP3_OnePoisonedObjectAmongMany(t *testing.T) {
	const objects, poisoned = 1000, 637
	w := newWorld(t)
	w.lead("--resync-interval=3s")
	w.query(`ALTER TABLE dgm.improvement_workspaces ADD CONSTRAINT no_poison CHECK (description <> 'poison')`)
	inParallel(16, objects, func(i int) {
		w.create(w.improvement(fmt.Sprintf("many-%d", i), "config", suspended, func(object *dgmv1alpha1.ImprovementWorkspace) {
			if i == poisoned {
				object.Spec.Description = "poison"
			}
		}))
	})
	bad := w.improvement(fmt.Sprintf("many-%d", poisoned), "config")
	w.eventuallyIn(60*time.Second, "only the poisoned object is not synced", func() error {
		var list dgmv1alpha1.ImprovementWorkspaceList
		if err := w.List(context.Background(), &list); err != nil {
			return err
		}
		for i := range list.Items {
			object := &list.Items[i]
			if object.Name != bad.Name && !saysSynced(object.Status.Conditions, object.Generation) {
				return errorf("%s is not synced: %+v", object.Name, object.Status.Conditions)
			}
			if object.Name == bad.Name {
				if err := unsyncedFor(object, dgmv1alpha1.ReasonRowRefused); err != nil {
					return err
				}
			}
		}
		return nil
	})
	message := meta.FindStatusCondition(w.refresh(bad).Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced).Message
	want := `the database refuses the row (table improvement_workspaces, constraint no_poison): new row for relation "improvement_workspaces" violates check constraint "no_poison"`
	if message != want {
		t.Errorf("the poisoned object says %q, want %q", message, want)
	}
	w.rows("999", `SELECT count(*) FROM dgm.improvement_workspaces WHERE status = 'created' AND deleted_at IS NULL`)

	w.edit(bad, `{"spec":{"description":"mended"}}`)
	w.agree()
}

func TestP3_FailoverThatLostCommits(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.lead()
	w.configMap("before", map[string]string{"CACHE_TTL": "5"})
	w.configMap("after", map[string]string{"CACHE_TTL": "5"})
	done, edited, deleted, policy := w.improvement("done", "before"), w.improvement("edited", "before", suspended),
		w.improvement("deleted", "before", suspended), w.policy("policy", "keep", "fast")
	w.create(done)
	w.reaches(done, dgmv1alpha1.PhaseCompleted, "")
	w.create(edited)
	w.create(deleted)
	w.create(policy)
	w.agree()
	backup := server.BaseBackup(t)

	created, later := w.improvement("created", "before", suspended), w.improvement("later", "after")
	w.create(created)
	w.create(later)
	w.reaches(later, dgmv1alpha1.PhaseCompleted, "")
	w.edit(edited, `{"spec":{"priority":"High"}}`)
	w.annotate(done, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(done, dgmv1alpha1.PhaseRolledBack, "")
	w.edit(policy, `{"spec":{"arms":[{"name":"keep"},{"name":"slow"}]}}`)
	w.remove(deleted)
	w.agree()
	w.rows("true", `SELECT deleted_at IS NOT NULL FROM dgm.dgm_archive WHERE name = 'deleted'`)

	server.Failover(t, backup)
	w.agree()
	w.rows("done|rolled_back\nedited|pending\nlater|completed", `SELECT name, status FROM dgm.dgm_archive WHERE name IN ('done', 'edited', 'later') ORDER BY 1`)
	w.rows("true", `SELECT deleted_at IS NOT NULL FROM dgm.dgm_archive WHERE name = 'deleted'`)
	w.rows("2", `SELECT count(*) FROM dgm.rollback_snapshots`)
}

// The end of deleted improvements outlives the outage and two kills of the
// operator, and an improvement that comes back under the old name finds it.
func TestP3_DeletedWhileItMustBeRolledBackAndTheDatabaseIsAway(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	w.configMap("gone", map[string]string{"CACHE_TTL": "5"})
	w.configMap("again", map[string]string{"CACHE_TTL": "5"})
	objects := []*dgmv1alpha1.ImprovementWorkspace{w.improvement("gone", "gone"), w.improvement("again", "again")}
	for _, object := range objects {
		w.create(object)
		w.reaches(object, dgmv1alpha1.PhaseCompleted, "")
	}
	w.agree()

	server.Stop(t)
	for _, object := range objects {
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(object, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if got := w.data(object.Name)["CACHE_TTL"]; got != "5" {
			t.Errorf("%s: CACHE_TTL is %s, want 5: P10, rolling back needs no database", object.Name, got)
		}
		w.eventually("it says that the database is away", func() error {
			return unsyncedFor(w.refresh(object), dgmv1alpha1.ReasonDatabaseUnavailable)
		})
		w.remove(object)
	}
	deleted := time.Now()
	w.operator.Kill()
	w.operator = w.launch("replica-0", quickTakeover...)
	for _, object := range objects {
		w.eventuallyIn(45*time.Second, object.Name+" goes", func() error {
			if err := w.Get(context.Background(), clientKey(object), &dgmv1alpha1.ImprovementWorkspace{}); err == nil {
				return errors.New("it is there still")
			}
			return nil
		})
	}
	t.Logf("let go after %s", time.Since(deleted).Round(time.Second))
	w.operator.Kill() // what it keeps must not be in its memory
	again := w.improvement("again", "again")
	w.create(again)
	w.operator = w.launch("replica-0", quickTakeover...)
	w.reaches(again, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonDatabaseUnavailable)

	server.Start(t)
	w.reaches(again, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonAdopted)
	w.rows("again|rolled_back|failed|false|false\ngone|rolled_back|failed|true|true",
		`SELECT a.name, a.status, w.status, a.deleted_at IS NOT NULL, w.deleted_at IS NOT NULL
		FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id) ORDER BY a.name`)
	w.agree()
	w.eventually("nothing is kept any more", func() error {
		if kept := w.outbox(); kept != 0 {
			return errorf("%d ConfigMaps are kept", kept)
		}
		return nil
	})
}
