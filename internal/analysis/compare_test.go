// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func side(values ...float64) Side {
	samples := make([]Sample, len(values))
	for i, value := range values {
		samples[i] = Sample{At: time.Unix(int64(i), 0), Value: value}
	}
	clean, dropped := Clean(samples, Window{Start: time.Unix(0, 0), End: time.Unix(1<<20, 0)})
	return Side{Samples: clean, Dropped: dropped}
}

func constant(value float64, n int) Side { return side(slices.Repeat([]float64{value}, n)...) }

func TestCompare(t *testing.T) {
	spread := []float64{100, 101, 99, 102, 98, 100.5, 99.5, 101.5, 98.5, 100.2}
	times := func(factor float64) Side {
		scaled := make([]float64, len(spread))
		for i, value := range spread {
			scaled[i] = value * factor
		}
		return side(scaled...)
	}
	// Of 960 requests every n-th is an error.
	errors := func(n int) Side {
		values := make([]float64, 960)
		for i := range values {
			if i%n == 0 {
				values[i] = 1
			}
		}
		return side(values...)
	}
	nan, inf := math.NaN(), math.Inf(1)
	for _, test := range []struct {
		name      string
		direction dgmv1alpha1.Direction
		margin    float64
		before    Side
		after     Side
		verdict   dgmv1alpha1.Verdict
		gain      string
		problem   string
	}{
		{"latency falls", dgmv1alpha1.Decrease, 0, times(1), times(0.8), dgmv1alpha1.VerdictPass, "+20.0%", ""},
		{"latency rises", dgmv1alpha1.Decrease, 0.05, times(1), times(1.22), dgmv1alpha1.VerdictFail, "-22.0%", ""},
		{"throughput rises", dgmv1alpha1.Increase, 0, times(1), times(1.3), dgmv1alpha1.VerdictPass, "+30.0%", ""},
		{"throughput falls", dgmv1alpha1.Increase, 0.05, times(1), times(0.7), dgmv1alpha1.VerdictFail, "-30.0%", ""},
		{"the same, within a margin", dgmv1alpha1.Decrease, 0.05, times(1), times(1), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"the same, without a margin, is not shown to be no worse", dgmv1alpha1.Decrease, 0, times(1), times(1), dgmv1alpha1.VerdictInconclusive, "+0.0%", ""},
		{"worse, but about as much as is allowed", dgmv1alpha1.Decrease, 0.05, times(1), times(1.05), dgmv1alpha1.VerdictInconclusive, "-5.0%", ""},
		{"constant and equal", dgmv1alpha1.Decrease, 0, constant(3, 10), constant(3, 10), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"constant, worse by exactly the margin", dgmv1alpha1.Decrease, 0.05, constant(100, 10), constant(105, 10), dgmv1alpha1.VerdictPass, "-5.0%", ""},
		{"constant, worse than the margin", dgmv1alpha1.Decrease, 0.05, constant(100, 10), constant(106, 10), dgmv1alpha1.VerdictFail, "-6.0%", ""},
		{"zero stays zero", dgmv1alpha1.Decrease, 0.05, constant(0, 10), constant(0, 10), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"from zero, no fraction is allowed", dgmv1alpha1.Decrease, 0.5, constant(0, 10), constant(1e-3, 10), dgmv1alpha1.VerdictFail, "-100.0%", ""},
		{"from zero to better", dgmv1alpha1.Increase, 0, constant(0, 10), constant(1e-3, 10), dgmv1alpha1.VerdictPass, "+100.0%", ""},
		{"to zero", dgmv1alpha1.Decrease, 0, constant(0.2, 10), constant(0, 10), dgmv1alpha1.VerdictPass, "+100.0%", ""},
		{"a negative baseline becomes less", dgmv1alpha1.Decrease, 0.05, times(-1), times(-1.2), dgmv1alpha1.VerdictPass, "+20.0%", ""},
		{"a negative baseline becomes more", dgmv1alpha1.Decrease, 0.05, times(-1), times(-0.8), dgmv1alpha1.VerdictFail, "-20.0%", ""},
		{"one outlier does not fail", dgmv1alpha1.Decrease, 0.05, times(1), side(append(slices.Clone(spread), 1e9)...), dgmv1alpha1.VerdictPass, "-0.1%", ""},
		{"nothing before", dgmv1alpha1.Decrease, 0.05, side(), times(1), dgmv1alpha1.VerdictNoData, "", "before the change: 0 samples, at least 5 are needed"},
		{"too few after", dgmv1alpha1.Decrease, 0.05, times(1), side(1, 2, 3, 4), dgmv1alpha1.VerdictNoData, "", "after the change: 4 samples, at least 5"},
		{"no numbers", dgmv1alpha1.Decrease, 0.05, times(1), side(nan, inf, -inf, 1, nan), dgmv1alpha1.VerdictNoData, "", "1 samples (and 4 that are no numbers)"},
		{"mostly no numbers", dgmv1alpha1.Decrease, 0.05, times(1), side(100, 101, 99, 102, 98, nan, nan, nan, nan, nan, nan), dgmv1alpha1.VerdictNoData, "", "after the change: 6 of 11 values are no numbers"},
		{"as many numbers as none", dgmv1alpha1.Decrease, 0.5, times(1), side(100, 101, 99, 102, 98, nan, inf, nan, nan, nan), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"seldom errors become more", dgmv1alpha1.Decrease, 0.5, errors(10), errors(3), dgmv1alpha1.VerdictFail, "-220.0%", ""},
		{"seldom errors stay", dgmv1alpha1.Decrease, 0.5, errors(10), errors(10), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"ties", dgmv1alpha1.Decrease, 0, side(1, 1, 2, 2, 1, 2, 1, 2), side(2, 1, 2, 1, 1, 2, 2, 1), dgmv1alpha1.VerdictInconclusive, "+0.0%", ""},
		{"no less than all can be lost of what is to increase", dgmv1alpha1.Increase, 1, times(1), times(1e-6), dgmv1alpha1.VerdictPass, "-100.0%", ""},
		{"numbers among others", dgmv1alpha1.Decrease, 0.05, times(1), side(append(slices.Clone(spread), nan, inf)...), dgmv1alpha1.VerdictPass, "+0.0%", ""},
		{"a source that is away", dgmv1alpha1.Decrease, 0.05, times(1), Side{Problem: "it cannot be reached"}, dgmv1alpha1.VerdictNoData, "", "after the change: it cannot be reached"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Compare(Criterion{Direction: test.direction, MaxRegression: test.margin, MinSamples: 5, Tail: 0.025}, test.before, test.after)
			gain := ""
			if percent, ok := got.Gain(); ok {
				gain = FormatPercent(percent)
			}
			if got.Verdict != test.verdict || gain != test.gain || !strings.Contains(got.Problem, test.problem) {
				t.Errorf("%s, gain %q, problem %q (%+v), want %s, %q, %q", got.Verdict, gain, got.Problem, got, test.verdict, test.gain, test.problem)
			}
		})
	}
}

