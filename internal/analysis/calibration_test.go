// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// series is an AR(1) process of normal deviates with the given autocorrelation
// and variance 1, in its stationary state.
func series(random *rand.Rand, n int, autocorrelation float64) []float64 {
	values := make([]float64, n)
	x := random.NormFloat64()
	for i := range values {
		x = autocorrelation*x + math.Sqrt(1-autocorrelation*autocorrelation)*random.NormFloat64()
		values[i] = x
	}
	return values
}

// shapes are distributions made of a normal deviate, with a level.
var shapes = map[string]func(x, level float64) float64{
	"lognormal latency":      func(x, level float64) float64 { return level * math.Exp(0.3*x) },
	"heavy-tailed latency":   func(x, level float64) float64 { return level * math.Exp(x) },
	"normal":                 func(x, level float64) float64 { return level * (1 + 0.1*x) },
	"rate in steps":          func(x, level float64) float64 { return math.Round(level * math.Exp(0.3*x) / 10) },
	"difference around zero": func(x, level float64) float64 { return level - 100 + 10*x },
}

// verdicts counts the verdicts of many comparisons, of which the candidate's
// level is a multiple of the baseline's.
func verdicts(shape func(x, level float64) float64, c Criterion, n, times int, autocorrelation, multiple float64) map[dgmv1alpha1.Verdict]float64 {
	random := rand.New(rand.NewPCG(uint64(n), math.Float64bits(autocorrelation)))
	counts := map[dgmv1alpha1.Verdict]float64{}
	for range times {
		counts[Compare(c, sideFrom(series(random, n, autocorrelation), shape, 100), sideFrom(series(random, n, autocorrelation), shape, 100*multiple)).Verdict] += 1 / float64(times)
	}
	return counts
}

func sideFrom(deviates []float64, shape func(x, level float64) float64, level float64) Side {
	samples := make([]Sample, len(deviates))
	for i, x := range deviates {
		samples[i] = Sample{At: time.Unix(int64(i), 0), Value: shape(x, level)}
	}
	return Side{Samples: samples}
}

// The error that the interval promises at each end is 2.5 %; with few samples
// that are much alike it is more, and never above 5 %.
func TestNoChangeSeldomFails(t *testing.T) {
	t.Parallel()
	const times = 1500
	// Three standard deviations of a proportion of 5 %.
	const limit = 0.05 + 3*0.0057
	for name, shape := range shapes {
		for _, autocorrelation := range []float64{0, 0.3, 0.6, 0.8, 0.9} {
			for _, n := range []int{5, 8, 12, 20, 31, 60} {
				t.Run(fmt.Sprintf("%s/r=%v/n=%d", name, autocorrelation, n), func(t *testing.T) {
					c := Criterion{Direction: dgmv1alpha1.Decrease, MinSamples: 5, Tail: 0.025}
					if share := verdicts(shape, c, n, times, autocorrelation, 1)[dgmv1alpha1.VerdictFail]; share > limit {
						t.Errorf("%.1f%% of changes that change nothing fail, at most 5%% may", 100*share)
					}
				})
			}
		}
	}
}

// What drifts slowly below the noise of each measurement is no change either: in
// windows that are long compared with the drift it seldom fails.
func TestDriftBelowNoiseSeldomFails(t *testing.T) {
	t.Parallel()
	const times = 600
	const limit = 0.05 + 3*0.0089
	random := rand.New(rand.NewPCG(11, 11))
	c := Criterion{Direction: dgmv1alpha1.Decrease, MinSamples: 5, Tail: 0.025}
	for _, test := range []struct {
		n     int
		drift float64
		noise float64
	}{{60, 0.6, 0.8}, {60, 0.9, 0.8}, {300, 0.9, 0.8}, {300, 0.99, 0}, {1500, 0.9, 0.8}, {1500, 0.99, 0.8}, {1500, 0.99, 0}} {
		failed := 0
		for range times {
			if sides := [2]Side{drifting(random, test.n, test.drift, test.noise), drifting(random, test.n, test.drift, test.noise)}; Compare(c, sides[0], sides[1]).Verdict == dgmv1alpha1.VerdictFail {
				failed++
			}
		}
		if share := float64(failed) / times; share > limit {
			t.Errorf("%+v: %.1f%% of changes that change nothing fail, at most 5%% may", test, 100*share)
		}
	}
}

