// SPDX-License-Identifier: Apache-2.0

// Package analysis compares the metrics of a service before and after a change:
// windows, samples, verdicts, gain and reward. It is pure, but for Answers,
// which asks the sources of samples.
package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
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

// staleAfter is for how long a window is what is just before, at least: sources
// take their time to answer.
const staleAfter = 10 * time.Minute

// IsStale reports whether a window is no longer what is just before: whatever was
// measured in it has waited since.
func (w Window) IsStale(now time.Time) bool {
	return now.Sub(w.End) > max(staleAfter, 2*w.End.Sub(w.Start))
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

// maxMagnitude is the largest number that is taken for a measurement: sums of
// squares of as many as there may be are finite.
const maxMagnitude = 1e150

// Clean drops the samples that are no numbers (or none that is measured: NaN, the
// infinities, beyond 1e150) or lie outside of the window, and returns the others
// in the order of time, those of one time by their values, and how many it dropped.
func Clean(samples []Sample, within Window) (clean []Sample, dropped int) {
	clean = make([]Sample, 0, len(samples))
	for _, s := range samples {
		isNumber := math.Abs(s.Value) <= maxMagnitude // NaN is not
		if !isNumber || s.At.Before(within.Start) || s.At.After(within.End) {
			dropped++
			continue
		}
		clean = append(clean, s)
	}
	slices.SortFunc(clean, func(a, b Sample) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Value, b.Value)) })
	return clean, dropped
}

// SideOf is what a source's samples tell of a window. A window of which more than
// half passed without a sample is not known: whatever measures may have been away
// when it mattered.
func SideOf(samples []Sample, within Window, problem string) Side {
	clean, dropped := Clean(samples, within)
	side := Side{Samples: clean, Dropped: dropped, Problem: problem}
	if from, gap := longestGap(clean, within); problem == "" && len(clean) > 1 && 2*gap > within.End.Sub(within.Start) {
		side.Problem = fmt.Sprintf("no sample for %s from %s on, of a window of %s",
			dgmv1alpha1.FormatDuration(gap.Round(time.Second)), from.UTC().Format(time.RFC3339), dgmv1alpha1.FormatDuration(within.End.Sub(within.Start)))
	}
	return side
}

// longestGap is the longest time without a sample, and when it began.
func longestGap(clean []Sample, within Window) (from time.Time, gap time.Duration) {
	previous := within.Start
	for i := 0; i <= len(clean); i++ {
		at := within.End
		if i < len(clean) {
			at = clean[i].At
		}
		if at.Sub(previous) > gap {
			from, gap = previous, at.Sub(previous)
		}
		previous = at
	}
	return from, gap
}

func valuesOf(samples []Sample) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = s.Value
	}
	return values
}
