// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Describe says what a comparison came to, with the medians, the margin and the
// window: "p99-latency 151.2 ms → 231.7 ms (+53.2%, 95%: +48.1% … +58.9%,
// limit +5.0%) in 2m after the change".
func (r Comparison) Describe(name, unit string, c Criterion, window time.Duration) string {
	if r.Verdict == dgmv1alpha1.VerdictNoData {
		return fmt.Sprintf("%s has no data: %s", name, r.Problem)
	}
	return fmt.Sprintf("%s %s → %s (%s, %s, %s) in %s after the change", name, measured(r.Baseline, unit), measured(r.Candidate, unit),
		r.changed(worseTowards(c.Direction, r.Regression)), r.Interval(c.Direction), r.limit(c), dgmv1alpha1.FormatDuration(window))
}

func (r Comparison) limit(c Criterion) string {
	switch {
	case r.Absolute && c.Direction == dgmv1alpha1.Increase:
		return "from 0 no fall is allowed"
	case r.Absolute:
		return "from 0 no rise is allowed"
	case c.Direction == dgmv1alpha1.Increase:
		return "limit " + FormatPercent(-100*c.MaxRegression)
	default:
		return "limit " + FormatPercent(100*c.MaxRegression)
	}
}

// worseTowards turns a regression into a change of the value.
func worseTowards(direction dgmv1alpha1.Direction, regression float64) float64 {
	if direction == dgmv1alpha1.Increase {
		return -regression
	}
	return regression
}

// Interval is the interval of the change of the value, with its confidence; empty
// without data.
func (r Comparison) Interval(direction dgmv1alpha1.Direction) string {
	if r.Verdict == dgmv1alpha1.VerdictNoData {
		return ""
	}
	confidence := fmt.Sprintf("%.4g%%: ", 100-200*r.Tail)
	if math.IsInf(r.Low, 0) || math.IsInf(r.High, 0) {
		return confidence + "too few samples to tell"
	}
	low, high := worseTowards(direction, r.Low), worseTowards(direction, r.High)
	return confidence + r.changed(min(low, high)) + " … " + r.changed(max(low, high))
}

func (r Comparison) changed(by float64) string {
	if !r.Absolute {
		return FormatPercent(100 * max(-maxGain/100, min(by, maxGain/100)))
	}
	if by > 0 {
		return "+" + rounded(by)
	}
	return rounded(by)
}

// measured is a value with its unit.
func measured(value float64, unit string) string {
	return strings.TrimRight(rounded(value)+" "+unit, " ")
}

// rounded is a value to four significant digits, without an exponent where that
// reads well.
func rounded(value float64) string {
	short := strconv.FormatFloat(value, 'g', 4, 64)
	if magnitude := math.Abs(value); magnitude < 1000 || magnitude >= 1e15 || math.IsNaN(value) {
		return short
	}
	return strconv.FormatFloat(decimal(short), 'f', -1, 64)
}

// decimal reads back what was just written.
func decimal(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic("what was written as a number reads as none: " + err.Error())
	}
	return value
}
