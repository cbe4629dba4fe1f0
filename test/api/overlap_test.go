// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func service(name string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Target.Service = name }
}

func priority(p dgmv1alpha1.Priority) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Priority = p }
}

// sets makes an improvement set CACHE_TTL to another value.
func sets(value string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Changes[0].Patch = `data: {CACHE_TTL: "` + value + `"}`
	}
}

func TestP13_OverlappingImprovementsWait(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("for the same object, by priority", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		gate := w.gate()
		gate.hold("ConfigMap/config")
		first := w.improvement("first", "config")
		w.create(first)
		w.reaches(first, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
		low := w.improvement("low", "config", priority(dgmv1alpha1.PriorityLow), sets("70"))
		high := w.improvement("high", "config", priority(dgmv1alpha1.PriorityHigh), sets("80"))
		w.create(low)
		waiting := w.reaches(low, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonOverlap)
		w.says(message(waiting), "improvement first holds ConfigMap config")
		w.create(high)
		w.reaches(high, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonOverlap)
		gate.open()
		w.nudge(first)
		for _, improvement := range []*dgmv1alpha1.ImprovementWorkspace{first, high, low} {
			w.reaches(improvement, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		}
		applied := func(object *dgmv1alpha1.ImprovementWorkspace) *metav1.MicroTime {
			return w.refresh(object).Status.AppliedAt
		}
		if !applied(first).Before(applied(high)) || !applied(high).Before(applied(low)) {
			w.Errorf("applied at %v, %v, %v: want first, high, low", applied(first), applied(high), applied(low))
		}
		w.values(map[string]string{"config": "70"})
	})

	w.scenario("for the same service", func(w *world) {
		w.configMap("one", map[string]string{"CACHE_TTL": "5"})
		w.configMap("two", map[string]string{"CACHE_TTL": "5"})
		gate := w.gate()
		gate.hold("ConfigMap/one")
		first := w.improvement("first", "one", service("shop"))
		w.create(first)
		w.reaches(first, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
		second := w.improvement("second", "two", service("shop"))
		w.create(second)
		waiting := w.reaches(second, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonOverlap)
		w.says(message(waiting), "improvement first holds service shop")
		w.values(map[string]string{"two": "5"})
		// One that shares nothing does not wait; one that changes nothing neither.
		w.configMap("three", map[string]string{"CACHE_TTL": "5"})
		w.create(w.improvement("free", "three"))
		dry := w.improvement("dry", "one", service("shop"), func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Mode = dgmv1alpha1.ModeDryRun })
		w.create(dry)
		w.reaches(dry, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun)
		w.reaches(w.improvement("free", "three"), dgmv1alpha1.PhaseCompleted, "")
		// The first one ends by being deleted.
		w.deleted(first)
		gate.open()
		w.goes(first)
		w.reaches(second, dgmv1alpha1.PhaseCompleted, "")
		w.values(map[string]string{"one": "5", "two": "60"})
	})

	w.scenario("a rollback below a later improvement is refused", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5", "OTHER": "1"})
		first := w.improvement("first", "config")
		w.create(first)
		w.reaches(first, dgmv1alpha1.PhaseCompleted, "")
		beside := w.improvement("beside", "config", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Changes[0].Patch = `data: {OTHER: "2"}` })
		w.create(beside)
		w.reaches(beside, dgmv1alpha1.PhaseCompleted, "")
		later := w.improvement("later", "config", sets("90"))
		w.create(later)
		w.reaches(later, dgmv1alpha1.PhaseCompleted, "")

		w.annotate(first, dgmv1alpha1.AnnotationRollback, "1")
		refused := w.refused(first)
		w.says(refused, "improvement later", "CACHE_TTL", "roll that back first")
		if contains(refused, "beside") {
			w.Errorf("beside shares no path: %s", refused)
		}
		w.values(map[string]string{"config": "90"})

		w.annotate(later, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(later, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.values(map[string]string{"config": "60"})
		w.annotate(first, dgmv1alpha1.AnnotationRollback, "2")
		done := w.reaches(first, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if c := conditionOf(done, dgmv1alpha1.ConditionRollbackRefused); c.Type != "" {
			w.Errorf("RollbackRefused is left: %+v", c)
		}
		w.values(map[string]string{"config": "5"})
		if got := w.data("config")["OTHER"]; got != "2" {
			w.Errorf("OTHER is %s, want what beside has set", got)
		}
	})

	w.scenario("a rollback while another runs on the same object is refused", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		first := w.improvement("first", "config")
		w.create(first)
		w.reaches(first, dgmv1alpha1.PhaseCompleted, "")
		gate := w.gate()
		gate.hold("ConfigMap/config")
		running := w.improvement("running", "config", sets("90"))
		w.create(running)
		w.reaches(running, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
		w.annotate(first, dgmv1alpha1.AnnotationRollback, "1")
		w.says(w.refused(first), "improvement running is running and holds")
		gate.open()
		w.nudge(running)
		w.reaches(running, dgmv1alpha1.PhaseCompleted, "")
	})
}

// refused waits until a rollback is refused and returns why.
func (w *world) refused(object *dgmv1alpha1.ImprovementWorkspace) string {
	w.Helper()
	var why string
	w.eventually("the rollback of "+object.Name+" is refused", func() error {
		fresh := w.refresh(object)
		c := conditionOf(fresh, dgmv1alpha1.ConditionRollbackRefused)
		if c.Status != metav1.ConditionTrue || fresh.Status.Phase != dgmv1alpha1.PhaseCompleted {
			return errorf("it is %s, RollbackRefused is %+v", fresh.Status.Phase, c)
		}
		why = c.Message
		return nil
	})
	return why
}

// Claims live in memory: another operator must know them at once.
func TestP13_OverlapsHoldAcrossARestart(t *testing.T) {
	w := newWorld(t)
	w.start()
	gate, first := w.halfApplied()
	w.crash()
	second := w.improvement("second", "two", sets("70"))
	w.create(second)
	w.start()
	waiting := w.reaches(second, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonOverlap)
	w.says(message(waiting), "improvement ttl holds ConfigMap two")
	gate.open()
	w.nudge(first)
	w.reaches(first, dgmv1alpha1.PhaseCompleted, "")
	w.reaches(second, dgmv1alpha1.PhaseCompleted, "")
	data := w.data("two")
	if data["TTL"] != "60" || data["CACHE_TTL"] != "70" {
		t.Errorf("the second object holds %v, want both changes", data)
	}
}
