// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"fmt"
	"math"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Criterion is what a metric is judged by.
type Criterion struct {
	Direction dgmv1alpha1.Direction
	// MaxRegression is a fraction of the baseline.
	MaxRegression float64
	MinSamples    int
	// Tail is the probability of error at each end of the interval: 0.025 for 95 %.
	Tail float64
}

// Side is what is known of a metric before, or after, the change.
type Side struct {
	Samples []Sample
	// Dropped is how many values were left out since they are no numbers.
	Dropped int
	// Problem says why there are none, or cannot be trusted; empty when all is well.
	Problem string
}

// Comparison is what comparing a metric before and after the change came to.
type Comparison struct {
	Verdict dgmv1alpha1.Verdict
	// Problem says why there is no data.
	Problem string
	// Baseline and Candidate are medians of what is compared: samples or, of many,
	// means of them; NaN without samples.
	Baseline, Candidate               float64
	BaselineSamples, CandidateSamples int
	// Regression is how much worse the candidate is, between Low and High: a
	// fraction of the baseline, or a number in the metric's unit when Absolute.
	// They mean nothing for NoData.
	Regression, Low, High float64
	// Absolute: the baseline's median is 0, of which nothing is a fraction.
	Absolute bool
	// Tail is that of the criterion.
	Tail float64
}

// tolerance is for what floating point makes of a value that lies on the margin.
const tolerance = 1e-9

// Compare judges whether a metric has become worse than it may: a test of
// non-inferiority. It passes when even the bad end of the interval is within the
// margin, fails when even the good end is beyond it, and is inconclusive
// otherwise.
//
// When all values are positive their ratio is judged, which is a shift of the
// logarithms and takes the baseline's own uncertainty in; otherwise their
// difference, as a fraction of the baseline's median. A median of 0 allows no
// regression, whatever fraction of it.
func Compare(c Criterion, baseline, candidate Side) Comparison {
	before, after := valuesOf(baseline.Samples), valuesOf(candidate.Samples)
	result := Comparison{
		Baseline: math.NaN(), Candidate: math.NaN(), BaselineSamples: len(before), CandidateSamples: len(after), Tail: c.Tail,
		Problem: problemOf(c, baseline, candidate),
	}
	if len(before) > 0 {
		result.Baseline = median(before)
	}
	if len(after) > 0 {
		result.Candidate = median(after)
	}
	if result.Problem != "" {
		result.Verdict = dgmv1alpha1.VerdictNoData
		return result
	}
	before, after = averaged(before, after)
	result.Baseline, result.Candidate = median(before), median(after)
	change := result.change(before, after, c.Tail)
	result.Regression, result.Low, result.High = change.estimate, change.low, change.high
	if c.Direction == dgmv1alpha1.Increase {
		result.Regression, result.Low, result.High = -change.estimate, -change.high, -change.low
	}
	margin := c.MaxRegression
	if result.Absolute {
		margin = 0
	}
	switch {
	case result.High <= margin+tolerance:
		result.Verdict = dgmv1alpha1.VerdictPass
	case result.Low > margin+tolerance:
		result.Verdict = dgmv1alpha1.VerdictFail
	default:
		result.Verdict = dgmv1alpha1.VerdictInconclusive
	}
	return result
}

func problemOf(c Criterion, baseline, candidate Side) string {
	for _, side := range []struct {
		name string
		Side
	}{{"before the change", baseline}, {"after the change", candidate}} {
		switch {
		case side.Problem != "":
			return side.name + ": " + side.Problem
		case len(side.Samples) < c.MinSamples:
			return fmt.Sprintf("%s: %d samples%s, at least %d are needed", side.name, len(side.Samples), besides(side.Dropped), c.MinSamples)
		case side.Dropped > len(side.Samples):
			// The rest is a choice that nobody made: the times at which it could be measured.
			return fmt.Sprintf("%s: %d of %d values are no numbers", side.name, side.Dropped, side.Dropped+len(side.Samples))
		}
	}
	return ""
}

func besides(dropped int) string {
	if dropped == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d that are no numbers)", dropped)
}

