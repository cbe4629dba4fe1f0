// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// performanceBefore is dgm_archive.performance_before.
type performanceBefore struct {
	WindowEnd *metav1.MicroTime         `json:"windowEnd,omitempty"`
	Metrics   map[string]metricBaseline `json:"metrics"`
}

type metricBaseline struct {
	Median  string `json:"median,omitempty"`
	Samples int32  `json:"samples"`
}

// performanceAfter is dgm_archive.performance_after.
type performanceAfter struct {
	WindowStart *metav1.MicroTime          `json:"windowStart,omitempty"`
	WindowEnd   *metav1.MicroTime          `json:"windowEnd,omitempty"`
	Verdict     dgmv1alpha1.Verdict        `json:"verdict,omitempty"`
	Gain        string                     `json:"gain,omitempty"`
	Reward      string                     `json:"reward,omitempty"`
	Metrics     map[string]metricCandidate `json:"metrics"`
}

type metricCandidate struct {
	Verdict  dgmv1alpha1.Verdict `json:"verdict,omitempty"`
	Median   string              `json:"median,omitempty"`
	Samples  int32               `json:"samples"`
	Gain     string              `json:"gain,omitempty"`
	Interval string              `json:"interval,omitempty"`
}

// performance sums up what was measured before and after the change. It follows
// from status alone, so that an unchanged object gives an unchanged row; the
// samples are in performance_metrics.
func performance(status *dgmv1alpha1.ImprovementWorkspaceStatus) (before, after json.RawMessage) {
	if status.Observation == nil || len(status.Metrics) == 0 {
		return nil, nil
	}
	was := performanceBefore{WindowEnd: status.Observation.BaselineEnd, Metrics: map[string]metricBaseline{}}
	is := performanceAfter{
		WindowStart: status.Observation.WindowStart, WindowEnd: status.Observation.WindowEnd,
		Verdict: status.Verdict, Gain: status.Gain, Reward: status.Reward, Metrics: map[string]metricCandidate{},
	}
	for _, m := range status.Metrics {
		was.Metrics[m.Name] = metricBaseline{Median: m.Baseline, Samples: m.BaselineSamples}
		is.Metrics[m.Name] = metricCandidate{Verdict: m.Verdict, Median: m.Candidate, Samples: m.CandidateSamples, Gain: m.Gain, Interval: m.Interval}
	}
	before = mustJSON(was)
	if status.Observation.WindowEnd != nil {
		after = mustJSON(is)
	}
	return before, after
}
