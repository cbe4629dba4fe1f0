// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// MaxMessage bounds, in bytes of JSON, each message that goes into status.
const MaxMessage = 1024

// Standing is where an improvement stands and why.
type Standing struct {
	Phase   dgmv1alpha1.Phase
	Reason  string
	Message string
	// Stalled: a person is needed. A failed improvement is stalled always.
	Stalled bool
}

// SetStanding writes the phase and every condition that follows from where an
// improvement stands, by the rules of kstatus: of Reconciling and Stalled at
// most one is True. It bounds the status to MaxStatus: all but DatabaseSynced
// is to be set before.
func SetStanding(w *dgmv1alpha1.ImprovementWorkspace, s Standing) {
	stalled := s.Stalled || s.Phase == dgmv1alpha1.PhaseFailed
	terminal := s.Phase.IsTerminal()
	message := cutEncoded(s.Message, MaxMessage, mark)

	w.Status.Phase = s.Phase
	w.Status.ObservedGeneration = w.Generation
	set := func(conditionType string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{
			Type: conditionType, Status: status, Reason: reason, Message: message, ObservedGeneration: w.Generation,
		})
	}
	set(dgmv1alpha1.ConditionReady, truth(terminal && !stalled), s.Reason, message)
	set(dgmv1alpha1.ConditionReconciling, truth(!terminal && !stalled), s.Reason, whenTrue(!terminal && !stalled, message))
	set(dgmv1alpha1.ConditionStalled, truth(stalled), s.Reason, whenTrue(stalled, message))
	set(dgmv1alpha1.ConditionFinished, truth(terminal), s.Reason, fmt.Sprintf("the phase is %s", s.Phase))
	succeeded := metav1.ConditionUnknown
	if terminal {
		succeeded = truth(s.Phase == dgmv1alpha1.PhaseCompleted)
	}
	set(dgmv1alpha1.ConditionSucceeded, succeeded, s.Reason, fmt.Sprintf("the phase is %s", s.Phase))
	fitStatus(&w.Status)
}

// CurrentStanding reads where an improvement stands back from its status.
func CurrentStanding(w *dgmv1alpha1.ImprovementWorkspace) Standing {
	s := Standing{Phase: w.Status.Phase, Reason: dgmv1alpha1.ReasonAccepted}
	if ready := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReady); ready != nil {
		s.Reason, s.Message = ready.Reason, ready.Message
	}
	s.Stalled = meta.IsStatusConditionTrue(w.Status.Conditions, dgmv1alpha1.ConditionStalled)
	return s
}

// SetDatabaseSynced writes the condition DatabaseSynced.
func SetDatabaseSynced(conditions *[]metav1.Condition, generation int64, synced bool, reason, message string) {
	meta.SetStatusCondition(conditions, metav1.Condition{
		Type: dgmv1alpha1.ConditionDatabaseSynced, Status: truth(synced), Reason: reason,
		Message: cutEncoded(message, maxSyncedMessage, mark), ObservedGeneration: generation,
	})
}

func truth(b bool) metav1.ConditionStatus {
	if b {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func whenTrue(b bool, message string) string {
	if b {
		return message
	}
	return ""
}
