// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// IsFaultOfChange reports whether a failure for a reason speaks against the change
// itself, as a metric that fails does: its reward is 0. Where nothing is to be
// measured there is no reward, and what could not be run or looked at tells
// nothing.
func IsFaultOfChange(w *dgmv1alpha1.ImprovementWorkspace, reason string) bool {
	if len(w.Spec.Metrics) == 0 {
		return false
	}
	switch reason {
	case dgmv1alpha1.ReasonRolloutFailed:
		return w.Status.Phase.MayHaveApplied()
	case dgmv1alpha1.ReasonTestsFailed:
		return slices.ContainsFunc(w.Status.Tests, func(test dgmv1alpha1.TestStatus) bool {
			return test.Outcome == dgmv1alpha1.TestFailed || test.Outcome == dgmv1alpha1.TestTimedOut
		})
	case dgmv1alpha1.ReasonSafetyCheckFailed, dgmv1alpha1.ReasonConstitutionViolated:
		return w.Status.Phase == dgmv1alpha1.PhaseValidating // in Pending it is a typo
	default:
		return false
	}
}
