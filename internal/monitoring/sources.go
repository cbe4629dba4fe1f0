// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/acgs/dgm-operator/internal/analysis"
)

var (
	sourceQuestions = counter(describe("dgm_metric_source_questions_total", "How often an improvement looked for an answer of a source of metrics.", "source"))
	sourceQueries   = counter(describe("dgm_metric_source_queries_total", "How often the source itself was asked, and whether it had data: what many look for is asked once.", "source", "outcome"))
	sourceWaiting   = gauge(describe("dgm_metric_source_waiting_questions", "Questions that the source has not answered yet.", "source"))
	sourceLag       = gauge(describe("dgm_metric_source_lag_seconds", "For how long the oldest of them has been waiting; 0 without one.", "source"))
)

// Sources is the collector of what is asked of the sources of metrics.
type Sources struct {
	Answers *analysis.Answers
}

// Describe describes nothing: which sources there are is not known before.
func (s *Sources) Describe(chan<- *prometheus.Desc) {}

// Collect shows every source that was asked so far.
func (s *Sources) Collect(into chan<- prometheus.Metric) {
	var shown series
	for name, count := range s.Answers.Counts() {
		shown.set(sourceQuestions, float64(count.Questions), name)
		shown.set(sourceQueries, float64(count.Answered), name, "answered")
		shown.set(sourceQueries, float64(count.Failed), name, "failed")
		shown.set(sourceWaiting, float64(count.Waiting), name)
		shown.set(sourceLag, count.Lag.Seconds(), name)
	}
	for _, metric := range shown.metrics {
		into <- metric
	}
}
