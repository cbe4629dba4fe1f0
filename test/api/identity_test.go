// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// attempts are the attempts of a name in the archive with their parents' numbers.
const attempts = `SELECT a.attempt, a.status, coalesce(p.attempt, 0) FROM dgm.dgm_archive a
	LEFT JOIN dgm.dgm_archive p ON p.improvement_id = a.parent_improvement_id
	WHERE a.name = $1 AND a.namespace = $2 ORDER BY a.attempt`

// completed makes the improvement ttl of the ConfigMap config complete.
func (w *world) completed(edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config", edits...)
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	return w.synced(ttl)
}

// wipe takes an improvement's status away, as a restore from a backup without
// status does. The operator holds it by then, or is down.
func (w *world) wipe(object *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.eventually("the status of "+object.Name+" is wiped", func() error {
		fresh := w.refresh(object)
		fresh.Status = dgmv1alpha1.ImprovementWorkspaceStatus{ObservedGeneration: -1}
		return w.Status().Update(context.Background(), fresh)
	})
}

func TestIdentity(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("made anew from the same manifest", func(w *world) {
		first := w.completed()
		w.deleted(first)
		w.goes(first)
		w.deleteRevision(first) // as the garbage collector does
		again := w.improvement("ttl", "config")
		w.create(again)
		adopted := w.reaches(again, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonAdopted)
		if adopted.Status.ImprovementID != first.Status.ImprovementID || adopted.Status.Attempt != 1 {
			w.Errorf("it is attempt %d, %s, want 1, %s", adopted.Status.Attempt, adopted.Status.ImprovementID, first.Status.ImprovementID)
		}
		w.says(message(adopted), "kubectl annotate improvement ttl")
		if effective := conditionOf(adopted, dgmv1alpha1.ConditionEffective); effective.Status != metav1.ConditionTrue {
			w.Errorf("Effective is %+v, want True", effective)
		}
		w.synced(again)
		w.rows("1|completed|0", attempts, "ttl", w.namespace)

		w.annotate(again, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(again, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "5"})
		w.synced(again)
		w.rows("1|rolled_back|0", attempts, "ttl", w.namespace)
	})

	w.scenario("made anew when others have put the value back", func(w *world) {
		first := w.completed()
		w.deleted(first)
		w.goes(first)
		w.setData("config", "CACHE_TTL", "5")
		again := w.improvement("ttl", "config")
		w.create(again)
		adopted := w.reaches(again, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonAdopted)
		effective := conditionOf(adopted, dgmv1alpha1.ConditionEffective)
		if effective.Status != metav1.ConditionFalse || effective.Reason != dgmv1alpha1.ReasonLiveDiffers {
			w.Errorf("Effective is %+v, want False", effective)
		}
		w.values(map[string]string{"config": "5"})
	})

	w.scenario("made anew when its snapshot is lost", func(w *world) {
		first := w.completed()
		w.deleted(first)
		w.goes(first)
		w.deleteRevision(first)
		w.damage(first)
		again := w.improvement("ttl", "config")
		w.create(again)
		adopted := w.reaches(again, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonAdopted)
		if effective := conditionOf(adopted, dgmv1alpha1.ConditionEffective); effective.Reason != dgmv1alpha1.ReasonSnapshotDamaged {
			w.Errorf("Effective is %+v, want SnapshotDamaged", effective)
		}
		w.annotate(again, dgmv1alpha1.AnnotationRollback, "1")
		w.eventually("the rollback is refused", func() error {
			if c := conditionOf(w.refresh(again), dgmv1alpha1.ConditionRollbackRefused); c.Status != metav1.ConditionTrue {
				return errorf("RollbackRefused is %+v", c)
			}
			return nil
		})
	})

	w.scenario("made anew with other material", func(w *world) {
		first := w.completed()
		w.deleted(first)
		w.goes(first)
		other := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Changes[0].Patch = `data: {CACHE_TTL: "90"}`
		})
		w.create(other)
		second := w.reaches(other, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		if second.Status.Attempt != 2 || second.Status.ParentImprovementID != first.Status.ImprovementID || second.Status.ImprovementID == first.Status.ImprovementID {
			w.Errorf("status is %+v, want attempt 2 of parent %s", second.Status, first.Status.ImprovementID)
		}
		w.values(map[string]string{"config": "90"})
		w.synced(other)
		w.rows("1|completed|0\n2|completed|1", attempts, "ttl", w.namespace)
	})

	w.scenario("edited after its end, then retried", func(w *world) {
		first := w.completed()
		if err := w.patch(first, `{"spec":{"priority":"High","suspend":false}}`); err != nil {
			t.Fatal(err)
		}
		if still := w.synced(first); still.Status.Attempt != 1 || still.Status.Phase != dgmv1alpha1.PhaseCompleted {
			w.Errorf("priority and suspend began attempt %d", still.Status.Attempt)
		}
		if err := w.patch(first, `{"spec":{"changes":[{"name":"cache","targetRef":{"apiVersion":"v1","kind":"ConfigMap","name":"config"},"patch":"data: {CACHE_TTL: \"90\"}"}]}}`); err != nil {
			t.Fatal(err)
		}
		w.attempt(first, 2, dgmv1alpha1.PhaseCompleted)
		w.values(map[string]string{"config": "90"})
		w.annotate(first, dgmv1alpha1.AnnotationRetry, "again")
		third := w.attempt(first, 3, dgmv1alpha1.PhaseCompleted)
		if reason := conditionOf(third, dgmv1alpha1.ConditionReady).Reason; reason != dgmv1alpha1.ReasonNothingToChange {
			w.Errorf("reason %s, want NothingToChange", reason)
		}
		w.synced(first)
		w.rows("1|completed|0\n2|completed|1\n3|completed|2", attempts, "ttl", w.namespace)
	})

	w.scenario("edited while it is pending", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", suspended)
		w.create(ttl)
		before := w.synced(ttl)
		if err := w.patch(ttl, `{"spec":{"description":"cache for a minute, not longer"}}`); err != nil {
			t.Fatal(err)
		}
		w.eventually("the edit is seen", func() error {
			after := w.refresh(ttl)
			if after.Status.ObservedGeneration != after.Generation {
				return errorf("generation %d of %d", after.Status.ObservedGeneration, after.Generation)
			}
			if after.Status.ImprovementID != before.Status.ImprovementID || after.Status.MaterialDigest == before.Status.MaterialDigest || after.Status.Attempt != 1 {
				w.Errorf("after the edit the identity is %+v, before it was %+v", after.Status, before.Status)
			}
			return nil
		})
		w.synced(ttl)
		w.rows("cache for a minute, not longer", "SELECT description FROM dgm.dgm_archive WHERE namespace = $1", w.namespace)
	})

	w.scenario("edited while it is applied", func(w *world) {
		gate, ttl := w.halfApplied()
		for _, edit := range []string{
			`{"spec":{"description":"another"}}`, `{"spec":{"mode":"DryRun"}}`, `{"spec":{"onGitOpsOwned":"Proceed"}}`,
			`{"spec":{"serviceAccountName":"default"}}`, `{"spec":{"target":{"service":"another"}}}`, `{"spec":{"type":"ParameterTuning"}}`,
			`{"spec":{"changes":[{"name":"x","targetRef":{"apiVersion":"v1","kind":"ConfigMap","name":"one"},"patch":"{}"}]}}`,
		} {
			if err := w.patch(ttl, edit); err == nil {
				w.Errorf("%s was accepted", edit)
			} else {
				w.says(err.Error(), "abort it first")
			}
		}
		if err := w.patch(ttl, `{"spec":{"priority":"Critical"}}`); err != nil {
			w.Errorf("priority may change: %v", err)
		}
		gate.open()
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	})
}

