// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// compareInTime compares, and fails the test when that does not end.
func compareInTime(t *testing.T, before, after []float64) Comparison {
	t.Helper()
	sides := [2]Side{}
	for i, values := range [][]float64{before, after} {
		for j, value := range values {
			sides[i].Samples = append(sides[i].Samples, Sample{At: time.Unix(int64(j), 0), Value: value})
		}
		sides[i].Samples, sides[i].Dropped = Clean(sides[i].Samples, Window{Start: time.Unix(0, 0), End: time.Unix(int64(len(values)), 0)})
	}
	done := make(chan Comparison, 1)
	go func() {
		done <- Compare(Criterion{Direction: dgmv1alpha1.Decrease, MinSamples: 2, Tail: 0.025}, sides[0], sides[1])
	}()
	select {
	case result := <-done:
		return result
	case <-time.After(20 * time.Second):
		t.Fatalf("comparing %v with %v does not end", before, after)
		return Comparison{}
	}
}

func TestExtremeValuesAreJudged(t *testing.T) {
	const huge, large, tiny = math.MaxFloat64, 1e150, math.SmallestNonzeroFloat64
	many := func(values ...float64) []float64 {
		var out []float64
		for range 20 {
			out = append(out, values...)
		}
		return out
	}
	for name, test := range map[string]struct {
		before, after []float64
		verdict       dgmv1alpha1.Verdict
	}{
		"from the least to the greatest":   {many(-huge), many(huge), dgmv1alpha1.VerdictNoData},
		"from the greatest to the least":   {many(huge), many(-huge), dgmv1alpha1.VerdictNoData},
		"the greatest after what was good": {many(1), many(huge), dgmv1alpha1.VerdictNoData},
		"infinity":                         {many(1), many(math.Inf(1)), dgmv1alpha1.VerdictNoData},
		"from small to large":              {many(-large), many(large), dgmv1alpha1.VerdictFail},
		"from large to small":              {many(large), many(-large), dgmv1alpha1.VerdictPass},
		"both of them on both sides":       {many(-large, large), many(large, -large), dgmv1alpha1.VerdictPass},
		"a zero with a sign":               {many(0), many(math.Copysign(0, -1)), dgmv1alpha1.VerdictPass},
		"from the smallest to large":       {many(tiny), many(large), dgmv1alpha1.VerdictFail},
	} {
		t.Run(name, func(t *testing.T) {
			if got := compareInTime(t, test.before, test.after); got.Verdict != test.verdict {
				t.Errorf("the verdict is %s (%g: %g … %g), want %s", got.Verdict, got.Regression, got.Low, got.High, test.verdict)
			}
		})
	}
}

// FuzzCompare finds values that are not judged, or judged better than they are.
func FuzzCompare(f *testing.F) {
	f.Add([]byte("\x7f\xef\xff\xff\xff\xff\xff\xff\xff\xef\xff\xff\xff\xff\xff\xff"), []byte("\x3f\xf0\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		before, after := floats(a), floats(b)
		result := compareInTime(t, before, after)
		if math.IsNaN(result.Low) || math.IsNaN(result.High) || result.Low > result.High {
			t.Errorf("%v, %v: the interval is %g … %g", before, after, result.Low, result.High)
		}
		if result.Verdict == dgmv1alpha1.VerdictNoData {
			return
		}
		if gain, ok := result.Gain(); ok && (math.IsNaN(gain) || math.IsInf(gain, 0)) {
			t.Errorf("%v, %v: the gain is %g", before, after, gain)
		}
	})
}

// floats reads up to 40 numbers.
func floats(from []byte) []float64 {
	var out []float64
	for ; len(from) >= 8 && len(out) < 40; from = from[8:] {
		out = append(out, math.Float64frombits(binary.BigEndian.Uint64(from)))
	}
	return out
}
