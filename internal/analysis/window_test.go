// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestWindowsOfOneIntervalAreTheSame(t *testing.T) {
	first := BaselineWindow(noon.Add(16*time.Second), 2*time.Minute, 10*time.Second)
	second := BaselineWindow(noon.Add(24*time.Second), 2*time.Minute, 10*time.Second)
	if first != second || !first.End.Equal(noon.Add(10*time.Second)) || first.End.Sub(first.Start) != 2*time.Minute {
		t.Errorf("the windows are %v and %v", first, second)
	}
	for _, healthy := range []time.Duration{1, 9 * time.Second, 10 * time.Second} {
		if start := CandidateStart(noon.Add(healthy), time.Minute, 10*time.Second); !start.Equal(noon.Add(70 * time.Second)) {
			t.Errorf("healthy after %s, the window begins at %s", healthy, start)
		}
	}
}

func TestStepKeepsBelowWhatPrometheusAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := time.Duration(rapid.Int64Range(1, 200*3600).Draw(t, "length")) * time.Second
		interval := time.Duration(rapid.Int64Range(1, 3600).Draw(t, "interval")) * time.Second
		step := Step(length, interval)
		if length/step > 10_999 || step%interval != 0 || (length/interval < 10_000 && step != interval) {
			t.Fatalf("step %s for %s every %s", step, length, interval)
		}
	})
}

func TestLooks(t *testing.T) {
	const window, deadline, settle = 5 * time.Minute, 10 * time.Minute, 5 * time.Second
	for _, test := range []struct {
		after  time.Duration
		due    bool
		length time.Duration
		final  bool
		next   time.Duration
	}{
		{0, false, window, false, window + settle},
		{window, false, window, false, window + settle},
		{window + settle, true, window, false, 2*window + settle},
		{2 * window, true, window, false, 2*window + settle},
		{2*window + settle, true, 2 * window, false, 3*window + settle},
		{3*window + settle, true, 3 * window, true, 6*window + settle},
		{6*window + settle, true, 6 * window, true, 12*window + settle},
	} {
		look, due, next := LookAt(noon, window, deadline, settle, noon.Add(test.after))
		if due != test.due || look.Window != (Window{noon, noon.Add(test.length)}) || look.Final != test.final || !next.Equal(noon.Add(test.next)) {
			t.Errorf("after %s: %+v, due %t, next %s, want %+v", test.after, look, due, next.Sub(noon), test)
		}
	}
	if look, due, _ := LookAt(noon, window, 0, 0, noon.Add(window)); !due || !look.Final {
		t.Errorf("without a deadline the first look is %+v", look)
	}
}

func TestWatchWindows(t *testing.T) {
	const window, settle = 5 * time.Minute, time.Second
	until := noon.Add(12 * time.Minute)
	for _, test := range []struct {
		after time.Duration
		end   time.Duration
		next  time.Duration
	}{
		{0, 0, window + settle},
		{window + settle, window, 2*window + settle},
		{2*window + settle, 2 * window, 12*time.Minute + settle},
		{12*time.Minute + settle, 12 * time.Minute, 12*time.Minute + settle},
		{time.Hour, 12 * time.Minute, 12*time.Minute + settle},
	} {
		got, windows, due, next := WatchWindow(noon, until, window, settle, noon.Add(test.after))
		if windows != 3 || due != (test.end > 0) || !next.Equal(noon.Add(test.next)) ||
			(due && got != Window{noon.Add(test.end - window), noon.Add(test.end)}) {
			t.Errorf("after %s: %v of %d, due %t, next %s", test.after, got, windows, due, next.Sub(noon))
		}
	}
	if got, windows, due, _ := WatchWindow(noon, noon.Add(time.Minute), window, settle, noon.Add(61*time.Second)); windows != 1 || !due || !got.End.Equal(noon.Add(time.Minute)) {
		t.Errorf("a watch shorter than a window: %v of %d, due %t", got, windows, due)
	}
}

