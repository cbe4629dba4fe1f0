// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// maxJobValues bounds the values of one side of a metric of a test.
const maxJobValues = 10_000

// JobSamples reads the values of a metric from the results of a test:
// {"metrics": {"KEY": {"baseline": [numbers], "candidate": [numbers]}}}. A test
// does not say when it measured each: they are given times of a microsecond
// apart, up to when it ended.
func JobSamples(results json.RawMessage, key string, ended time.Time) (baseline, candidate []Sample, err error) {
	var document struct {
		Metrics map[string]struct {
			Baseline  []*float64 `json:"baseline"`
			Candidate []*float64 `json:"candidate"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal(results, &document); err != nil {
		return nil, nil, fmt.Errorf(`its results are not {"metrics": {KEY: {"baseline": [numbers], "candidate": [numbers]}}}: %w`, err)
	}
	metric, found := document.Metrics[key]
	if !found {
		return nil, nil, fmt.Errorf("its results have no metrics.%s", key)
	}
	return samplesOf(metric.Baseline, ended), samplesOf(metric.Candidate, ended), nil
}

// samplesOf takes a null for no number.
func samplesOf(values []*float64, ended time.Time) []Sample {
	values = values[:min(len(values), maxJobValues)]
	samples := make([]Sample, len(values))
	for i, value := range values {
		samples[i] = Sample{At: ended.Add(time.Duration(i-len(values)) * time.Microsecond), Value: math.NaN()}
		if value != nil {
			samples[i].Value = *value
		}
	}
	return samples
}

// JobSide is what the samples of a test tell; its times are made up.
func JobSide(samples []Sample) Side {
	if len(samples) == 0 {
		return Side{}
	}
	clean, dropped := Clean(samples, Window{Start: samples[0].At, End: samples[len(samples)-1].At})
	return Side{Samples: clean, Dropped: dropped}
}