// attempt waits until an improvement is at an attempt and in a phase.
func (w *world) attempt(object *dgmv1alpha1.ImprovementWorkspace, number int32, phase dgmv1alpha1.Phase) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	var fresh *dgmv1alpha1.ImprovementWorkspace
	w.eventually(fmt.Sprintf("%s reaches %s in attempt %d", object.Name, phase, number), func() error {
		if fresh = w.refresh(object); fresh.Status.Attempt != number || fresh.Status.Phase != phase {
			return errorf("it is %s in attempt %d", fresh.Status.Phase, fresh.Status.Attempt)
		}
		return nil
	})
	return fresh
}

func TestCommandTokens(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("on an object that is created command nothing", func(w *world) {
		ttl := w.completed(func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Annotations = map[string]string{
				dgmv1alpha1.AnnotationRollback: "old", dgmv1alpha1.AnnotationAbort: "old", dgmv1alpha1.AnnotationRetry: "old",
			}
		})
		want := dgmv1alpha1.HandledCommands{Rollback: "old", Abort: "old", Retry: "old"}
		if ttl.Status.Attempt != 1 || ttl.Status.LastHandled != want {
			w.Errorf("attempt %d, handled %+v", ttl.Status.Attempt, ttl.Status.LastHandled)
		}
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "new")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
	})

	w.scenario("are handled once", func(w *world) {
		ttl := w.completed()
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
		w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "1")
		w.attempt(ttl, 2, dgmv1alpha1.PhaseCompleted)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "1")
		w.nudge(ttl)
		// A change of the spec that changes nothing shows that all of this was seen.
		if err := w.patch(ttl, `{"spec":{"priority":"High"}}`); err != nil {
			t.Fatal(err)
		}
		if seen := w.synced(ttl); seen.Status.Attempt != 2 || seen.Status.Phase != dgmv1alpha1.PhaseCompleted {
			w.Errorf("it is %s in attempt %d", seen.Status.Phase, seen.Status.Attempt)
		}
		w.values(map[string]string{"config": "60"})
	})

	w.scenario("are kept until they could be handled", func(w *world) {
		gate := w.gate(asks(registrationv1.Update, dgmv1alpha1.GroupVersion.Group, "improvementworkspaces"))
		ttl := w.completed()
		w.eventually("the finalizer goes", func() error {
			if finalizers := w.refresh(ttl).Finalizers; len(finalizers) > 0 {
				return errorf("finalizers %v", finalizers)
			}
			return nil
		})
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback+dgmv1alpha1.AnnotationReasonSuffix, "p99 is up")
		var asked atomic.Int32
		gate.rule(func(object string) gateAnswer {
			// The first is the command itself, from then on the operator's finalizer.
			if object == "ImprovementWorkspace/ttl" && asked.Add(1) > 1 {
				return gateBreak
			}
			return gateAllow
		})
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.eventually("the operator has tried more than once", func() error {
			if tried := asked.Load(); tried < 4 {
				return errorf("it asked %d times", tried)
			}
			return nil
		})
		w.values(map[string]string{"config": "60"})
		gate.open()
		done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(message(done), "p99 is up")
		w.values(map[string]string{"config": "5"})
	})
}

