// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/clock"

	"github.com/acgs/dgm-operator/internal/analysis"
)

func TestSourcesOfMetricsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := analysis.NewAnswers(clock.RealClock{})
		source := func(context.Context, analysis.Question) ([]analysis.Sample, error) {
			time.Sleep(10 * time.Second)
			return nil, nil
		}
		for _, waiter := range []string{"a", "b", "c"} {
			answers.Ask(analysis.Question{Source: "database", Query: "p99"}, source, time.Time{}, waiter, func() {})
		}
		time.Sleep(2 * time.Second)
		registry := prometheus.NewPedanticRegistry()
		if err := registry.Register(&Sources{Answers: answers}); err != nil {
			t.Fatal(err)
		}
		err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP dgm_metric_source_lag_seconds For how long the oldest of them has been waiting; 0 without one.
# TYPE dgm_metric_source_lag_seconds gauge
dgm_metric_source_lag_seconds{source="database"} 2
# HELP dgm_metric_source_questions_total How often an improvement looked for an answer of a source of metrics.
# TYPE dgm_metric_source_questions_total counter
dgm_metric_source_questions_total{source="database"} 3
# HELP dgm_metric_source_waiting_questions Questions that the source has not answered yet.
# TYPE dgm_metric_source_waiting_questions gauge
dgm_metric_source_waiting_questions{source="database"} 1
`), "dgm_metric_source_lag_seconds", "dgm_metric_source_questions_total", "dgm_metric_source_waiting_questions")
		if err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
	})
}
