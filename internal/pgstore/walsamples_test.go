// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"testing"
	"time"
)

func TestLagIsTheTimeSinceTheNewestSampleThatAReplicaHolds(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	working := []walSample{{at(0), 100}, {at(2), 200}, {at(4), 300}}
	resting := []walSample{{at(0), 100}, {at(2), 100}, {at(600), 100}}
	for name, c := range map[string]struct {
		samples  []walSample
		now      time.Time
		replayed int64
		lag      time.Duration
		known    bool
	}{
		"nothing is known":             {nil, at(0), 100, 0, false},
		"holds none":                   {working, at(5), 99, 0, false},
		"holds the oldest":             {working, at(5), 150, 5 * time.Second, true},
		"exactly at a sample":          {working, at(5), 200, 3 * time.Second, true},
		"holds all":                    {working, at(5), 300, 0, true},
		"is ahead of the last one":     {working, at(5), 5000, 0, true},
		"primary at rest":              {resting, at(601), 100, 0, true},
		"primary at rest, replica not": {resting, at(601), 99, 0, false},
		"no sample for long":           {working, at(64), 300, 58 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := walSamples{keep: time.Hour}
			for _, s := range c.samples {
				w.add(s.at, s.position)
			}
			if lag, known := w.lag(c.now, c.replayed); lag != c.lag || known != c.known {
				t.Errorf("lag = %s, %t, want %s, %t", lag, known, c.lag, c.known)
			}
		})
	}
}

func TestOldSamplesAreLetGo(t *testing.T) {
	t.Parallel()
	w, start := walSamples{keep: time.Minute}, time.Now()
	for n := range 10_000 {
		w.add(start.Add(time.Duration(n)*watchInterval), int64(n))
	}
	if len(w.samples) > 32 {
		t.Errorf("%d samples of a minute are kept", len(w.samples))
	}
	now := start.Add(9999 * watchInterval)
	if lag, known := w.lag(now, 9980); lag != 19*watchInterval || !known {
		t.Errorf("lag = %s, %t, want %s", lag, known, 19*watchInterval)
	}
}
