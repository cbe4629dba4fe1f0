// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/sandbox"
)

// Sides of a comparison, as samples are tagged in the database.
const (
	sideBaseline  = "baseline"
	sideCandidate = "candidate"
	sideWatch     = "watch"
)

func sideTags(side string) json.RawMessage {
	return mustJSON(map[string]string{"side": side})
}

// checkMetricSources holds an improvement that names a metric source which the
// operator does not have: nothing is applied that could not be judged (P7).
func (s *step) checkMetricSources() error {
	for _, metric := range s.w.Spec.Metrics {
		if metric.Prometheus == nil {
			continue
		}
		if err := s.MetricServers.Check(sourceName(metric.Prometheus)); err != nil {
			return &pause{
				reason: dgmv1alpha1.ReasonMetricSourceUnknown, recheck: lifecycle.RecheckInterval,
				message: fmt.Sprintf("metric %s: %v", metric.Name, err),
			}
		}
	}
	return nil
}

func sourceName(p *dgmv1alpha1.PrometheusSource) string { return cmp.Or(p.Source, "default") }

// measure asks for a metric's samples of a window, as they were at that time or
// later. known is false while the source is being asked; it wakes the
// improvement when it has answered.
func (s *step) measure(metric *dgmv1alpha1.Metric, window analysis.Window, notBefore time.Time) (side analysis.Side, known bool) {
	question := analysis.Question{Start: window.Start.UnixNano(), End: window.End.UnixNano()}
	var source analysis.Source
	switch {
	case metric.Prometheus != nil:
		name := sourceName(metric.Prometheus)
		question.Source, question.Query = "prometheus/"+name, metric.Prometheus.Query
		question.Step = analysis.Step(window.End.Sub(window.Start), lifecycle.ObservingOf(s.w).Interval)
		source = s.MetricServers.Source(name)
	case metric.Database != nil:
		series := pgstore.SampleSeries{
			Service: s.w.Spec.Target.Service, Type: metric.Type, Name: cmp.Or(metric.Database.MetricName, metric.Name), Tags: tagsOf(metric.Database.Tags),
		}
		question.Source, question.Query = "database", string(mustJSON(series))
		source = databaseSource(s.Store, series)
	default:
		return analysis.Side{Problem: "the metric has no source"}, true
	}
	key := client.ObjectKeyFromObject(s.w)
	answer, known := s.Answers.Ask(question, source, notBefore, key.String(), s.wakeOf(key))
	if known && answer.Problem == errDatabaseAway.Error() && s.Store.Ready() == nil {
		s.wakeAt(s.Clock.Now().Add(awayFor))
		answer, known = s.Answers.Ask(question, source, later(s.Clock.Now().Add(-awayFor), notBefore), key.String(), s.wakeOf(key))
	}
	if !known {
		return analysis.Side{}, false
	}
	return analysis.SideOf(answer.Samples, window, answer.Problem), true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// measureAll is measure for every metric, but for those of tests, which are not
// asked for.
func (s *step) measureAll(window analysis.Window, notBefore time.Time) (sides []analysis.Side, known bool) {
	sides, known = make([]analysis.Side, len(s.w.Spec.Metrics)), true
	for i := range s.w.Spec.Metrics {
		metric := &s.w.Spec.Metrics[i]
		if metric.Job != nil {
			continue
		}
		var answered bool
		sides[i], answered = s.measure(metric, window, notBefore)
		known = known && answered
	}
	return sides, known
}

func (r *ImprovementWorkspaceReconciler) wakeOf(key types.NamespacedName) func() {
	return func() { r.Enqueue(context.Background(), key) }
}

func tagsOf(tags map[string]dgmv1alpha1.TagValue) map[string]string {
	if len(tags) == 0 {
		return nil
	}
	out := make(map[string]string, len(tags))
	for key, value := range tags {
		out[key] = string(value)
	}
	return out
}

// errDatabaseAway is the answer of a source that could not be asked.
var errDatabaseAway = errors.New("the database is away")

// awayFor is for how long a database that is back is still taken to be away.
const awayFor = 2 * time.Second

func isAway(side analysis.Side) bool { return side.Problem == errDatabaseAway.Error() }

func databaseSource(store *pgstore.Store, series pgstore.SampleSeries) analysis.Source {
	return func(ctx context.Context, q analysis.Question) ([]analysis.Sample, error) {
		points, err := store.ServiceSamples(ctx, series, q.Window().Start, q.Window().End)
		if errors.Is(err, pgstore.ErrUnavailable) {
			return nil, errDatabaseAway
		}
		return samplesOf(points), err
	}
}

func samplesOf(points []pgstore.Point) []analysis.Sample {
	samples := make([]analysis.Sample, len(points))
	for i, point := range points {
		samples[i] = analysis.Sample{At: point.At, Value: point.Value}
	}
	return samples
}

// measureJob reads both sides of a metric from the stored results of a test.
func (s *step) measureJob(ctx context.Context, metric *dgmv1alpha1.Metric) (baseline, candidate analysis.Side) {
	results, ended, err := s.testResults(ctx, metric.Job.Test)
	if err == nil {
		var before, after []analysis.Sample
		if before, after, err = analysis.JobSamples(results, cmp.Or(metric.Job.Key, metric.Name), ended); err == nil {
			return analysis.JobSide(before), analysis.JobSide(after)
		}
	}
	problem := analysis.Side{Problem: fmt.Sprintf("test %s: %v", metric.Job.Test, err)}
	return problem, problem
}

// testResults are the stored results of a test, and when it ended.
func (s *step) testResults(ctx context.Context, test string) (json.RawMessage, time.Time, error) {
	stored, err := s.Store.TestResults(ctx, parseID(s.w.Status.ImprovementID).UUID)
	switch {
	case errors.Is(err, pgstore.ErrUnavailable):
		return nil, time.Time{}, errors.New("the database, which has its results, is away")
	case err != nil:
		return nil, time.Time{}, err
	}
	results, err := resultsOf(stored, test)
	ended := s.w.Status.StartedAt
	for i := range s.w.Status.Tests {
		if s.w.Status.Tests[i].Name == test && s.w.Status.Tests[i].EndedAt != nil {
			ended = s.w.Status.Tests[i].EndedAt
		}
	}
	if ended == nil {
		return results, s.Clock.Now(), err
	}
	return results, ended.UTC(), err
}

// resultsOf finds what a test has written in improvement_workspaces.test_results.
func resultsOf(stored json.RawMessage, test string) (json.RawMessage, error) {
	var document sandbox.Record
	if err := json.Unmarshal(stored, &document); err != nil {
		return nil, fmt.Errorf("what is stored of the tests cannot be read: %w", err)
	}
	found, ok := document.Tests[test]
	switch {
	case !ok:
		return nil, errors.New("nothing is stored of it")
	case len(found.Results) == 0:
		return nil, fmt.Errorf("it has no results: it must write a JSON object of at most %d bytes to its termination message%s", sandbox.MaxResults, wrote(found.Message))
	default:
		return found.Results, nil
	}
}

// wrote shows the beginning of what is no JSON object, or too much.
func wrote(message string) string {
	if message == "" {
		return ", and wrote nothing"
	}
	const shown = 64
	return ", and wrote " + strconv.Quote(cutTo(message, shown))
}

// sampleSeries are the samples of a side of a metric.
type sampleSeries struct {
	ImprovementID uuid.UUID         `json:"improvementID"`
	Object        pgstore.Object    `json:"object"`
	Service       string            `json:"service"`
	Metric        string            `json:"metric"`
	Type          string            `json:"type"`
	Unit          string            `json:"unit,omitempty"`
	Side          string            `json:"side"`
	Samples       []analysis.Sample `json:"samples"`
}

func (s *step) series(metric *dgmv1alpha1.Metric, side string, samples []analysis.Sample) sampleSeries {
	return sampleSeries{
		ImprovementID: parseID(s.w.Status.ImprovementID).UUID,
		Object:        pgstore.Object{Namespace: s.w.Namespace, Name: s.w.Name, UID: string(s.w.UID), Generation: s.w.Generation},
		Service:       s.w.Spec.Target.Service, Metric: metric.Name, Type: metric.Type, Unit: metric.Unit, Side: side, Samples: samples,
	}
}

// rows are the samples as rows of performance_metrics. Their ids follow from what
// they are, so that none is recorded twice.
func (s sampleSeries) rows() []pgstore.Sample {
	rows := make([]pgstore.Sample, 0, len(s.Samples))
	same := 0
	for i, sample := range s.Samples {
		at := sample.At.UTC().Truncate(time.Microsecond)
		if same++; i == 0 || !at.Equal(s.Samples[i-1].At.UTC().Truncate(time.Microsecond)) {
			same = 0
		}
		key := strings.Join([]string{s.Metric, s.Side, strconv.FormatInt(at.UnixMicro(), 10), strconv.Itoa(same)}, "\x00")
		rows = append(rows, pgstore.Sample{
			ID: uuid.NewSHA1(s.ImprovementID, []byte(key)), Name: s.Metric, Type: s.Type, Scope: "improvement",
			Value: strconv.FormatFloat(sample.Value, 'g', -1, 64), Unit: s.Unit, Service: s.Service,
			ImprovementID: uuid.NullUUID{UUID: s.ImprovementID, Valid: true}, Tags: sideTags(s.Side), Timestamp: at, Object: s.Object,
		})
	}
	return rows
}

// record stores samples. One that the database refuses is left out, and logged.
func (s *step) record(ctx context.Context, samples []pgstore.Sample) error {
	err := s.Store.RecordMetrics(ctx, samples)
	var rejected pgstore.RejectedSamples
	if errors.As(err, &rejected) {
		log.FromContext(ctx).Error(err, "Samples were left out", "improvementID", s.w.Status.ImprovementID)
		return nil
	}
	return err
}

// storedBaseline are the samples that were recorded before the change, by metric.
func (s *step) storedBaseline(ctx context.Context) (map[string][]pgstore.Point, error) {
	points, err := s.Store.ImprovementSamples(ctx, parseID(s.w.Status.ImprovementID).UUID, sideTags(sideBaseline))
	if errors.Is(err, pgstore.ErrUnavailable) || s.w.Status.Observation.BaselineEnd == nil {
		return nil, nil // the sources are asked again
	}
	// A baseline that was measured anew is beside the one before.
	window := s.baselineWindow()
	for metric := range points {
		points[metric] = slices.DeleteFunc(points[metric], func(p pgstore.Point) bool { return p.At.Before(window.Start) || p.At.After(window.End) })
	}
	return points, err
}
