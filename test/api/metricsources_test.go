// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
	"github.com/acgs/dgm-operator/test/promtest"
)

// scraped makes an improvement compare a metric of Prometheus.
func scraped(query string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Metrics[0].Database = nil
		object.Spec.Metrics[0].Prometheus = &dgmv1alpha1.PrometheusSource{Source: "default", Query: query}
		object.Spec.Observe.Window = "12s"
		object.Spec.Observe.Deadline = "60s"
	}
}

// latencyOf exports a latency that changes by a factor when a ConfigMap has the
// change, which is looked at beside the scrapes: they must not wait for it.
func (w *world) latencyOf(configMap string, factor float64) *prometheus.Registry {
	var level atomic.Uint64
	look := func() {
		now := 150.0
		if w.data(configMap)["CACHE_TTL"] == "60" {
			now *= factor
		}
		level.Store(math.Float64bits(now))
	}
	look()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			look()
			time.Sleep(100 * time.Millisecond)
		}
	}()
	w.Cleanup(func() {
		cancel()
		<-ended
	})
	random := rand.New(rand.NewPCG(3, 4))
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latency", Help: "A latency."}, func() float64 {
		return math.Float64frombits(level.Load()) * (1 + 0.02*random.NormFloat64())
	}))
	return registry
}

func TestPrometheusIsAskedAndMayBeAway(t *testing.T) {
	w := newOwnWorld(t)
	w.configMap("scraped", map[string]string{"CACHE_TTL": "5"})
	server := promtest.Start(t, w.latencyOf("scraped", 0.8))
	file := filepath.Join(t.TempDir(), "sources.yaml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sources: {other: {url: 'http://127.0.0.1:1'}}")
	w.start("--metric-sources-file=" + file)

	// P7: nothing is applied that could not be judged.
	object := w.improvement("scraped", "scraped", observed(scraped("avg(avg_over_time(latency[1s]))")))
	w.create(object)
	waiting := w.reaches(object, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonMetricSourceUnknown)
	w.says(message(waiting), `metric p99-latency`, `no metric source "default" (it names other)`, "--metric-sources-file")
	server.Await(t, "count_over_time(latency[13s])", 20)
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

func TestP10_ARegressionIsRolledBackWithoutTheDatabase(t *testing.T) {
	database := pgtest.Start(t)
	w := newWorldOn(t, database, database.Database(t))
	w.configMap("scraped", map[string]string{"CACHE_TTL": "5"})
	server := promtest.Start(t, w.latencyOf("scraped", 1.4))
	file := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(file, []byte("sources: {default: {url: '"+server.URL+"'}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start("--metric-sources-file=" + file)
	server.Await(t, "count_over_time(latency[13s])", 20)
	object := w.improvement("scraped", "scraped", observed(scraped("avg(avg_over_time(latency[1s]))")))
	w.create(object)
	w.reaches(object, dgmv1alpha1.PhaseObserving, "")
	database.Stop(t)
	done := w.reaches(object, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if ttl := w.data("scraped")["CACHE_TTL"]; ttl != "5" || done.Status.Reward != "0" {
		t.Errorf("CACHE_TTL %q, reward %q", ttl, done.Status.Reward)
	}
	// P3: nor is what it was rolled back for lost with the operator.
	w.operator.Kill()
	if w.outbox() == 0 { // one for each look
		t.Error("the samples are not kept")
	}
	database.Start(t)
	w.lead("--metric-sources-file=" + file)
	w.synced(object)
	w.rows("rolled_back|0|t", `SELECT status, metadata ->> 'reward', (performance_after #>> '{metrics,p99-latency,samples}' =
		(SELECT count(*)::text FROM dgm.performance_metrics m WHERE m.improvement_id = a.improvement_id AND tags ->> 'side' = 'candidate'))::text::char(1)
		FROM dgm.dgm_archive a WHERE improvement_id = $1`, done.Status.ImprovementID)
	w.eventually("nothing is kept any more", func() error {
		if kept := w.outbox(); kept != 0 {
			return errorf("%d ConfigMaps are kept", kept)
		}
		return nil
	})
}
