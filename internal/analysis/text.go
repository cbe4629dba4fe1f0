// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"fmt"
	"math"
	"strings"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Describe says what a comparison came to, with the measured value, the margin
// and the window: "p99-latency 183 ms, +22.0% (95%: +15.1% … +29.3%) in 2m0s
// after the change, at most +5.0% is allowed".
func (r Comparison) Describe(name, unit string, c Criterion, window time.Duration) string {
	if r.Verdict == dgmv1alpha1.VerdictNoData {
		return fmt.Sprintf("%s has no data: %s", name, r.Problem)
	}
	value := strings.TrimRight(FormatValue(r.Candidate)+" "+unit, " ")
	if r.Absolute {
		return fmt.Sprintf("%s %s, %s from 0 (%s) in %s after the change, no regression of 0 is allowed",
			name, value, signed(r.worseTowards(c, r.Regression)), r.Interval(c.Direction), window)
	}
	limit := "at most " + FormatPercent(100*c.MaxRegression)
	if c.Direction == dgmv1alpha1.Increase {
		limit = "at least " + FormatPercent(-100*c.MaxRegression)
	}
	return fmt.Sprintf("%s %s, %s (%s) in %s after the change, %s is allowed",
		name, value, FormatPercent(100*r.worseTowards(c, r.Regression)), r.Interval(c.Direction), window, limit)
}

// worseTowards turns a regression into a change of the value.
func (r Comparison) worseTowards(c Criterion, regression float64) float64 {
	if c.Direction == dgmv1alpha1.Increase {
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
	low, high := r.Low, r.High
	if direction == dgmv1alpha1.Increase {
		low, high = -r.High, -r.Low
	}
	return fmt.Sprintf("%s: %s … %s", r.confidence(), r.bound(low), r.bound(high))
}

func (r Comparison) confidence() string {
	return fmt.Sprintf("%.4g%%", 100-200*r.Tail)
}

func (r Comparison) bound(value float64) string {
	switch {
	case math.IsInf(value, 0), r.low(value):
		return "?"
	case r.Absolute:
		return signed(value)
	default:
		return FormatPercent(100 * value)
	}
}

// low reports that a ratio's interval reaches down to 0: there are too few
// samples to tell.
func (r Comparison) low(value float64) bool {
	return !r.Absolute && value == -1 && (math.IsInf(r.High, 1) || math.IsInf(r.Low, -1))
}

func signed(value float64) string {
	if value > 0 {
		return "+" + FormatValue(value)
	}
	return FormatValue(value)
}
