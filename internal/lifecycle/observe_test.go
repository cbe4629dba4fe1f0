// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestP6_OnlyAFailRollsBackByItself(t *testing.T) {
	const pass, fail, inconclusive, noData = dgmv1alpha1.VerdictPass, dgmv1alpha1.VerdictFail, dgmv1alpha1.VerdictInconclusive, dgmv1alpha1.VerdictNoData
	const hold, rollback, accept = dgmv1alpha1.UndecidedHold, dgmv1alpha1.UndecidedRollback, dgmv1alpha1.UndecidedAccept
	outcome := func(verdict dgmv1alpha1.Verdict, policy dgmv1alpha1.UndecidedPolicy) Outcome {
		return Outcome{Metric: &dgmv1alpha1.Metric{OnNoData: policy, OnInconclusive: policy}, Verdict: verdict, Text: string(verdict) + "-" + string(policy)}
	}
	revert := func(w *dgmv1alpha1.ImprovementWorkspace) { w.Spec.OnSuccess = dgmv1alpha1.OnSuccessRevert }
	manual := func(w *dgmv1alpha1.ImprovementWorkspace) {
		w.Spec.Rollback = &dgmv1alpha1.Rollback{Policy: dgmv1alpha1.RollbackManual}
	}
	for _, test := range []struct {
		name     string
		outcomes []Outcome
		final    bool
		edit     func(*dgmv1alpha1.ImprovementWorkspace)
		next     Next
		reason   string
		says     string
	}{
		{"all pass", []Outcome{outcome(pass, hold), outcome(pass, hold)}, false, nil, NextKeep, "Completed", "Pass"},
		{"all pass, a trial", []Outcome{outcome(pass, hold)}, false, revert, NextRevert, "Reverted", "Pass"},
		{"one fails", []Outcome{outcome(pass, hold), outcome(fail, hold)}, false, nil, NextRollBack, "MetricRegressed", "Fail"},
		{"one fails, whatever else is missing", []Outcome{outcome(noData, accept), outcome(fail, accept)}, false, nil, NextRollBack, "MetricRegressed", "Fail"},
		{"one fails, a person decides", []Outcome{outcome(fail, hold)}, false, manual, NextAwaitCommand, "MetricRegressed", "kubectl annotate improvement ttl"},
		{"no data yet", []Outcome{outcome(pass, hold), outcome(noData, rollback)}, false, nil, NextWait, "Observing", "NoData"},
		{"inconclusive yet", []Outcome{outcome(inconclusive, accept)}, false, nil, NextWait, "Observing", "Inconclusive"},
		{"no data at the deadline", []Outcome{outcome(noData, hold)}, true, nil, NextHold, "MetricsUndecided", "dgm.acgs.io/rollback"},
		{"inconclusive at the deadline, by default", []Outcome{outcome(inconclusive, "")}, true, nil, NextHold, "MetricsUndecided", "Inconclusive"},
		{"rolled back at the deadline", []Outcome{outcome(noData, rollback), outcome(inconclusive, hold)}, true, nil, NextRollBack, "MetricsUndecided", "NoData"},
		{"rolled back at the deadline, by a person", []Outcome{outcome(noData, rollback)}, true, manual, NextHold, "MetricsUndecided", "rollback.policy is Manual; to put"},
		{"whatever is said, what to do has room", []Outcome{{Metric: &dgmv1alpha1.Metric{}, Verdict: fail, Text: strings.Repeat("x", 5000)}}, false, manual, NextAwaitCommand, "MetricRegressed", "--overwrite dgm.acgs.io/keep=TOKEN dgm.acgs.io/kept-by="},
		{"accepted at the deadline", []Outcome{outcome(noData, accept), outcome(pass, hold)}, true, nil, NextKeep, "Completed", "accepted although undecided: NoData"},
		{"accepted at the deadline, a trial", []Outcome{outcome(inconclusive, accept)}, true, revert, NextRevert, "Reverted", "accepted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest(dgmv1alpha1.PhaseObserving, nil)
			if test.edit != nil {
				test.edit(w)
			}
			got := DecideObservation(w, test.outcomes, test.final)
			if len(got.Message) > MaxMessage {
				t.Errorf("the message has %d bytes", len(got.Message))
			}
			if got.Next != test.next || got.Reason != test.reason || !strings.Contains(got.Message, test.says) {
				t.Errorf("%+v, want %d, %s, %q", got, test.next, test.reason, test.says)
			}
		})
	}
	watched := improvementForTest(dgmv1alpha1.PhaseCompleted, nil)
	for verdict, next := range map[dgmv1alpha1.Verdict]Next{pass: NextKeep, fail: NextRollBack, inconclusive: NextKeep, noData: NextKeep} {
		if got := DecideWatch(watched, []Outcome{outcome(verdict, rollback)}); got.Next != next {
			t.Errorf("in a watch, %s leads to %d, want %d", verdict, got.Next, next)
		}
	}
}

func TestObservingOf(t *testing.T) {
	w := improvementForTest("", nil)
	if got, want := ObservingOf(w), (Observing{5 * time.Minute, time.Minute, 10 * time.Second, 10 * time.Minute, 0}); got != want {
		t.Errorf("unsaid: %+v, want %+v", got, want)
	}
	w.Spec.Observe = &dgmv1alpha1.Observe{Window: "1h", Warmup: "0s", Interval: "30s", Deadline: "0s", WatchAfterCompletion: "24h"}
	if got, want := ObservingOf(w), (Observing{time.Hour, 0, 30 * time.Second, 0, 24 * time.Hour}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
