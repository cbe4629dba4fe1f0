// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/constitution"
)

// NeedsApproval reports whether a person has to agree before the changes are made.
// Without a verdict, no is no (P7).
func NeedsApproval(w *dgmv1alpha1.ImprovementWorkspace) bool {
	switch w.Spec.ApprovalPolicy() {
	case dgmv1alpha1.ApprovalAlways:
		return true
	case dgmv1alpha1.ApprovalNever:
		return false
	default:
		return w.Status.Compliance == nil || constitution.Level(w.Status.Compliance.Level).NeedsPerson()
	}
}

// Approval is what the annotations of an improvement say to its plan.
type Approval struct {
	// Given: the plan was agreed to.
	Given bool
	// By is who agreed.
	By string
	// Message says what is missing when it was not.
	Message string
}

// EvaluateApproval decides whether the annotations agree to a plan. One that was
// there when the attempt began does not count: nobody could have meant this plan.
func EvaluateApproval(w *dgmv1alpha1.ImprovementWorkspace, planDigest string) Approval {
	said := w.Annotations[dgmv1alpha1.AnnotationApprove]
	by := w.Annotations[dgmv1alpha1.AnnotationApprovedBy]
	wanted := "waiting for approval of the plan " + planDigest
	switch {
	case said == "":
		return Approval{Message: wanted + ": " + approveCommand(w, planDigest)}
	case approveToken(w) == w.Status.LastHandled.Approve:
		return Approval{Message: fmt.Sprintf("%s: the annotation %s was there when this attempt began, and does not count; take it off and set it again: kubectl annotate improvement %s --namespace=%s %s- && sleep 2 && %s",
			wanted, dgmv1alpha1.AnnotationApprove, w.Name, w.Namespace, dgmv1alpha1.AnnotationApprove, approveCommand(w, planDigest))}
	case said != planDigest:
		return Approval{Message: fmt.Sprintf("%s: %s approves another one, %s: %s", wanted, by, cutEncoded(said, 80, mark), approveCommand(w, planDigest))}
	case by == "":
		return Approval{Message: fmt.Sprintf("%s: the annotation %s does not say who approves it: %s", wanted, dgmv1alpha1.AnnotationApprovedBy, approveCommand(w, planDigest))}
	default:
		return Approval{Given: true, By: by}
	}
}

// approveCommand is what a person who may approve types.
func approveCommand(w *dgmv1alpha1.ImprovementWorkspace, planDigest string) string {
	return fmt.Sprintf("kubectl annotate improvement %s --namespace=%s --overwrite %s=%s %s=\"$(kubectl auth whoami -o jsonpath='{.status.userInfo.username}')\"",
		w.Name, w.Namespace, dgmv1alpha1.AnnotationApprove, planDigest, dgmv1alpha1.AnnotationApprovedBy)
}

// ForgetEarlierApproval forgets the approval that was there when the attempt began,
// once it is not there any more: the same value again is a new one.
func ForgetEarlierApproval(w *dgmv1alpha1.ImprovementWorkspace) {
	if earlier := w.Status.LastHandled.Approve; earlier != "" && approveToken(w) != earlier {
		w.Status.LastHandled.Approve = ""
	}
}
