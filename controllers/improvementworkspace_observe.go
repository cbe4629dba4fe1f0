// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// beginObserving is where the metrics after the change begin to be compared.
func (s *step) beginObserving() lifecycle.Standing {
	observing := lifecycle.ObservingOf(s.w)
	start := analysis.CandidateStart(s.Clock.Now(), observing.Warmup, observing.Interval)
	if s.w.Status.Observation == nil {
		s.w.Status.Observation = &dgmv1alpha1.ObservationStatus{}
	}
	s.w.Status.Observation.WindowStart = &metav1.MicroTime{Time: start.UTC()}
	end := start.Add(observing.Window)
	return lifecycle.Standing{
		Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonObserving,
		Message: fmt.Sprintf("the metrics from %s to %s are compared with those before the change; what they do not tell is decided at %s",
			start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339), end.Add(observing.Deadline).UTC().Format(time.RFC3339)),
	}
}

// reconcileObserving compares the metrics after the change with those before.
func (s *step) reconcileObserving(ctx context.Context) (lifecycle.Standing, error) {
	s.hold(s.w)
	standing := lifecycle.CurrentStanding(s.w)
	if s.w.Status.Observation == nil || s.w.Status.Observation.WindowStart == nil {
		return s.beginObserving(), nil
	}
	if standing.Stalled && standing.Reason == dgmv1alpha1.ReasonMetricRegressed {
		return standing, nil // rollback.policy is Manual: a command is awaited
	}
	observing := lifecycle.ObservingOf(s.w)
	settle, now := analysis.Settle(observing.Interval), s.lookTime()
	look, due, next := analysis.LookAt(s.w.Status.Observation.WindowStart.UTC(), observing.Window, observing.Deadline, settle, now)
	if !due {
		s.holdLook(now, true, nil)
		s.wakeAt(next)
		return standing, nil
	}
	asked := lastAsking(look.Window.End.Add(settle), observing.Window, now)
	looks := s.looksBefore(look.Window)
	compared, known, err := s.compare(ctx, look.Window, analysis.LookTail(int(looks)), asked)
	if s.holdLook(now, known, err); err != nil || !known {
		return standing, err
	}
	s.wakeAt(next)
	if verdictOf(compared) == dgmv1alpha1.VerdictNoData {
		s.wakeAt(asked.Add(askAgain(observing.Window)))
	}
	decision := lifecycle.DecideObservation(s.w, outcomesOf(compared, look.Window), look.Final)
	standing, err = s.follow(ctx, look, compared, decision)
	if end := s.w.Status.Observation.WindowEnd; err == nil && end != nil && end.Time.Equal(look.Window.End) {
		s.w.Status.Observation.Looks = looks
	}
	return standing, err
}

// looksBefore is how many windows before this one had data. Those without spend
// nothing of the error that is allowed.
func (s *step) looksBefore(window analysis.Window) int32 {
	observation := s.w.Status.Observation
	if observation.WindowEnd == nil || observation.WindowEnd.Time.Equal(window.End) {
		return observation.Looks
	}
	for _, m := range s.w.Status.Metrics {
		if m.Verdict != dgmv1alpha1.VerdictNoData {
			return observation.Looks + 1
		}
	}
	return observation.Looks
}

// askAgain is how long after an answer without data the same is asked again.
func askAgain(window time.Duration) time.Duration {
	return min(max(window/2, 2*time.Second), time.Minute)
}

// lastAsking is the last time at which what had no data was to be asked again;
// it is the same for all who ask the same.
func lastAsking(first time.Time, window time.Duration, now time.Time) time.Time {
	return first.Add(now.Sub(first).Truncate(askAgain(window)))
}

// lookTime is now or, while sources are being asked, when that began: one that
// takes longer than a turn would else be asked again and again, and never heard.
func (s *step) lookTime() time.Time {
	if began, found := s.looking.Load(client.ObjectKeyFromObject(s.w)); found {
		return began.(time.Time) //nolint:forcetypeassert // nothing else is stored
	}
	return s.Clock.Now()
}

// holdLook keeps the time of a look until all of its answers are known. They wake
// the improvement.
func (s *step) holdLook(now time.Time, known bool, err error) {
	if known || err != nil {
		s.looking.Delete(client.ObjectKeyFromObject(s.w))
		return
	}
	s.looking.Store(client.ObjectKeyFromObject(s.w), now)
	s.recheckWithin(lifecycle.FallbackInterval)
}

