// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// IsHeld reports whether the comparison is over for now and a person decides.
func IsHeld(w *dgmv1alpha1.ImprovementWorkspace) bool {
	standing := CurrentStanding(w)
	return w.Status.Phase == dgmv1alpha1.PhaseObserving && standing.Stalled &&
		(standing.Reason == dgmv1alpha1.ReasonMetricRegressed || standing.Reason == dgmv1alpha1.ReasonMetricsUndecided)
}

// Keeping is what a keep command comes to.
type Keeping struct {
	// By is who keeps the change.
	By string
	// Refusal says why it does not count; empty when it does.
	Refusal string
}

// EvaluateKeep decides whether a keep command counts. Who gave it, and whether
// they may, was checked at admission.
func EvaluateKeep(w *dgmv1alpha1.ImprovementWorkspace) Keeping {
	by := w.Annotations[dgmv1alpha1.AnnotationKeptBy]
	switch {
	case !IsHeld(w):
		return Keeping{Refusal: "its metrics are still compared, and nothing waits for a person; command it again if it is held"}
	case w.Spec.OnSuccess == dgmv1alpha1.OnSuccessRevert:
		return Keeping{Refusal: "it is a trial (onSuccess: Revert), which is put back in any case: " + rollbackCommand(w)}
	case by == "":
		return Keeping{Refusal: fmt.Sprintf("the annotation %s does not say who keeps it: %s", dgmv1alpha1.AnnotationKeptBy, keepCommand(w))}
	default:
		return Keeping{By: by}
	}
}

// keepCommand is what a person types who may approve.
func keepCommand(w *dgmv1alpha1.ImprovementWorkspace) string {
	return fmt.Sprintf("kubectl annotate improvement %s --namespace=%s --overwrite %s=TOKEN %s=\"$(kubectl auth whoami -o jsonpath='{.status.userInfo.username}')\"",
		w.Name, w.Namespace, dgmv1alpha1.AnnotationKeep, dgmv1alpha1.AnnotationKeptBy)
}

// rollbackCommand is what a person types who may edit improvements.
func rollbackCommand(w *dgmv1alpha1.ImprovementWorkspace) string {
	return fmt.Sprintf("kubectl annotate improvement %s --namespace=%s --overwrite %s=TOKEN", w.Name, w.Namespace, dgmv1alpha1.AnnotationRollback)
}

// choices are the commands that end what is held.
func choices(w *dgmv1alpha1.ImprovementWorkspace) string {
	back := "to put the state before back: " + rollbackCommand(w)
	if w.Status.Phase != dgmv1alpha1.PhaseObserving || w.Spec.OnSuccess == dgmv1alpha1.OnSuccessRevert {
		return back
	}
	return back + "; to keep it, as who may approve: " + keepCommand(w)
}