func TestFewSamplesNeverDecide(t *testing.T) {
	c := Criterion{Direction: dgmv1alpha1.Decrease, MinSamples: 2, Tail: 0.025}
	for n := 2; n <= 3; n++ {
		values := []float64{1, 2, 3}[:n]
		worse := []float64{1001, 1002, 1003}[:n]
		if got := Compare(c, side(values...), side(worse...)); got.Verdict != dgmv1alpha1.VerdictInconclusive {
			t.Errorf("%d samples: %+v", n, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: 0.05, MinSamples: 2, Tail: 0.025}
	for _, test := range []struct {
		compared Comparison
		want     string
	}{
		{
			Comparison{Verdict: dgmv1alpha1.VerdictFail, Baseline: 151.23456, Candidate: 231.65, Regression: 0.532, Low: 0.481, High: 0.589, Tail: 0.025},
			"p99-latency 151.2 ms → 231.7 ms (+53.2%, 95%: +48.1% … +58.9%, limit +5.0%) in 2m after the change",
		},
		{
			Comparison{Verdict: dgmv1alpha1.VerdictFail, Candidate: 0.5, Regression: 0.5, Low: 0.25, High: 0.75, Absolute: true, Tail: 0.0125},
			"p99-latency 0 ms → 0.5 ms (+0.5, 97.5%: +0.25 … +0.75, from 0 no rise is allowed) in 2m after the change",
		},
		{
			Comparison{Verdict: dgmv1alpha1.VerdictInconclusive, Baseline: 1, Candidate: 2, Regression: 1, Low: -1, High: math.Inf(1), Tail: 0.025},
			"p99-latency 1 ms → 2 ms (+100.0%, 95%: too few samples to tell, limit +5.0%) in 2m after the change",
		},
		{Comparison{Verdict: dgmv1alpha1.VerdictNoData, Problem: "after the change: it is away"}, "p99-latency has no data: after the change: it is away"},
	} {
		if got := test.compared.Describe("p99-latency", "ms", c, 2*time.Minute); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	c.Direction = dgmv1alpha1.Increase
	got := Comparison{Verdict: dgmv1alpha1.VerdictFail, Baseline: 100, Candidate: 70, Regression: 0.3, Low: 0.25, High: 0.35, Tail: 0.025}.Describe("rate", "", c, 90*time.Second)
	if want := "rate 100 → 70 (-30.0%, 95%: -35.0% … -25.0%, limit -5.0%) in 1m30s after the change"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestValuesReadWell(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 0.0001234567: "0.0001235", 0.00001234567: "1.235e-05", 1.5: "1.5", 151.23456: "151.2", -9999.9: "-10000", 999.96: "1000",
		12345.6: "12350", 1234567890: "1235000000", 1.5e18: "1.5e+18", math.Inf(1): "+Inf",
	} {
		if got := rounded(value); got != want {
			t.Errorf("%v reads %q, want %q", value, got, want)
		}
	}
	for length, want := range map[time.Duration]string{
		4 * time.Second: "4s", 10 * time.Second: "10s", 2 * time.Minute: "2m", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		25*time.Hour + time.Second: "25h0m1s", 500 * time.Millisecond: "500ms",
	} {
		if got := dgmv1alpha1.FormatDuration(length); got != want {
			t.Errorf("%v reads %q, want %q", length, got, want)
		}
	}
}

// The interval's ends and the estimate are what sorting all differences gives.
func TestNthDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOfN(rapid.OneOf(rapid.Float64Range(-1e6, 1e6), rapid.Map(rapid.IntRange(-3, 3), func(i int) float64 { return float64(i) })), 1, 12)
		x, y := slices.Sorted(slices.Values(numbers.Draw(t, "x"))), slices.Sorted(slices.Values(numbers.Draw(t, "y")))
		var all []float64
		for _, a := range x {
			for _, b := range y {
				all = append(all, b-a)
			}
		}
		slices.Sort(all)
		n := rapid.IntRange(1, len(all)).Draw(t, "n")
		if got := nthDifference(x, y, n); got != all[n-1] {
			t.Fatalf("the %d-th of %v is %v", n, all, got)
		}
	})
}