// measured is a metric that was compared.
type measured struct {
	metric    *dgmv1alpha1.Metric
	criterion analysis.Criterion
	candidate analysis.Side
	// baseline are the samples before the change that were measured anew, since they
	// are not recorded.
	baseline analysis.Side
	analysis.Comparison
}

// compare compares every metric in a window with the baseline. known is false
// while a source is being asked; until then nothing else is read.
func (s *step) compare(ctx context.Context, window analysis.Window, tail float64, notBefore time.Time) (compared []measured, known bool, err error) {
	candidates, known := s.measureAll(window, notBefore)
	if !known {
		return nil, false, nil
	}
	stored, err := s.storedBaseline(ctx)
	if err != nil {
		return nil, false, err
	}
	for i := range s.w.Spec.Metrics {
		metric := &s.w.Spec.Metrics[i]
		baseline, candidate, answered := s.sidesOf(ctx, metric, stored[metric.Name], candidates[i], notBefore)
		known = known && answered
		criterion := criterionOf(metric, tail)
		compared = append(compared, measured{metric: metric, criterion: criterion, candidate: candidate})
		if answered {
			compared[i].Comparison = analysis.Compare(criterion, baseline, candidate)
			if len(stored[metric.Name]) == 0 {
				compared[i].baseline = baseline
			}
		}
	}
	return compared, known, nil
}

// sidesOf are a metric's samples before and after the change. Those before are
// the recorded ones; without any, the source may still know them.
func (s *step) sidesOf(ctx context.Context, metric *dgmv1alpha1.Metric, stored []pgstore.Point, candidate analysis.Side, notBefore time.Time) (before, after analysis.Side, known bool) {
	switch {
	case metric.Job != nil:
		before, after = s.measureJob(ctx, metric)
		return before, after, true
	case s.w.Status.Observation.BaselineEnd == nil:
		return analysis.Side{Problem: "nothing was measured"}, candidate, true
	}
	if recorded := analysis.SideOf(samplesOf(stored), s.baselineWindow(), ""); len(recorded.Samples) > 0 {
		return recorded, candidate, true
	}
	before, known = s.measure(metric, s.baselineWindow(), notBefore)
	return before, candidate, known
}

func criterionOf(metric *dgmv1alpha1.Metric, tail float64) analysis.Criterion {
	return analysis.Criterion{
		Direction: metric.Direction, MaxRegression: decimal(strings.TrimSuffix(metric.MaxRegression, "%")) / 100,
		MinSamples: int(max(2, metric.MinSamples)), Tail: tail,
	}
}

// decimal reads what the CRD has checked.
func decimal(text string) float64 {
	value, _ := strconv.ParseFloat(text, 64)
	return value
}

func outcomesOf(compared []measured, window analysis.Window) []lifecycle.Outcome {
	outcomes := make([]lifecycle.Outcome, len(compared))
	for i, m := range compared {
		outcomes[i] = lifecycle.Outcome{
			Metric: m.metric, Verdict: m.Verdict,
			Text: m.Describe(m.metric.Name, m.metric.Unit, m.criterion, window.End.Sub(window.Start)),
		}
	}
	return outcomes
}

func verdictOf(compared []measured) dgmv1alpha1.Verdict {
	verdicts := make([]dgmv1alpha1.Verdict, len(compared))
	for i, m := range compared {
		verdicts[i] = m.Verdict
	}
	return analysis.Worst(verdicts...)
}

// follow records what was measured and does what was decided.
func (s *step) follow(ctx context.Context, look analysis.Look, compared []measured, decision lifecycle.Decision) (lifecycle.Standing, error) {
	standing := lifecycle.CurrentStanding(s.w)
	ends := decision.Next != lifecycle.NextWait && decision.Next != lifecycle.NextHold
	var plan snapshot.Plan
	if !ends || decision.Next == lifecycle.NextKeep {
		var err error
		if plan, err = s.loadSnapshot(ctx); err != nil {
			return lifecycle.Standing{}, err
		}
	}
	if !ends {
		if lost, err := s.reviewObserved(ctx, plan); err != nil {
			return lifecycle.Standing{}, err
		} else if lost != nil {
			return s.beginRollback(lost.reason, lost.message), nil
		}
		if !s.isNews(look.Window, compared, decision) {
			return standing, nil
		}
	}
	if err := s.recordSide(ctx, sideCandidate, compared, decision.Next); err != nil {
		return lifecycle.Standing{}, err
	}
	s.showComparison(look.Window, compared)
	if ends {
		s.w.Status.Reward = analysis.RewardOf(verdictOf(compared), gainsOf(compared))
		s.wake = 0
	}
	switch decision.Next {
	case lifecycle.NextKeep:
		standing, err := s.keep(ctx, plan, "changed "+plan.Summary(maxSummary)+"; "+decision.Message)
		if err != nil || standing.Phase != dgmv1alpha1.PhaseCompleted {
			s.w.Status.Reward = "" // it was not this change that was measured
			return standing, err
		}
		s.beginWatch()
		return standing, nil
	case lifecycle.NextRevert, lifecycle.NextRollBack:
		standing = s.beginRollback(decision.Reason, decision.Message)
		standing.Reason = decision.Reason
		return standing, nil
	case lifecycle.NextHold, lifecycle.NextAwaitCommand:
		standing.Stalled = true
	case lifecycle.NextWait:
		standing.Stalled = false
	}
	standing.Reason, standing.Message = decision.Reason, decision.Message
	return standing, nil
}

