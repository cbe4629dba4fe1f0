// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
)

func TestResultsOf(t *testing.T) {
	stored := json.RawMessage(`{"sandbox": {"namespace": "n"}, "tests": {"load": {"outcome": "Passed", "results": {"metrics": {"p99": {"baseline": [1], "candidate": [2]}}}}, "smoke": {"outcome": "Passed"}}}`)
	results, err := resultsOf(stored, "load")
	if err != nil {
		t.Fatal(err)
	}
	before, after, err := analysis.JobSamples(results, "p99", time.Now())
	if err != nil || len(before) != 1 || len(after) != 1 || after[0].Value != 2 {
		t.Errorf("%v, %v, %v", before, after, err)
	}
	if _, err := resultsOf(stored, "smoke"); err == nil || !strings.Contains(err.Error(), "it has no results") || !strings.Contains(err.Error(), "and wrote nothing") {
		t.Errorf("a test without results: %v", err)
	}
	for bad, reason := range map[string]string{"null": "nothing is stored", `{"tests": {}}`: "nothing is stored", `[`: "cannot be read"} {
		if _, err := resultsOf(json.RawMessage(bad), "load"); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %q", bad, err, reason)
		}
	}
}

// The same samples make the same rows, and different ones different rows, also
// those of one microsecond.
func TestP3_RecordedSamplesHaveIDsOfTheirOwn(t *testing.T) {
	w := &dgmv1alpha1.ImprovementWorkspace{}
	w.Status.ImprovementID = uuid.NewString()
	s := &step{w: w}
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	samples := []analysis.Sample{{At: noon, Value: 1}, {At: noon, Value: 1}, {At: noon.Add(300), Value: 2}, {At: noon.Add(time.Second), Value: 1}}
	metrics := []*dgmv1alpha1.Metric{{Name: "a", Type: "latency"}, {Name: "b", Type: "latency"}}
	ids := map[uuid.UUID]bool{}
	for range 2 {
		for _, metric := range metrics {
			for _, side := range []string{sideBaseline, sideCandidate, sideWatch} {
				for _, row := range s.series(metric, side, samples).rows() {
					ids[row.ID] = true
				}
			}
		}
	}
	if want := len(metrics) * 3 * len(samples); len(ids) != want {
		t.Errorf("%d ids, want %d", len(ids), want)
	}
}

func TestCriterionOf(t *testing.T) {
	got := criterionOf(&dgmv1alpha1.Metric{Direction: dgmv1alpha1.Increase, MaxRegression: "12.5%", MinSamples: 7}, 0.01)
	if want := (analysis.Criterion{Direction: dgmv1alpha1.Increase, MaxRegression: 0.125, MinSamples: 7, Tail: 0.01}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := criterionOf(&dgmv1alpha1.Metric{}, 0); got.MaxRegression != 0 || got.MinSamples != 2 {
		t.Errorf("unsaid: %+v", got)
	}
}
