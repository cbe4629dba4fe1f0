// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestP5_OnlyTheFaultOfTheChangeIsRewardedWithNothing(t *testing.T) {
	for _, test := range []struct {
		name   string
		phase  dgmv1alpha1.Phase
		reason string
		tests  []dgmv1alpha1.TestOutcome
		fault  bool
	}{
		{"rollout unhealthy", dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRolloutFailed, nil, true},
		{"unhealthy while it is observed", dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonRolloutFailed, nil, true},
		{"unhealthy when it is put back", dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.ReasonRolloutFailed, nil, false},
		{"a test failed", dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonTestsFailed, []dgmv1alpha1.TestOutcome{dgmv1alpha1.TestPassed, dgmv1alpha1.TestFailed}, true},
		{"a test did not end", dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonTestsFailed, []dgmv1alpha1.TestOutcome{dgmv1alpha1.TestTimedOut}, true},
		{"a test could not be run", dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonTestsFailed, []dgmv1alpha1.TestOutcome{dgmv1alpha1.TestPassed, dgmv1alpha1.TestError}, false},
		{"a test was refused", dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonTestsFailed, nil, false},
		{"the sandbox did not come up", dgmv1alpha1.PhaseTesting, dgmv1alpha1.ReasonSandboxFailed, nil, false},
		{"a safety check does not hold", dgmv1alpha1.PhaseValidating, dgmv1alpha1.ReasonSafetyCheckFailed, nil, true},
		{"a safety check is no CEL", dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonSafetyCheckFailed, nil, false},
		{"the constitution is violated", dgmv1alpha1.PhaseValidating, dgmv1alpha1.ReasonConstitutionViolated, nil, true},
		{"no verdict", dgmv1alpha1.PhaseValidating, dgmv1alpha1.ReasonNoVerdict, nil, false},
		{"a risk above the platform's limit", dgmv1alpha1.PhaseValidating, dgmv1alpha1.ReasonRiskTooHigh, nil, false},
		{"somebody else changed it", dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonTargetChanged, nil, false},
		{"a target is gone", dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonTargetGone, nil, false},
		{"its time is over", dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonTimedOut, nil, false},
		{"a right is missing", dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonForbidden, nil, false},
		{"aborted", dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonAborted, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest(test.phase, nil)
			for _, outcome := range test.tests {
				w.Status.Tests = append(w.Status.Tests, dgmv1alpha1.TestStatus{Outcome: outcome})
			}
			if IsFaultOfChange(w, test.reason) {
				t.Error("it has a reward, though nothing is to be measured")
			}
			w.Spec.Metrics = make([]dgmv1alpha1.Metric, 1)
			if got := IsFaultOfChange(w, test.reason); got != test.fault {
				t.Errorf("the fault of the change: %t, want %t", got, test.fault)
			}
		})
	}
}
