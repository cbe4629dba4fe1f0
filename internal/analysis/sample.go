// SPDX-License-Identifier: Apache-2.0

// Package analysis compares the metrics of a service before and after a change:
// windows, samples, verdicts, gain and reward. It is pure, but for Answers,
// which asks the sources of samples.
package analysis

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Sample is one measured value.
type Sample struct {
	At    time.Time
	Value float64
}

// Window is a span of time; both ends belong to it.
type Window struct {
	Start, End time.Time
}

// BaselineWindow is the window before a change: it ends at the newest point of
// the interval's grid that a source can know when the change begins. Windows on
// the grid are the same for all who ask within an interval.
func BaselineWindow(changeBegins time.Time, length, interval time.Duration) Window {
	end := changeBegins.Add(-Settle(interval)).Truncate(interval)
	return Window{Start: end.Add(-length), End: end}
}

// CandidateStart is where the window after a change begins: when it has warmed
// up, on the interval's grid.
func CandidateStart(healthy time.Time, warmup, interval time.Duration) time.Time {
	start := healthy.Add(warmup).Truncate(interval)
	if start.Before(healthy.Add(warmup)) {
		start = start.Add(interval)
	}
	return start
}

// maxSettle bounds the time that a source is given to take in what was measured.
const maxSettle = 5 * time.Second

// Settle is how long after its end a window is asked for.
func Settle(interval time.Duration) time.Duration { return min(interval, maxSettle) }

// maxSteps keeps a range query below the 11,000 points that Prometheus answers.
const maxSteps = 10_000

// Step is the time between two points of a range query over a window: the
// interval, unless that makes too many of them.
func Step(length, interval time.Duration) time.Duration {
	step := interval
	for length/step >= maxSteps {
		step += interval
	}
	return step
}

// Clean drops the samples that are no numbers or lie outside of the window, and
// returns the others in the order of time, those of one time by their values, and
// how many it dropped.
func Clean(samples []Sample, within Window) (clean []Sample, dropped int) {
	clean = make([]Sample, 0, len(samples))
	for _, s := range samples {
		if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || s.At.Before(within.Start) || s.At.After(within.End) {
			dropped++
			continue
		}
		clean = append(clean, s)
	}
	slices.SortFunc(clean, func(a, b Sample) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Value, b.Value)) })
	return clean, dropped
}

func valuesOf(samples []Sample) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = s.Value
	}
	return values
}