// drifting is a lognormal latency of which a part is noise and the rest an AR(1) process.
func drifting(random *rand.Rand, n int, autocorrelation, noise float64) Side {
	slow, fast := series(random, n, autocorrelation), series(random, n, 0)
	for i := range slow {
		slow[i] = math.Sqrt(1-noise*noise)*slow[i] + noise*fast[i]
	}
	return sideFrom(slow, shapes["lognormal latency"], 100)
}

// What is exactly as bad as is allowed passes as seldom.
func TestARegressionOfTheMarginSeldomPasses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{5, 12, 31, 60} {
		for _, autocorrelation := range []float64{0, 0.6} {
			c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: 0.2, MinSamples: 5, Tail: 0.025}
			share := verdicts(shapes["lognormal latency"], c, n, 1500, autocorrelation, 1.2)
			if share[dgmv1alpha1.VerdictPass] > 0.067 || share[dgmv1alpha1.VerdictFail] > 0.067 {
				t.Errorf("n=%d, r=%v: %v", n, autocorrelation, share)
			}
		}
	}
}

func TestLargeRegressionsFail(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		n               int
		autocorrelation float64
		multiple, power float64
	}{
		{5, 0, 4, 0.5}, // five samples are few: half of the fourfold latencies are inconclusive
		{8, 0, 2, 0.7},
		{12, 0, 2, 0.9},
		{12, 0.3, 2, 0.6},
		{31, 0, 1.5, 0.95},
		{31, 0.6, 2, 0.8},
		{60, 0, 1.3, 0.85},
		{60, 0.6, 2, 0.9},
		{60, 0.8, 3, 0.5},
		{300, 0.8, 2, 0.9},
	} {
		t.Run(fmt.Sprintf("%v", test), func(t *testing.T) {
			c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: 0.05, MinSamples: 5, Tail: 0.025}
			share := verdicts(shapes["lognormal latency"], c, test.n, 500, test.autocorrelation, test.multiple)
			if share[dgmv1alpha1.VerdictFail] < test.power || share[dgmv1alpha1.VerdictPass] > 0.01 {
				t.Errorf("%v, at least %v should fail", share, test.power)
			}
		})
	}
}

// A margin makes no change pass.
func TestNoChangePassesWithinAMargin(t *testing.T) {
	t.Parallel()
	c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: 0.25, MinSamples: 5, Tail: 0.025}
	for n, power := range map[int]float64{31: 0.7, 60: 0.9} {
		share := verdicts(shapes["lognormal latency"], c, n, 500, 0, 1)
		if share[dgmv1alpha1.VerdictPass] < power || share[dgmv1alpha1.VerdictFail] > 0.01 {
			t.Errorf("n=%d: %v, at least %v should pass", n, share, power)
		}
	}
}

// Looking again and again at a growing window errs in all no more than 5 %.
func TestLooksTogetherSeldomFail(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 7))
	const times = 1000
	for _, autocorrelation := range []float64{0, 0.6} {
		failed := 0
		for range times {
			before := series(random, 12, autocorrelation)
			after := series(random, 12*32, autocorrelation)
			for look := range 6 {
				c := Criterion{Direction: dgmv1alpha1.Increase, MinSamples: 5, Tail: LookTail(look)}
				shape := shapes["lognormal latency"]
				if Compare(c, sideFrom(before, shape, 1), sideFrom(after[:12<<look], shape, 1)).Verdict == dgmv1alpha1.VerdictFail {
					failed++
					break
				}
			}
		}
		if share := float64(failed) / times; share > 0.05+3*0.0069 {
			t.Errorf("r=%v: %.1f%% of changes that change nothing fail in one of six looks", autocorrelation, 100*share)
		}
	}
}
