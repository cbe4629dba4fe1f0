// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Transitions are the phases that can follow each other directly; those after ""
// are where an object begins that was just created: anew, or where the archive
// says that it was.
var Transitions = map[dgmv1alpha1.Phase][]dgmv1alpha1.Phase{
	"":                                {dgmv1alpha1.PhasePending, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.PhaseFailed, dgmv1alpha1.PhaseRollingBack},
	dgmv1alpha1.PhasePending:          {dgmv1alpha1.PhasePreparing, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhasePreparing:        {dgmv1alpha1.PhasePending, dgmv1alpha1.PhaseTesting, dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseTesting:          {dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseValidating:       {dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseAwaitingApproval: {dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseFailed},
	// Failed is where a namespace that is being deleted leaves what had begun.
	dgmv1alpha1.PhaseApplying:    {dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseObserving:   {dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseRollingBack: {dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseFailed},
	dgmv1alpha1.PhaseCompleted:   {dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhasePending},
	dgmv1alpha1.PhaseRolledBack:  {dgmv1alpha1.PhasePending},
	dgmv1alpha1.PhaseFailed:      {dgmv1alpha1.PhasePending},
}

// CanFollow reports whether status may show a phase after another. The first
// status of an object may be a step on already, and one that waits in Pending for
// the archive begins as if it had none.
func CanFollow(from, to dgmv1alpha1.Phase) bool {
	return from == to || slices.Contains(Transitions[from], to) ||
		(from == "" && slices.Contains(Transitions[dgmv1alpha1.PhasePending], to)) ||
		(from == dgmv1alpha1.PhasePending && slices.Contains(Transitions[""], to))
}

// NextPhase is the phase that follows when the work of the present one is done
// and nothing speaks against it. Phases of which the spec has nothing to do are
// left out.
func NextPhase(w *dgmv1alpha1.ImprovementWorkspace) dgmv1alpha1.Phase {
	switch w.Status.Phase {
	case dgmv1alpha1.PhasePending:
		return dgmv1alpha1.PhasePreparing
	case dgmv1alpha1.PhasePreparing:
		if w.WantsSandbox() {
			return dgmv1alpha1.PhaseTesting
		}
		return dgmv1alpha1.PhaseValidating
	case dgmv1alpha1.PhaseTesting:
		return dgmv1alpha1.PhaseValidating
	case dgmv1alpha1.PhaseValidating:
		if NeedsApproval(w) {
			return dgmv1alpha1.PhaseAwaitingApproval
		}
		return dgmv1alpha1.PhaseApplying
	case dgmv1alpha1.PhaseAwaitingApproval:
		return dgmv1alpha1.PhaseApplying
	case dgmv1alpha1.PhaseApplying:
		if len(w.Spec.Metrics) > 0 {
			return dgmv1alpha1.PhaseObserving
		}
		return dgmv1alpha1.PhaseCompleted
	case dgmv1alpha1.PhaseObserving:
		return dgmv1alpha1.PhaseCompleted
	case dgmv1alpha1.PhaseRollingBack:
		return dgmv1alpha1.PhaseRolledBack
	default:
		return w.Status.Phase
	}
}