func TestP1_StatusLostIsRolledBackFromTheDatabase(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("while it is applied", func(w *world) {
		gate, ttl := w.halfApplied()
		id := w.refresh(ttl).Status.ImprovementID
		w.deleteRevision(w.refresh(ttl))
		w.wipe(ttl)
		gate.open()
		done := w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(done.Status.RollbackReason, dgmv1alpha1.ReasonStatusLost)
		if done.Status.ImprovementID != id {
			w.Errorf("the id became %s, was %s", done.Status.ImprovementID, id)
		}
		w.values(map[string]string{"one": "5", "two": "5"})
		w.synced(ttl)
		w.rows("rolled_back|failed|1", stateOf, "ttl", w.namespace)
	})

	w.scenario("while it is applied, and both copies are damaged", func(w *world) {
		gate, ttl := w.halfApplied()
		w.damage(w.refresh(ttl))
		w.deleteRevision(w.refresh(ttl))
		w.wipe(ttl)
		w.stalls(ttl, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonSnapshotDamaged)
		gate.open()
		w.values(map[string]string{"one": "60", "two": "5"})
	})

	w.scenario("when it is completed", func(w *world) {
		ttl := w.completed()
		w.wipe(ttl)
		adopted := w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonAdopted)
		if adopted.Status.ImprovementID != ttl.Status.ImprovementID {
			w.Errorf("the id became %s, was %s", adopted.Status.ImprovementID, ttl.Status.ImprovementID)
		}
		w.values(map[string]string{"config": "60"})
	})

	w.scenario("before anything was stored", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", suspended)
		w.create(ttl)
		before := w.synced(ttl)
		w.wipe(ttl)
		again := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonSuspended)
		if again.Status.ImprovementID != before.Status.ImprovementID || again.Status.Attempt != 1 {
			w.Errorf("it is attempt %d, %s, want 1, %s", again.Status.Attempt, again.Status.ImprovementID, before.Status.ImprovementID)
		}
	})
}

// Whoever may create ControllerRevisions must not get a plan of his own carried
// out by the account that somebody else has named.
func TestP8_APlantedSnapshotIsNotApplied(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	victim := w.configMap("victim", map[string]string{"CACHE_TTL": "5"})
	donor := w.improvement("donor", "victim")
	w.create(donor)
	donor = w.reaches(donor, dgmv1alpha1.PhaseCompleted, "")
	w.annotate(donor, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(donor, dgmv1alpha1.PhaseRolledBack, "")
	planted, err := w.revision(donor)
	if err != nil {
		t.Fatal(err)
	}
	ttl := w.improvement("ttl", "config", suspended)
	w.create(ttl)
	ttl = w.synced(ttl)
	planted.ObjectMeta = metav1.ObjectMeta{Namespace: w.namespace, Name: "dgm-" + ttl.Status.ImprovementID}
	w.create(planted)
	if err := w.patch(ttl, `{"spec":{"suspend":false}}`); err != nil {
		t.Fatal(err)
	}
	failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetChanged)
	w.says(message(failed), "ControllerRevision dgm-"+ttl.Status.ImprovementID, dgmv1alpha1.AnnotationRetry)
	w.values(map[string]string{"config": "5", "victim": "5"})
	w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "1")
	w.attempt(ttl, 2, dgmv1alpha1.PhaseCompleted)
	w.values(map[string]string{"config": "60", "victim": "5"})
	if err := w.Get(context.Background(), client.ObjectKeyFromObject(victim), victim); err != nil {
		t.Fatal(err)
	}
}
