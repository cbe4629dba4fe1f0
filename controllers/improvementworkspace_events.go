// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// announce sends an event for what has changed, once, after it is in status. The
// log has no values: a message may show those of a tenant.
func (s *step) announce(ctx context.Context) {
	// What led there comes first.
	s.announceTests()
	s.announceJudgement()
	s.announceApproval()
	was, is := lifecycle.CurrentStanding(s.before), lifecycle.CurrentStanding(s.w)
	if (is.Phase != was.Phase || is.Reason != was.Reason) && !s.createdSuspended() {
		s.Recorder.Eventf(s.w, nil, s.eventType(is), is.Reason, string(is.Phase), "%s", cutMessage(is.Message))
		log.FromContext(ctx).Info("Improvement moved", "improvementID", s.w.Status.ImprovementID, "from", was.Phase, "phase", is.Phase, "reason", is.Reason)
	}
	for _, n := range s.notes {
		s.Recorder.Eventf(s.w, nil, n.kind, n.reason, string(is.Phase), "%s", cutMessage(n.message))
	}
	refused := apimeta.FindStatusCondition(s.w.Status.Conditions, dgmv1alpha1.ConditionRollbackRefused)
	if refused != nil && s.before.Status.LastHandled.Rollback != s.w.Status.LastHandled.Rollback {
		s.Recorder.Eventf(s.w, nil, corev1.EventTypeWarning, dgmv1alpha1.ReasonRollbackRefused, "Rollback", "%s", refused.Message)
	}
}

// eventType is Warning for what should not be: a failure, what a person is needed
// for, and a rollback that nobody asked for.
func (s *step) eventType(is lifecycle.Standing) string {
	asked := s.before.Status.LastHandled != s.w.Status.LastHandled || lifecycle.WasTrial(s.w) || !s.w.DeletionTimestamp.IsZero()
	began := is.Phase == dgmv1alpha1.PhaseRollingBack && s.before.Status.Phase != dgmv1alpha1.PhaseRollingBack
	if is.Phase == dgmv1alpha1.PhaseFailed || is.Stalled || is.Reason == dgmv1alpha1.ReasonPartlyRolledBack || (began && !asked) {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

// createdSuspended reports that it begins by waiting, as its author wants: that
// is no news, and an event for each of thousands would cost as much as the status.
func (s *step) createdSuspended() bool {
	return s.before.Status.Phase == "" && lifecycle.CurrentStanding(s.w).Reason == dgmv1alpha1.ReasonSuspended
}

// note is an event besides those that follow from the phase.
type note struct{ kind, reason, message string }

// note has an event sent when this pass's status is written.
func (s *step) note(kind, reason, message string) {
	s.notes = append(s.notes, note{kind, reason, message})
}

func (s *step) recheckWithin(d time.Duration) {
	if s.recheck == 0 || s.recheck > d {
		s.recheck = d
	}
}

// maxEventMessage is what the events API accepts.
const maxEventMessage = 1024

func cutMessage(message string) string { return cutTo(message, maxEventMessage) }

// cutTo shortens s to at most n bytes without breaking a character, and shows
// that it did.
func cutTo(s string, n int) string {
	const mark = " …"
	if len(s) <= n {
		return s
	}
	end := n - len(mark)
	for end > 0 && s[end]&0xC0 == 0x80 {
		end--
	}
	return s[:end] + mark
}
