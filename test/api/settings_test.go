// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// configure sets a system configuration as another service does, with SQL.
func (w *world) configure(key, value string) {
	w.Helper()
	w.eventually(key+" is there to be set", func() error {
		updated, err := w.tryQuery(`UPDATE dgm.system_configurations SET value = $2 WHERE key = $1 RETURNING key`, key, value)
		if err == nil && updated != key {
			return errorf("there is no such setting yet")
		}
		return err
	})
}

// The operator obeys the settings, and takes up their changes while it runs.
func TestSettingsAreObeyedWithoutARestart(t *testing.T) {
	w := newOwnWorld(t)
	w.lead()
	for _, name := range []string{"slow", "held", "next", "again", "tested", "late"} {
		w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	}
	gate := w.gate()
	gate.rule(func(object string) gateAnswer {
		if object == "ConfigMap/slow" || object == "ConfigMap/held" || object == "ConfigMap/late" {
			return gateBreak
		}
		return gateAllow
	})
	k := w.keeper(func(*batchv1.Job) (int32, string, bool) { return 0, "", false }) // its pod never ends
	w.mayRunJobs()

	w.configure("improvement_timeout_minutes", "1")
	slow := w.improvement("slow", "slow")
	w.create(slow)
	w.reaches(slow, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)

	tested := w.improvement("tested", "tested", func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Sandbox, object.Spec.Tests = &dgmv1alpha1.Sandbox{}, []dgmv1alpha1.Test{testOf("endless")}
	})
	w.create(tested)
	late := w.improvement("late", "late")
	w.create(late)
	w.reaches(late, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
	if err := w.patch(late, `{"spec":{"suspend":true}}`); err != nil {
		t.Fatal(err)
	}
	w.reaches(late, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonSuspended)
	w.reaches(tested, dgmv1alpha1.PhaseTesting, "")

	w.configure("max_concurrent_improvements", "4")
	held, next := w.improvement("held", "held"), w.improvement("next", "next")
	w.create(held)
	w.reaches(held, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying)
	w.create(next)
	waiting := w.reaches(next, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonConcurrencyLimit)
	w.says(message(waiting), "4 improvements are active, as many as max_concurrent_improvements allows")
	w.configure("max_concurrent_improvements", "5")
	w.reaches(next, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	gate.hold("ConfigMap/slow")
	w.nudge(held)
	w.reaches(held, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)

	w.configure("max_improvement_attempts", "1")
	again := w.improvement("again", "again")
	w.create(again)
	w.reaches(again, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.annotate(again, dgmv1alpha1.AnnotationRetry, "once more")
	waiting = w.reaches(again, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonTooManyAttempts)
	w.says(message(waiting), "this would be attempt 2, and 1 is the highest that max_improvement_attempts allows")
	w.configure("max_improvement_attempts", "2")
	w.reaches(again, dgmv1alpha1.PhaseCompleted, "")

	var ended *dgmv1alpha1.ImprovementWorkspace
	w.eventuallyIn(3*time.Minute, "what takes too long is put back", func() error {
		if ended = w.refresh(slow); ended.Status.Phase != dgmv1alpha1.PhaseRolledBack {
			return errorf("it is %s: %s", ended.Status.Phase, message(ended))
		}
		return nil
	})
	w.says(ended.Status.RollbackReason, "not done within 1m (improvement_timeout_minutes)")
	w.values(map[string]string{"slow": "5"})
	// Testing ends as well, whatever it waits for.
	w.eventually("what only waits has failed", func() error {
		ended = w.refresh(tested)
		if ready := conditionOf(ended, dgmv1alpha1.ConditionReady); ended.Status.Phase != dgmv1alpha1.PhaseFailed || ready.Reason != dgmv1alpha1.ReasonTimedOut {
			return errorf("it is %s: %+v", ended.Status.Phase, ready)
		}
		return nil
	})
	w.says(message(ended), "not done within 1m (improvement_timeout_minutes): test endless runs in sandbox")
	k.noSandbox()
	// The time that it was suspended does not count.
	w.reaches(late, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonSuspended)
	if err := w.patch(late, `{"spec":{"suspend":false}}`); err != nil {
		t.Fatal(err)
	}
	gate.open()
	w.reaches(late, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.values(map[string]string{"late": "60"})
}
