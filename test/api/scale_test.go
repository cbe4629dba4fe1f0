// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/promtest"
)

// many is how many improvements a test of many has, and few how many it compares
// them with.
const few, many = 5, 60

func TestManyAreObservedAtTheCostOfFew(t *testing.T) {
	w := newWorld(t)
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latency", Help: "A latency."}, func() float64 { return 150 }))
	source := promtest.Start(t, registry)
	source.Await(t, "count_over_time(latency[10s])", 12)
	recorder, late := promtest.Record(t, source), promtest.Record(t, source)
	late.SetDelay(3 * time.Second)
	file := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(file, []byte("sources: {default: {url: '"+recorder.URL+"'}, late: {url: '"+late.URL+"'}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := unusedAddress(t)
	w.lead("--lease-duration=60s", "--metrics-bind-address="+address, "--metrics-secure=false", "--metric-sources-file="+file)
	w.create(setting("max_concurrent_improvements", fmt.Sprint(2*many)))
	var objects []*dgmv1alpha1.ImprovementWorkspace
	asking := func(source string) func(*dgmv1alpha1.ImprovementWorkspace) {
		return func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Metrics[0].Database = nil
			object.Spec.Metrics[0].Prometheus = &dgmv1alpha1.PrometheusSource{Source: source, Query: "avg(avg_over_time(latency[1s]))"}
			object.Spec.Metrics[0].MinSamples = 1000
		}
	}
	observe := func(n int) {
		first := len(objects)
		objects = append(objects, make([]*dgmv1alpha1.ImprovementWorkspace, n-first)...)
		inParallel(8, n-first, func(i int) {
			objects[first+i] = w.observes(fmt.Sprintf("observed-%d", first+i), nil, asking("default"))
		})
		for _, object := range objects[first:] {
			w.reaches(object, dgmv1alpha1.PhaseObserving, "")
		}
	}
	slow := w.observes("slow", nil, asking("late"))
	observe(few)
	before := w.leastGoroutines(address)
	observe(many)
	// Each has too few samples, and asks again each half of its window.
	for _, object := range objects {
		w.reaches(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	}
	if after := w.leastGoroutines(address); after > before+20 {
		t.Errorf("%v goroutines for %d improvements, %v for %d", before, few, after, many)
	}
	w.askedOnce(recorder, address)

	// A source that takes longer than a turn makes looks late, and fails none.
	w.reaches(slow, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	objects = append(objects, slow)

	for _, object := range objects {
		w.annotate(object, dgmv1alpha1.AnnotationAbort, "1")
	}
	for _, object := range objects {
		w.reaches(object, dgmv1alpha1.PhaseRolledBack, "")
		w.synced(object)
	}
	// P12: those that have ended ask nothing, and nothing is written.
	time.Sleep(time.Second)
	asked, versions, requests := len(recorder.Queries()), w.versions(), w.writeRequests()
	time.Sleep(4 * time.Second)
	if more := len(recorder.Queries()) - asked; more > 0 {
		t.Errorf("%d queries at rest", more)
	}
	if diff := cmp.Diff(versions, w.versions()) + cmp.Diff(requests, w.writeRequests()); diff != "" {
		t.Errorf("written at rest (-before +after):\n%s", diff)
	}
}

// askedOnce checks that Prometheus was asked each question once in the time
// after which it is asked again.
func (w *world) askedOnce(recorder *promtest.Recorder, address string) {
	w.Helper()
	const settle, again = time.Second, 2 * time.Second // interval, and half of the window
	asked := map[string][]promtest.Query{}
	for _, q := range recorder.Queries() {
		asked[q.Form] = append(asked[q.Form], q)
	}
	for form, queries := range asked {
		turns := 1 + int(queries[len(queries)-1].At.Sub(queries[0].End.Add(settle))/again)
		if len(queries) > turns {
			w.Errorf("%s was asked %d times in %d turns", form, len(queries), turns)
		}
	}
	families, err := metricsOf(address)
	if err != nil {
		w.Fatal(err)
	}
	questions, queries := ofDefault(families["dgm_metric_source_questions_total"]), ofDefault(families["dgm_metric_source_queries_total"])
	if recorded := float64(len(recorder.Queries())); queries == 0 || queries > recorded || questions < 5*queries {
		w.Errorf("%v questions and %v queries are counted, %v were seen", questions, queries, recorded)
	}
	w.Logf("%v questions of %d improvements were %v queries", questions, many, queries)
}

// leastGoroutines of the operator, of some looks: each request has some for a moment.
func (w *world) leastGoroutines(address string) float64 {
	w.Helper()
	var least float64
	for i := range 10 {
		families, err := metricsOf(address)
		if err != nil {
			w.Fatal(err)
		}
		if now := families["go_goroutines"].GetMetric()[0].GetGauge().GetValue(); i == 0 || now < least {
			least = now
		}
		time.Sleep(100 * time.Millisecond)
	}
	return least
}

// ofDefault adds up what is counted of the source default.
func ofDefault(family *dto.MetricFamily) (sum float64) {
	for _, m := range family.GetMetric() {
		if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == "prometheus/default" }) {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum
}

// metricsOf reads what an operator serves to Prometheus.
func metricsOf(address string) (map[string]*dto.MetricFamily, error) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errorf("%s: %s", response.Status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(string(body)))
}
