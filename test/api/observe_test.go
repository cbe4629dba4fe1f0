// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// observed makes an improvement compare a metric of the database, in windows of
// some seconds.
func observed(edits ...func(*dgmv1alpha1.ImprovementWorkspace)) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Metrics = []dgmv1alpha1.Metric{{
			Name: "p99-latency", Type: "latency", Unit: "ms", Direction: dgmv1alpha1.Decrease, MaxRegression: "5%",
			Database: &dgmv1alpha1.DatabaseSource{MetricName: "p99"},
		}}
		object.Spec.Observe = &dgmv1alpha1.Observe{Window: "4s", Warmup: "0s", Interval: "1s", Deadline: "4s"}
		for _, edit := range edits {
			edit(object)
		}
	}
}

// service inserts latencies of a service as plain SQL, as dgm_service: around 150
// until the ConfigMap has the change, and a multiple of that from then on. It
// stops with the test.
func (w *world) service(service, configMap string, multiple float64) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	w.Cleanup(func() {
		cancel()
		<-ended
	})
	conn, err := pgx.Connect(ctx, pgtest.ServiceURL(w.url))
	if err != nil {
		w.Fatal(err)
	}
	insert := func(value float64, at time.Time) {
		_, err := conn.Exec(ctx, `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, "timestamp")
			VALUES ('p99', 'latency', 'service', $1::double precision, 'ms', $2, $3)`, value, service, at)
		if err != nil && ctx.Err() == nil {
			w.Errorf("insert as dgm_service: %v", err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	noisy := func(level float64) float64 { return level * (1 + 0.02*random.NormFloat64()) }
	for i := range 100 {
		insert(noisy(150), time.Now().Add(time.Duration(i-100)*100*time.Millisecond))
	}
	go func() {
		defer close(ended)
		defer func() { _ = conn.Close(context.Background()) }()
		for ctx.Err() == nil {
			level := 150.0
			if w.data(configMap)["CACHE_TTL"] == "60" {
				level *= multiple
			}
			insert(noisy(level), time.Now())
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

func TestMetricsAreComparedBeforeAndAfterTheChange(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.scenario("improved", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.service("improved", "config", 0.8)
		better := w.improvement("better", "config", observed(func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Target.Service = "improved"
		}))
		w.create(better)
		w.reaches(better, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		status := w.synced(better).Status
		gain := 0.0
		if _, err := fmt.Sscanf(status.Gain, "%f%%", &gain); err != nil || gain < 17 || gain > 23 {
			w.Errorf("gain %q, want about +20%%", status.Gain)
		}
		if status.Verdict != dgmv1alpha1.VerdictPass || !strings.HasPrefix(status.Reward, "0.6") && !strings.HasPrefix(status.Reward, "0.59") {
			w.Errorf("verdict %s, reward %q", status.Verdict, status.Reward)
		}
		w.says(message(w.refresh(better)), "p99-latency", "ms", "95%", "at most +5.0%")
		w.rows(fmt.Sprintf("Pass|%s|%s|%s", status.Gain, status.Reward, status.Reward), `SELECT performance_after ->> 'verdict', performance_after ->> 'gain',
			performance_after ->> 'reward', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, status.ImprovementID)
		w.rows("true|true", `SELECT (performance_before #>> '{metrics,p99-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'baseline'),
			(performance_after #>> '{metrics,p99-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'candidate')
			FROM dgm.dgm_archive a JOIN dgm.performance_metrics m USING (improvement_id) WHERE a.improvement_id = $1 GROUP BY a.id`, status.ImprovementID)
	})
}
