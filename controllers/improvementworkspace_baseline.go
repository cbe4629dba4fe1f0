// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// measureBaseline measures and records the metrics before the first change. done
// says that there is nothing left to do. The end of the window is in status
// before anything is asked, so that it is the same after a crash.
func (s *step) measureBaseline(ctx context.Context, plan snapshot.Plan) (standing lifecycle.Standing, done bool, err error) {
	if len(s.w.Spec.Metrics) == 0 || len(s.w.Status.Metrics) > 0 {
		return lifecycle.Standing{}, true, nil
	}
	observing := lifecycle.ObservingOf(s.w)
	if s.w.Status.Observation == nil {
		if err := s.checkMetricSources(); err != nil {
			return lifecycle.Standing{}, false, err
		}
		window := analysis.BaselineWindow(s.Clock.Now(), observing.Window, observing.Interval)
		s.w.Status.Observation = &dgmv1alpha1.ObservationStatus{BaselineEnd: &metav1.MicroTime{Time: window.End.UTC()}}
		return lifecycle.Standing{
			Phase: dgmv1alpha1.PhaseApplying, Reason: dgmv1alpha1.ReasonApplying,
			Message: fmt.Sprintf("the metrics of the %s before the change are recorded first", dgmv1alpha1.FormatDuration(observing.Window)),
		}, false, nil
	}
	if err := s.Store.Ready(); err != nil {
		return lifecycle.Standing{}, false, s.baselineWaits(err)
	}
	sides, known := s.measureBefore(ctx, s.baselineWindow())
	if !known {
		s.recheck = lifecycle.FallbackInterval
		return lifecycle.CurrentStanding(s.w), false, nil
	}
	if slices.ContainsFunc(sides, isAway) {
		return lifecycle.Standing{}, false, s.baselineWaits(errDatabaseAway)
	}
	if err := s.recordBaseline(ctx, sides); err != nil {
		return lifecycle.Standing{}, false, err
	}
	return lifecycle.Standing{
		Phase: dgmv1alpha1.PhaseApplying, Reason: dgmv1alpha1.ReasonApplying, Message: "changing " + plan.Summary(maxSummary),
	}, false, nil
}

// baselineWindow is the window before the change, whose end is in status.
func (s *step) baselineWindow() analysis.Window {
	end := s.w.Status.Observation.BaselineEnd.UTC()
	return analysis.Window{Start: end.Add(-lifecycle.ObservingOf(s.w).Window), End: end}
}

// baselineIsStale reports whether the change has waited for long since the metrics
// before it were measured.
func (s *step) baselineIsStale() bool {
	observation := s.w.Status.Observation
	return observation != nil && observation.BaselineEnd != nil && s.baselineWindow().IsStale(s.Clock.Now())
}

// measureBefore asks for every metric's samples before the change. known is
// false while a source is being asked.
func (s *step) measureBefore(ctx context.Context, window analysis.Window) (sides []analysis.Side, known bool) {
	if sides, known = s.measureAll(window, window.End); !known {
		return nil, false
	}
	for i := range s.w.Spec.Metrics {
		if metric := &s.w.Spec.Metrics[i]; metric.Job != nil {
			sides[i], _ = s.measureJob(ctx, metric)
		}
	}
	return sides, true
}

// recordBaseline stores the samples before the change, and says early which
// metrics have too few: they will have no verdict.
func (s *step) recordBaseline(ctx context.Context, sides []analysis.Side) error {
	var rows []pgstore.Sample
	var statuses []dgmv1alpha1.MetricStatus
	var missing []string
	for i, side := range sides {
		metric := &s.w.Spec.Metrics[i]
		rows = append(rows, s.series(metric, sideBaseline, side.Samples).rows()...)
		compared := analysis.Compare(criterionOf(metric, analysis.LookTail(0)), side, side)
		statuses = append(statuses, dgmv1alpha1.MetricStatus{
			Name: metric.Name, Baseline: analysis.FormatValue(compared.Baseline), BaselineSamples: count(side.Samples),
		})
		if compared.Problem != "" {
			missing = append(missing, metric.Name+" "+compared.Problem)
		}
	}
	if err := s.record(ctx, rows); errors.Is(err, pgstore.ErrUnavailable) {
		return s.baselineWaits(err)
	} else if err != nil {
		return err
	}
	s.w.Status.Metrics = statuses
	if len(missing) > 0 {
		s.note(corev1.EventTypeWarning, dgmv1alpha1.ReasonBaselineMissing,
			"without data a metric has no verdict, and its onNoData follows at the deadline: "+strings.Join(missing, "; "))
	}
	return nil
}

func (s *step) baselineWaits(err error) error {
	return &pause{
		reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
		message: "the change begins when the metrics before it can be stored: " + s.databaseReason(err),
	}
}

func count(samples []analysis.Sample) int32 {
	return int32(len(samples)) //nolint:gosec // at most some ten thousand
}
