// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Lineage is what a parent means for an improvement that builds on it.
type Lineage struct {
	// Reason is empty when the parent's changes stand, else
	// ReasonParentNotCompleted (wait) or ReasonParentFailed (they never will).
	Reason  string
	Message string
}

// EvaluateParent decides whether an improvement may begin, as far as the one that
// it builds on is concerned; nil means that there is no such object.
func EvaluateParent(w, parent *dgmv1alpha1.ImprovementWorkspace) Lineage {
	if w.Spec.ParentRef == nil {
		return Lineage{}
	}
	name := w.Spec.ParentRef.Name
	failed := func(why string) Lineage {
		return Lineage{Reason: dgmv1alpha1.ReasonParentFailed, Message: fmt.Sprintf(
			"it builds on improvement %s, %s; when that is Completed: kubectl annotate improvement %s --namespace=%s --overwrite %s=TOKEN",
			name, why, w.Name, w.Namespace, dgmv1alpha1.AnnotationRetry)}
	}
	switch {
	case name == w.Name:
		return failed("which is itself")
	case parent == nil:
		return Lineage{Reason: dgmv1alpha1.ReasonParentNotCompleted, Message: fmt.Sprintf("it builds on improvement %s, which does not exist in namespace %s yet", name, w.Namespace)}
	case parent.Status.Phase == dgmv1alpha1.PhaseCompleted && parent.Spec.Mode == dgmv1alpha1.ModeDryRun:
		return failed("which was a dry run and has changed nothing")
	case parent.Status.Phase == dgmv1alpha1.PhaseCompleted:
		return Lineage{}
	case parent.Status.Phase.IsTerminal():
		return failed(fmt.Sprintf("which has ended %s (%s)", parent.Status.Phase, CurrentStanding(parent).Reason))
	default:
		return Lineage{Reason: dgmv1alpha1.ReasonParentNotCompleted, Message: fmt.Sprintf("it builds on improvement %s, which is %s; it begins when that is Completed", name, phaseOf(parent))}
	}
}

func phaseOf(w *dgmv1alpha1.ImprovementWorkspace) dgmv1alpha1.Phase {
	if w.Status.Phase == "" {
		return dgmv1alpha1.PhasePending
	}
	return w.Status.Phase
}