func TestReward(t *testing.T) {
	for _, test := range []struct {
		name   string
		gains  []Weighted
		reward string
		total  string
	}{
		{"no difference", []Weighted{{0, 1}, {0, 3}}, "0.5", "+0.0%"},
		{"a fifth better", []Weighted{{20, 1}}, "0.6", "+20.0%"},
		{"by weight", []Weighted{{40, 3}, {-20, 1}}, "0.625", "+25.0%"},
		{"what weighs nothing counts for nothing", []Weighted{{40, 1}, {-90, 0}}, "0.7", "+40.0%"},
		{"all weigh nothing", []Weighted{{40, 0}, {-20, 0}}, "0.55", "+10.0%"},
		{"tenfold", []Weighted{{900, 1}}, "1", "+900.0%"},
		{"tenfold worse", []Weighted{{-900, 1}}, "0", "-900.0%"},
		{"digits", []Weighted{{100.0 / 3, 1}}, "0.666667", "+33.3%"},
	} {
		t.Run(test.name, func(t *testing.T) {
			reward, ok := Reward(test.gains)
			total, _ := TotalGain(test.gains)
			if !ok || FormatReward(reward) != test.reward || FormatPercent(total) != test.total {
				t.Errorf("reward %s, gain %s, want %s and %s", FormatReward(reward), FormatPercent(total), test.reward, test.total)
			}
		})
	}
	better := []Weighted{{20, 1}}
	for verdict, want := range map[dgmv1alpha1.Verdict]string{
		dgmv1alpha1.VerdictPass: "0.6", dgmv1alpha1.VerdictInconclusive: "0.6", dgmv1alpha1.VerdictFail: "0", dgmv1alpha1.VerdictNoData: "",
	} {
		if got := RewardOf(verdict, better); got != want {
			t.Errorf("P5: the reward of %s is %q, want %q", verdict, got, want)
		}
	}
	if RewardOf(dgmv1alpha1.VerdictPass, nil) != "" || RewardOf(dgmv1alpha1.VerdictFail, nil) != "0" {
		t.Error("P5: what was not measured has a reward, or a Fail has none")
	}
	if _, ok := Reward(nil); ok {
		t.Error("there is a reward without gains")
	}
}

func TestP5_RewardProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gain := rapid.Float64Range(-1e6, 1e6)
		gains := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Weighted {
			return Weighted{Gain: gain.Draw(t, "gain"), Weight: rapid.Float64Range(0, 1000).Draw(t, "weight")}
		}), 1, 16).Draw(t, "gains")
		reward, _ := Reward(gains)
		if reward < 0 || reward > 1 || math.IsNaN(reward) {
			t.Fatalf("reward %v", reward)
		}
		better := append([]Weighted(nil), gains...)
		i := rapid.IntRange(0, len(gains)-1).Draw(t, "better")
		better[i].Gain += rapid.Float64Range(0, 1e6).Draw(t, "by")
		if more, _ := Reward(better); more < reward-1e-12 {
			t.Fatalf("a better metric makes the reward fall from %v to %v", reward, more)
		}
		for i := range gains {
			gains[i].Gain = 0
		}
		if none, _ := Reward(gains); none != 0.5 {
			t.Fatalf("no change gives %v", none)
		}
	})
}

func TestJobSamples(t *testing.T) {
	const results = `{"metrics": {"p99": {"baseline": [1, 2, 3], "candidate": [4, null, 5.5]}}, "passed": true}`
	before, after, err := JobSamples(json.RawMessage(results), "p99", noon)
	if err != nil || len(before) != 3 || before[0].Value != 1 || after[2].Value != 5.5 || !math.IsNaN(after[1].Value) {
		t.Fatalf("%v, %v, %v", before, after, err)
	}
	if !before[0].At.Before(before[1].At) || !before[2].At.Before(noon) {
		t.Errorf("the times are %v", before)
	}
	for bad, reason := range map[string]string{
		"null":                                  "no metrics.p99",
		`{"metrics": {}}`:                       "no metrics.p99",
		`{"metrics": {"p99": {"baseline": 3}}}`: "cannot unmarshal",
		`[1]`:                                   "are not",
	} {
		if _, _, err := JobSamples(json.RawMessage(bad), "p99", noon); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want %q", bad, err, reason)
		}
	}
}