// isNews tells a comparison that is worth a write (P12): of another window, with
// another verdict, or with another consequence.
func (s *step) isNews(window analysis.Window, compared []measured, decision lifecycle.Decision) bool {
	end := s.w.Status.Observation.WindowEnd
	if end == nil || !end.Time.Equal(window.End) || lifecycle.CurrentStanding(s.w).Reason != decision.Reason {
		return true
	}
	for _, m := range compared {
		if status := s.metricStatus(m.metric.Name); status == nil || status.Verdict != m.Verdict {
			return true
		}
	}
	return false
}

func (s *step) metricStatus(name string) *dgmv1alpha1.MetricStatus {
	for i := range s.w.Status.Metrics {
		if s.w.Status.Metrics[i].Name == name {
			return &s.w.Status.Metrics[i]
		}
	}
	return nil
}

// recordSide stores the samples of a window. A rollback does not wait for the
// database (P10): its samples are kept in the outbox. What waits is compared
// again later.
func (s *step) recordSide(ctx context.Context, side string, compared []measured, next lifecycle.Next) error {
	var all []sampleSeries
	var rows []pgstore.Sample
	for _, m := range compared {
		for _, series := range []sampleSeries{s.series(m.metric, side, m.candidate.Samples), s.series(m.metric, sideBaseline, m.baseline.Samples)} {
			if len(series.Samples) > 0 {
				all, rows = append(all, series), append(rows, series.rows()...)
			}
		}
	}
	err := s.record(ctx, rows)
	if !errors.Is(err, pgstore.ErrUnavailable) {
		return err
	}
	switch next {
	case lifecycle.NextKeep, lifecycle.NextRevert:
		return &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "the metrics are compared, and cannot be stored yet: " + s.databaseReason(err),
		}
	default: // what comes next need not look at them again
		return s.Outbox.PutSamples(ctx, all)
	}
}

// showComparison writes a comparison into status.
func (s *step) showComparison(window analysis.Window, compared []measured) {
	s.w.Status.Observation.WindowStart = &metav1.MicroTime{Time: window.Start.UTC()}
	s.w.Status.Observation.WindowEnd = &metav1.MicroTime{Time: window.End.UTC()}
	s.w.Status.Metrics = make([]dgmv1alpha1.MetricStatus, len(compared))
	for i, m := range compared {
		gain := ""
		if percent, ok := m.Gain(); ok {
			gain = analysis.FormatPercent(percent)
		}
		s.w.Status.Metrics[i] = dgmv1alpha1.MetricStatus{
			Name: m.metric.Name, Verdict: m.Verdict, Gain: gain, Interval: m.Interval(m.criterion.Direction),
			Baseline: analysis.FormatValue(m.Baseline), Candidate: analysis.FormatValue(m.Candidate),
			BaselineSamples: int32(m.BaselineSamples), CandidateSamples: int32(m.CandidateSamples), //nolint:gosec // at most some ten thousand
		}
	}
	s.w.Status.Verdict = verdictOf(compared)
	s.w.Status.Gain = ""
	if total, ok := analysis.TotalGain(gainsOf(compared)); ok {
		s.w.Status.Gain = analysis.FormatPercent(total)
	}
}

func gainsOf(compared []measured) []analysis.Weighted {
	var gains []analysis.Weighted
	for _, m := range compared {
		if percent, ok := m.Gain(); ok {
			gains = append(gains, analysis.Weighted{Gain: percent, Weight: weightOf(m.metric)})
		}
	}
	return gains
}

func weightOf(metric *dgmv1alpha1.Metric) float64 {
	if metric.Weight == "" {
		return 1
	}
	return decimal(metric.Weight)
}