// change is by how much the values after differ, as a fraction of the baseline
// or, if that is 0, absolutely.
func (r *Comparison) change(before, after []float64, tail float64) shift {
	if allPositive(before) && allPositive(after) {
		ratio := shiftOf(logarithms(before), logarithms(after), tail)
		return shift{math.Expm1(ratio.estimate), math.Expm1(ratio.low), math.Expm1(ratio.high)}
	}
	difference := shiftOf(before, after, tail)
	if r.Baseline == 0 {
		r.Absolute = true
		return difference
	}
	scale := math.Abs(r.Baseline)
	return shift{difference.estimate / scale, difference.low / scale, difference.high / scale}
}

func allPositive(values []float64) bool {
	for _, value := range values {
		if value <= 0 {
			return false
		}
	}
	return true
}

func logarithms(values []float64) []float64 {
	out := make([]float64, len(values))
	for i, value := range values {
		out[i] = math.Log(value)
	}
	return out
}

// Worst is the overall verdict: of several the first of Fail, NoData,
// Inconclusive and Pass that one of them is; empty for none.
func Worst(verdicts ...dgmv1alpha1.Verdict) dgmv1alpha1.Verdict {
	for _, worst := range []dgmv1alpha1.Verdict{
		dgmv1alpha1.VerdictFail, dgmv1alpha1.VerdictNoData, dgmv1alpha1.VerdictInconclusive, dgmv1alpha1.VerdictPass,
	} {
		for _, verdict := range verdicts {
			if verdict == worst {
				return worst
			}
		}
	}
	return ""
}

// Look is one comparison of the window after a change, which grows while the
// samples do not tell.
type Look struct {
	Window Window
	// Final: this is the last look before the deadline, or a later one.
	Final bool
}

// LookAt is the look to take at a time, and when the next one is due. There is
// none before the window has ended, and the source has had time to take it in.
//
// The window doubles up to the deadline, and from there on, for what is held. A
// look at more of the same data is another chance to err: see LookTail.
func LookAt(start time.Time, length, deadline, settle time.Duration, now time.Time) (look Look, due bool, next time.Time) {
	last := length + deadline
	span := length
	look = Look{Window: Window{Start: start, End: start.Add(span)}, Final: span >= last}
	if next = look.Window.End.Add(settle); now.Before(next) {
		return look, false, next
	}
	for {
		longer := 2 * span
		if span < last && longer > last {
			longer = last
		}
		if next = start.Add(longer).Add(settle); now.Before(next) {
			return look, true, next
		}
		span = longer
		look = Look{Window: Window{Start: start, End: start.Add(span)}, Final: span >= last}
	}
}

// LookTail is the probability of error at each end of the interval of a look,
// after as many others that had data. The first one has the usual 95 %, and each
// further one half of the error of the one before: all of them together err at
// each end in less than 5 % of the cases, however often one looks (Bonferroni).
func LookTail(before int) float64 { return 0.025 / math.Exp2(float64(min(before, 40))) }

// WatchTail is the probability of error at each end of the interval when as many
// windows are compared one after the other: 2.5 % for all of them (Bonferroni).
func WatchTail(windows int) float64 { return 0.025 / float64(max(1, windows)) }

// WatchWindow is the last whole window of a watch that a source can know at a
// time, how many there are in all, and when the next one is due; the last one
// ends with the watch. due is false before the first.
func WatchWindow(kept, until time.Time, length, settle time.Duration, now time.Time) (window Window, windows int, due bool, next time.Time) {
	windows = max(1, int((until.Sub(kept)+length-1)/length))
	end := func(number int) time.Time {
		if number >= windows {
			return until
		}
		return kept.Add(time.Duration(number) * length)
	}
	passed := min(int(now.Add(-settle).Sub(kept)/length), windows)
	if !now.Add(-settle).Before(until) {
		passed = windows
	}
	next = end(passed + 1).Add(settle)
	if passed < 1 {
		return Window{}, windows, false, next
	}
	return Window{Start: end(passed).Add(-length), End: end(passed)}, windows, true, next
}