// Other units change no verdict, and worse samples make none better.
func TestCompareProperties(t *testing.T) {
	rank := map[dgmv1alpha1.Verdict]int{dgmv1alpha1.VerdictPass: 0, dgmv1alpha1.VerdictInconclusive: 1, dgmv1alpha1.VerdictFail: 2}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(1, 1000), 5, 20)
		before, after := values.Draw(t, "before"), values.Draw(t, "after")
		c := Criterion{Direction: dgmv1alpha1.Decrease, MaxRegression: rapid.Float64Range(0, 1).Draw(t, "margin"), MinSamples: 5, Tail: 0.025}
		got := Compare(c, side(before...), side(after...))
		if got.Low > got.Regression+tolerance || got.Regression > got.High+tolerance {
			t.Fatalf("the estimate lies outside of its interval: %+v", got)
		}
		worse := make([]float64, len(after))
		for i := range after {
			worse[i] = after[i] * 1.5
		}
		if again := Compare(c, side(before...), side(worse...)); rank[again.Verdict] < rank[got.Verdict] {
			t.Fatalf("%s became %s when all latencies rose by half", got.Verdict, again.Verdict)
		}
		c.Direction = dgmv1alpha1.Increase
		if opposite := Compare(c, side(before...), side(after...)); math.Abs(opposite.Regression+got.Regression) > tolerance {
			t.Fatalf("%v one way and %v the other", got.Regression, opposite.Regression)
		}
	})
}

func TestWorst(t *testing.T) {
	all := []dgmv1alpha1.Verdict{dgmv1alpha1.VerdictPass, dgmv1alpha1.VerdictInconclusive, dgmv1alpha1.VerdictNoData, dgmv1alpha1.VerdictFail}
	for i := range all {
		if got := Worst(all[:i+1]...); got != all[i] {
			t.Errorf("the worst of %v is %s", all[:i+1], got)
		}
	}
	if got := Worst(); got != "" {
		t.Errorf("the worst of none is %q", got)
	}
}
