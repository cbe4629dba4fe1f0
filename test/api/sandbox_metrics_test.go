// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// comparing is what a test writes that has measured both sides of a metric.
const comparing = `{"metrics": {"p99": {"baseline": [100, 101, 99, 102, 98, 100, 101, 99], "candidate": [CANDIDATE]}}}`

// A metric of a test is judged by what the test wrote, and by nothing else.
func TestMetricsOfATest(t *testing.T) {
	w := newWorld(t)
	w.lead()
	w.mayRunJobs()
	w.configure("max_concurrent_improvements", "20")
	candidate := func(values string) string { return strings.Replace(comparing, "CANDIDATE", values, 1) }
	cases := map[string]struct{ wrote, says string }{
		"better":      {candidate("80, 81, 79, 82, 78, 80, 81, 79"), "latency 100 ms → 80 ms (-20.0%"},
		"worse":       {candidate("120, 121, 119, 122, 118, 120, 121, 119"), "MetricRegressed: latency 100 ms → 120 ms (+20.0%"},
		"nothing":     {"", "it has no results: it must write a JSON object of at most 4096 bytes to its termination message, and wrote nothing"},
		"words":       {"p99 was fine", `and wrote "p99 was fine"`},
		"nan":         {candidate("NaN, NaN"), `it has no results`},
		"infinite":    {candidate("1e999, 1"), "it has no results"},
		"large":       {candidate(strings.Repeat("80.123456789, ", 400) + "80"), "a JSON object of at most 4096 bytes"},
		"form":        {`{"metrics": {"p99": {"baseline": [1], "candidate": ["fast"]}}}`, `its results are not {"metrics": {KEY:`},
		"missing-key": {`{"metrics": {"p50": {"baseline": [1], "candidate": [1]}}}`, "its results have no metrics.p99"},
		"one-side":    {`{"metrics": {"p99": {"baseline": [1, 2, 3, 4, 5, 6]}}}`, "after the change: 0 samples, at least 5 are needed"},
		"nulls":       {candidate("80, null, null, null, null, null, 80"), "2 samples (and 5 that are no numbers), at least 5"},
	}
	w.keeper(func(job *batchv1.Job) (int32, string, bool) {
		return 0, cases[job.Labels[dgmv1alpha1.LabelTest]].wrote, true
	})
	objects := map[string]*dgmv1alpha1.ImprovementWorkspace{}
	for name := range cases { // all at a time; each waits for its windows
		w.configMap(name, map[string]string{"CACHE_TTL": "5"})
		objects[name] = w.improvement(name, name, briefly, func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Spec.Observe.WatchAfterCompletion = ""
			o.Spec.Sandbox, o.Spec.Tests = &dgmv1alpha1.Sandbox{}, []dgmv1alpha1.Test{testOf(name)}
			o.Spec.Metrics = []dgmv1alpha1.Metric{{
				Name: "latency", Type: "latency", Unit: "ms", Direction: dgmv1alpha1.Decrease, MaxRegression: "5%",
				Job: &dgmv1alpha1.JobSource{Test: name, Key: "p99"},
			}}
		})
		w.create(objects[name])
	}
	for name, object := range objects {
		switch name {
		case "better":
			done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
			if done.Status.Verdict != dgmv1alpha1.VerdictPass || done.Status.Gain != "+20.0%" || done.Status.Reward != "0.6" {
				t.Errorf("verdict %s, gain %s, reward %s", done.Status.Verdict, done.Status.Gain, done.Status.Reward)
			}
			w.says(message(done), cases[name].says)
			w.rows("baseline|8|ms\ncandidate|8|ms", `SELECT tags ->> 'side', count(*), min(unit) FROM dgm.performance_metrics
				WHERE improvement_id = $1 GROUP BY 1 ORDER BY 1`, done.Status.ImprovementID)
		case "worse":
			done := w.reaches(object, dgmv1alpha1.PhaseRolledBack, "")
			if done.Status.Verdict != dgmv1alpha1.VerdictFail || done.Status.Reward != "0" {
				t.Errorf("verdict %s, reward %s", done.Status.Verdict, done.Status.Reward)
			}
			w.says(done.Status.RollbackReason, cases[name].says, "limit +5.0%")
		default: // P6
			held := w.stalls(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
			w.says(message(held), "latency has no data: ", cases[name].says)
			if held.Status.Verdict != dgmv1alpha1.VerdictNoData || held.Status.Reward != "" {
				t.Errorf("%s: verdict %s, reward %q", name, held.Status.Verdict, held.Status.Reward)
			}
			w.annotate(held, dgmv1alpha1.AnnotationAbort, "1") // its place among the active ones is free
		}
	}
}
