// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// announceFacts sends the events of what has happened in this pass, before it is
// in status: a pass that is cut off there is made again, and tells the same.
func (s *step) announceFacts(ctx context.Context) {
	s.announceTests(ctx)
	s.announceJudgement(ctx)
	s.announceApproval(ctx)
	for _, n := range s.notes {
		s.Events.Write(ctx, s.w, n.kind, n.reason, string(s.w.Status.Phase), n.message)
	}
	refused := apimeta.FindStatusCondition(s.w.Status.Conditions, dgmv1alpha1.ConditionRollbackRefused)
	if refused != nil && s.before.Status.LastHandled.Rollback != s.w.Status.LastHandled.Rollback {
		s.Events.Write(ctx, s.w, corev1.EventTypeWarning, dgmv1alpha1.ReasonRollbackRefused, "Rollback", refused.Message)
	}
	if was, is := lifecycle.CurrentStanding(s.before), lifecycle.CurrentStanding(s.w); !moved(s.before, s.w) && differ(was, is) && !s.createdSuspended() {
		s.announceStanding(ctx, was, is, false)
	}
}

// announceMove sends the event of another phase, once it is in status: what is
// only meant to be is not told. A crash in between is seen to by retell.
func (s *step) announceMove(ctx context.Context) {
	if was, is := lifecycle.CurrentStanding(s.before), lifecycle.CurrentStanding(s.w); moved(s.before, s.w) && differ(was, is) {
		s.announceStanding(ctx, was, is, true)
		s.told.Store(client.ObjectKeyFromObject(s.w), is)
	}
}

// retell sends the event of a phase that the database does not have yet, unless
// this process has: another one may have ended before it did.
func (s *step) retell(ctx context.Context) {
	key := client.ObjectKeyFromObject(s.before)
	synced := apimeta.FindStatusCondition(s.before.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	if synced == nil || synced.Reason != dgmv1alpha1.ReasonSyncPending {
		s.told.Delete(key)
		return
	}
	is := lifecycle.CurrentStanding(s.before)
	if told, found := s.told.Load(key); !found || told != is {
		s.announceStanding(ctx, is, is, true)
		s.told.Store(key, is)
	}
}

func differ(was, is lifecycle.Standing) bool { return was.Phase != is.Phase || was.Reason != is.Reason }

// announceStanding tells where an improvement stands; begins says that the phase
// does. The log has no values: a message may show those of a tenant.
func (s *step) announceStanding(ctx context.Context, was, is lifecycle.Standing, begins bool) {
	s.Events.Write(ctx, s.w, s.eventType(is, begins), is.Reason, string(is.Phase), is.Message)
	log.FromContext(ctx).Info("Improvement moved", "improvementID", s.w.Status.ImprovementID, "from", was.Phase, "phase", is.Phase, "reason", is.Reason)
}

// eventType is Warning for what should not be: a failure, what a person is needed
// for, and a rollback that nobody asked for. It follows from status alone, so that
// what is told again is the same.
func (s *step) eventType(is lifecycle.Standing, begins bool) string {
	why := s.w.Status.RollbackReason
	asked := strings.HasPrefix(why, commandedAbort) || strings.HasPrefix(why, commandedRollback) ||
		strings.HasPrefix(why, dgmv1alpha1.ReasonDeleted+": ") || lifecycle.WasTrial(s.w)
	unasked := begins && is.Phase == dgmv1alpha1.PhaseRollingBack && !asked
	if is.Phase == dgmv1alpha1.PhaseFailed || is.Stalled || is.Reason == dgmv1alpha1.ReasonPartlyRolledBack || unasked {
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

// note has an event sent before this pass's status is written.
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
