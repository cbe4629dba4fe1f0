// SPDX-License-Identifier: Apache-2.0

package api

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/promtest"
)

// scraped makes an improvement compare a metric of Prometheus.
func scraped(query string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Metrics[0].Database = nil
		object.Spec.Metrics[0].Prometheus = &dgmv1alpha1.PrometheusSource{Source: "default", Query: query}
		object.Spec.Observe.Window = "6s"
		object.Spec.Observe.Deadline = "40s"
	}
}

// latencyOf exports a latency that falls by a fifth when a ConfigMap has the change.
func (w *world) latencyOf(configMap string) *prometheus.Registry {
	random := rand.New(rand.NewPCG(3, 4))
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latency_ms"}, func() float64 {
		level := 150.0
		if w.data(configMap)["CACHE_TTL"] == "60" {
			level = 120
		}
		return level * (1 + 0.02*random.NormFloat64())
	}))
	return registry
}

func TestPrometheusIsAskedAndMayBeAway(t *testing.T) {
	w := newWorld(t)
	w.configMap("scraped", map[string]string{"CACHE_TTL": "5"})
	server := promtest.Start(t, w.latencyOf("scraped"))
	file := filepath.Join(t.TempDir(), "sources.yaml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sources: {other: {url: 'http://127.0.0.1:1'}}")
	w.start("--metric-sources-file=" + file)

	// P7: nothing is applied that could not be judged.
	object := w.improvement("scraped", "scraped", observed(scraped("avg(latency_ms)")))
	w.create(object)
	waiting := w.reaches(object, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonMetricSourceUnknown)
	w.says(message(waiting), `metric p99-latency`, `no metric source "default" (it names other)`, "--metric-sources-file")
	time.Sleep(7 * time.Second) // for a baseline of seven points
	write("sources: {default: {url: '" + server.URL + "', timeout: 2s}}")

	// P6: what cannot be asked is no failure.
	w.reaches(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonObserving)
	server.Stop()
	held := w.reaches(object, dgmv1alpha1.PhaseObserving, "")
	w.eventually("it says that the source is away", func() error {
		held = w.refresh(object)
		if !contains(message(held), "connection refused") {
			return errorf("%s", message(held))
		}
		return nil
	})
	if held.Status.Verdict != dgmv1alpha1.VerdictNoData {
		t.Errorf("verdict %s", held.Status.Verdict)
	}

	// P12: asking in vain writes nothing.
	time.Sleep(3 * time.Second)
	if again := w.refresh(object); again.Status.Observation.WindowEnd.Equal(held.Status.Observation.WindowEnd) && again.ResourceVersion != held.ResourceVersion &&
		conditionOf(again, dgmv1alpha1.ConditionDatabaseSynced).Status == conditionOf(held, dgmv1alpha1.ConditionDatabaseSynced).Status {
		t.Errorf("it was written: %s, then %s", indented(w, held.Status), indented(w, again.Status))
	}
	server.Continue(t)
	done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	if done.Status.Verdict != dgmv1alpha1.VerdictPass || done.Status.Metrics[0].BaselineSamples < 5 {
		t.Errorf("%+v", done.Status.Metrics)
	}
}
