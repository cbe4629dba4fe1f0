// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

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
