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
		limit := "no rise"
		if c.Direction == dgmv1alpha1.Increase {
			limit = "no fall"
		}
		return fmt.Sprintf("%s %s, %s from a baseline of 0 (%s) in %s after the change, %s is allowed",
			name, value, signed(worseTowards(c.Direction, r.Regression)), r.Interval(c.Direction), window, limit)
	}
	limit := "at most " + FormatPercent(100*c.MaxRegression)
	if c.Direction == dgmv1alpha1.Increase {
		limit = "at least " + FormatPercent(-100*c.MaxRegression)
	}
	return fmt.Sprintf("%s %s, %s (%s) in %s after the change, %s is allowed",
		name, value, r.changed(worseTowards(c.Direction, r.Regression)), r.Interval(c.Direction), window, limit)
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
	if r.Absolute {
		return signed(by)
	}
	return FormatPercent(100 * max(-maxGain/100, min(by, maxGain/100)))
}

func signed(value float64) string {
	if value > 0 {
		return "+" + FormatValue(value)
	}
	return FormatValue(value)
}
