// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func samplesAt(seconds ...int) []Sample {
	samples := make([]Sample, len(seconds))
	for i, second := range seconds {
		samples[i] = Sample{At: noon.Add(time.Duration(second) * time.Second), Value: 1}
	}
	return samples
}

// P6: a window of which more than half was not seen is no data.
func TestP6_AWindowWithAGapIsNotKnown(t *testing.T) {
	t.Parallel()
	window := Window{Start: noon, End: noon.Add(time.Minute)}
	for name, test := range map[string]struct {
		samples []Sample
		problem string
	}{
		"evenly":                        {samplesAt(0, 10, 20, 30, 40, 50, 60), ""},
		"half of it":                    {samplesAt(0, 30, 31, 60), ""},
		"all at the beginning":          {samplesAt(0, 1, 2, 3, 4), "no sample for 56s from 2026-11-23T12:00:04Z on, of a window of 1m"},
		"all at the end":                {samplesAt(56, 57, 58, 60), "no sample for 56s from 2026-11-23T12:00:00Z on, of a window of 1m"},
		"away in the middle":            {samplesAt(0, 5, 45, 60), "no sample for 40s from 2026-11-23T12:00:05Z on, of a window of 1m"},
		"none":                          {nil, ""}, // too few: Compare says so
		"those outside do not fill one": {samplesAt(-5, 1, 2, 61), "no sample for 58s from 2026-11-23T12:00:02Z on, of a window of 1m"},
	} {
		if side := SideOf(test.samples, window, ""); side.Problem != test.problem {
			t.Errorf("%s: %q, want %q", name, side.Problem, test.problem)
		}
	}
	if side := SideOf(nil, window, "it is away"); side.Problem != "it is away" {
		t.Errorf("the source's own problem became %q", side.Problem)
	}
}

// Whatever a source answers, a comparison ends, and says something that is a number.
func TestEveryNumberIsCompared(t *testing.T) {
	t.Parallel()
	extremes := []float64{0, math.Copysign(0, -1), math.MaxFloat64, -math.MaxFloat64, 1.7e308, -1.7e308, 1e150, -1e150, 5e-324, -5e-324, math.NaN(), math.Inf(1), math.Inf(-1), 1}
	window := Window{Start: noon, End: noon.Add(30 * time.Second)}
	side := func(t *rapid.T, label string) Side {
		value := rapid.OneOf(rapid.SampledFrom(extremes), rapid.Float64())
		var samples []Sample
		for i, v := range rapid.SliceOfN(value, 2, 30).Draw(t, label) {
			samples = append(samples, Sample{At: noon.Add(time.Duration(i) * time.Second), Value: v})
		}
		clean, dropped := Clean(samples, window)
		return Side{Samples: clean, Dropped: dropped}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: 0.05, MinSamples: 2, Tail: 0.025}
		compared := Compare(c, side(t, "baseline"), side(t, "candidate"))
		if gain, ok := compared.Gain(); ok && (math.IsNaN(gain) || math.IsInf(gain, 0)) {
			t.Fatalf("the gain is %v of %+v", gain, compared)
		}
		if text := compared.Describe("m", "ms", c, time.Minute); strings.Contains(text, "NaN") {
			t.Fatalf("it says %q", text)
		}
		if compared.Verdict == "" {
			t.Fatalf("no verdict: %+v", compared)
		}
	})
}

// The range of differences may be infinite; the search for one ends all the same.
func TestTheSearchForADifferenceEnds(t *testing.T) {
	t.Parallel()
	widest := []float64{-math.MaxFloat64, math.MaxFloat64}
	if found := nthDifference(widest, widest, 2); math.IsNaN(found) {
		t.Error("a difference is no number")
	}
}

func TestNumbersBeyondWhatIsMeasuredAreNone(t *testing.T) {
	t.Parallel()
	huge := func(value float64) Side {
		samples := samplesAt(0, 1, 2, 3, 4, 5)
		for i := range samples {
			samples[i].Value = value
		}
		return SideOf(samples, Window{Start: noon, End: noon.Add(5 * time.Second)}, "")
	}
	compared := Compare(Criterion{Direction: dgmv1alpha1.Decrease, MinSamples: 5, Tail: 0.025}, huge(1.7e308), huge(-1.7e308))
	if compared.Verdict != dgmv1alpha1.VerdictNoData || !strings.Contains(compared.Problem, "6 that are no numbers") {
		t.Errorf("it came to %s: %s", compared.Verdict, compared.Problem)
	}
}
