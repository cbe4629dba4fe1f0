// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"math"
	"strconv"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// maxGain bounds a gain, so that text shows it: ten thousand times the baseline.
const maxGain = 1e6

// Gain is how much better the candidate is, in percent of the baseline; negative
// when it is worse. From a baseline of 0, any difference is 100 %. ok is false
// without data.
func (r Comparison) Gain() (percent float64, ok bool) {
	switch {
	case r.Problem != "":
		return 0, false
	case r.Absolute && r.Regression == 0:
		return 0, true
	case r.Absolute:
		return math.Copysign(100, -r.Regression), true
	default:
		return max(-maxGain, min(-100*r.Regression, maxGain)), true
	}
}

// Weighted is the gain of a metric in percent, and its weight.
type Weighted struct {
	Gain, Weight float64
}

// TotalGain is the mean of gains by their weights, in percent. When all weights
// are 0 they count alike. ok is false when there are none.
func TotalGain(gains []Weighted) (percent float64, ok bool) {
	return weightedMean(gains, func(gain float64) float64 { return gain })
}

// Reward is 0.5 for no difference, 1 when every metric has gained 100 % or more,
// and 0 when every one has lost as much:
//
//	0.5 + 0.5 · Σ wᵢ · clamp(gᵢ/100, -1, 1) / Σ wᵢ
//
// ok is false when there are no gains: nothing was measured.
func Reward(gains []Weighted) (reward float64, ok bool) {
	mean, ok := weightedMean(gains, func(gain float64) float64 { return max(-1, min(gain/100, 1)) })
	return max(0, min(0.5+0.5*mean, 1)), ok
}

// RewardOf is the reward of a verdict as text: 0 for a change that failed, and
// empty when not everything was measured.
func RewardOf(verdict dgmv1alpha1.Verdict, gains []Weighted) string {
	reward, measured := Reward(gains)
	switch {
	case verdict == dgmv1alpha1.VerdictFail:
		return FormatReward(0)
	case verdict == dgmv1alpha1.VerdictNoData || !measured:
		return ""
	default:
		return FormatReward(reward)
	}
}

func weightedMean(gains []Weighted, of func(float64) float64) (mean float64, ok bool) {
	if len(gains) == 0 {
		return 0, false
	}
	var sum, weights, plain float64
	for _, g := range gains {
		sum += g.Weight * of(g.Gain)
		weights += g.Weight
		plain += of(g.Gain)
	}
	if weights == 0 {
		return plain / float64(len(gains)), true
	}
	return sum / weights, true
}

// FormatReward is a reward as a decimal of at most six digits.
func FormatReward(reward float64) string {
	return strconv.FormatFloat(math.Round(reward*1e6)/1e6, 'f', -1, 64)
}

// FormatPercent is a percentage with its sign: "+12.3%".
func FormatPercent(percent float64) string {
	if percent = math.Round(percent*10) / 10; percent == 0 {
		percent = 0 // without the sign of -0
	}
	sign := ""
	if percent >= 0 {
		sign = "+"
	}
	return sign + strconv.FormatFloat(percent, 'f', 1, 64) + "%"
}

// FormatValue is a value for people, of at most six significant digits; empty
// for NaN.
func FormatValue(value float64) string {
	if math.IsNaN(value) {
		return ""
	}
	return strconv.FormatFloat(value, 'g', 6, 64)
}
