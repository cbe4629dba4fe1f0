// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// clockStands are the reasons to wait that are none of the improvement's own work:
// its author, or the platform, holds it.
var clockStands = []string{
	dgmv1alpha1.ReasonSuspended, dgmv1alpha1.ReasonFrozen, dgmv1alpha1.ReasonAdmissionPolicyMissing,
	dgmv1alpha1.ReasonDatabaseUnavailable, dgmv1alpha1.ReasonConstitutionMismatch,
}

// HeldUp reports that an improvement which was held from outside, or by its author,
// goes on: its time begins anew.
func HeldUp(before, now Standing) bool {
	return slices.Contains(clockStands, before.Reason) && !slices.Contains(clockStands, now.Reason)
}

// TimedOut reports whether an improvement that works, and still could give up,
// has done so for longer than the limit: it stays where it is (standing), whatever
// it waits for there. What is put back is never given up; a person who is to
// approve, and an observation, have deadlines of their own.
func TimedOut(w *dgmv1alpha1.ImprovementWorkspace, standing Standing, now time.Time, limit time.Duration) bool {
	switch w.Status.Phase {
	case dgmv1alpha1.PhasePreparing, dgmv1alpha1.PhaseTesting, dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseApplying:
		return standing.Phase == w.Status.Phase && !slices.Contains(clockStands, standing.Reason) &&
			w.Status.ActiveSince != nil && now.Sub(w.Status.ActiveSince.Time) > limit
	default:
		return false
	}
}
