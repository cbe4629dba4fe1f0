// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// beginWatch is where a kept change begins to be watched, if it is.
func (s *step) beginWatch() {
	observing := lifecycle.ObservingOf(s.w)
	if observing.Watch > 0 && s.w.Status.KeptAt != nil {
		until := analysis.CandidateStart(s.w.Status.KeptAt.Time, observing.Watch, observing.Interval)
		s.w.Status.Observation.WatchUntil = &metav1.Time{Time: until.UTC()}
	}
}

// watch compares each window after a kept change with the baseline. A Fail rolls
// back; what is undecided never does. done says that this was this pass's step.
// The row of a completed improvement is final (P11): what is compared shows in
// status only when it ends in a rollback. The windows lie on the interval's grid,
// so that what is kept within an interval asks the same.
func (s *step) watch(ctx context.Context) (standing lifecycle.Standing, done bool, err error) {
	observing, observation := lifecycle.ObservingOf(s.w), s.w.Status.Observation
	settle, now := analysis.Settle(observing.Interval), s.lookTime()
	begun, until := analysis.CandidateStart(s.w.Status.KeptAt.UTC(), 0, observing.Interval), observation.WatchUntil.UTC()
	window, windows, due, next := analysis.WatchWindow(begun, until, observing.Window, settle, now)
	if !due || (observation.Watched != nil && !observation.Watched.Time.Before(window.End)) {
		s.holdLook(now, true, nil)
		s.wakeAt(next)
		return lifecycle.Standing{}, false, nil
	}
	compared, known, err := s.compare(ctx, window, analysis.WatchTail(windows), window.End.Add(settle))
	if err == nil && known {
		known = s.measureMissed(begun, window, compared)
	}
	if s.holdLook(now, known, err); err != nil || !known {
		return lifecycle.Standing{}, false, err
	}
	decision := lifecycle.DecideWatch(s.w, outcomesOf(compared, window))
	if stored, err := s.recordWatched(ctx, compared, decision.Next); err != nil || !stored {
		return lifecycle.Standing{}, false, err
	}
	observation.Watched = &metav1.MicroTime{Time: window.End.UTC()}
	if decision.Next != lifecycle.NextKeep {
		standing, err = s.endWatch(ctx, window, compared, decision)
		return standing, true, err
	}
	if !window.End.Before(until) {
		plan, err := s.loadSnapshot(ctx)
		if err != nil {
			return lifecycle.Standing{}, false, err
		}
		observation.WatchUntil = nil
		if standing := s.reviewKept(ctx, plan); standing.Stalled {
			return standing, true, nil
		}
		s.note(corev1.EventTypeNormal, dgmv1alpha1.ReasonWatchEnded, "the change was watched to the end and stays")
		return lifecycle.Standing{}, false, nil
	}
	s.wakeAt(next)
	return lifecycle.Standing{}, false, nil
}

// measureMissed adds, to the samples of a window of the watch, those of the
// windows that were missed before it. known is false while a source is asked.
func (s *step) measureMissed(begun time.Time, window analysis.Window, compared []measured) (known bool) {
	missed := analysis.Window{Start: begun, End: window.Start.Add(-time.Microsecond)} // what lies between two belongs to one
	if watched := s.w.Status.Observation.Watched; watched != nil {
		missed.Start = watched.UTC()
	}
	known = true
	for i := range compared {
		if !missed.Start.Before(missed.End) || compared[i].metric.Job != nil {
			continue
		}
		side, answered := s.measure(compared[i].metric, missed, window.End)
		known = known && answered
		if isAway(side) {
			compared[i].candidate.Problem = side.Problem
		}
		compared[i].candidate.Samples = append(side.Samples, compared[i].candidate.Samples...)
	}
	return known
}

// recordWatched stores the samples of a watch. stored is false while the database
// is away and nothing has failed: then all of it is compared and stored later.
func (s *step) recordWatched(ctx context.Context, compared []measured, next lifecycle.Next) (stored bool, err error) {
	if next == lifecycle.NextKeep && slices.ContainsFunc(compared, func(m measured) bool { return isAway(m.candidate) }) {
		s.recheckWithin(lifecycle.RecheckInterval)
		return false, nil
	}
	err = s.recordSide(ctx, sideWatch, compared, next)
	var waiting *pause
	if errors.As(err, &waiting) {
		s.recheckWithin(waiting.recheck)
		return false, nil
	}
	return true, err
}

// endWatch ends the watch of a change that has failed. One that waits for a command
// keeps the verdict and the reward by which it was kept: its row is final (P11).
func (s *step) endWatch(ctx context.Context, window analysis.Window, compared []measured, decision lifecycle.Decision) (lifecycle.Standing, error) {
	if decision.Next == lifecycle.NextAwaitCommand {
		s.w.Status.Observation.WatchUntil = nil
		return lifecycle.Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: decision.Reason, Message: decision.Message, Stalled: true}, nil
	}
	if err := s.addFinalizer(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	s.showComparison(window, compared)
	s.w.Status.Reward = analysis.RewardOf(verdictOf(compared), gainsOf(compared))
	s.w.Status.Observation.WatchUntil = nil
	standing := s.beginRollback(decision.Reason, decision.Message)
	standing.Reason = decision.Reason
	return standing, nil
}
