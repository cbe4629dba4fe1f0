// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"sync"
	"time"
)

// walSample says that what was committed before a time is in the log up to a
// position, in bytes.
type walSample struct {
	at       time.Time
	position int64
}

// walSamples tells how old what a replica shows is, from how far it has replayed
// the log. PostgreSQL's own answer, the time of the last replayed commit, grows
// while the primary has nothing to do.
type walSamples struct {
	mu      sync.Mutex
	keep    time.Duration
	samples []walSample // by time, and so by position
}

// add notes that the log had come to a position no earlier than at.
func (w *walSamples) add(at time.Time, position int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples = append(w.samples, walSample{at, position})
	old := 0
	for old < len(w.samples)-1 && at.Sub(w.samples[old].at) > w.keep {
		old++
	}
	w.samples = append(w.samples[:0], w.samples[old:]...)
}

// lag is how much may be missing of a server that has replayed the log up to a
// position: the time since the newest sample that it holds, of which one
// interval between samples is forgiven. It is not known when the server holds no
// sample.
func (w *walSamples) lag(now time.Time, replayed int64) (lag time.Duration, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.samples) - 1; i >= 0; i-- {
		s := w.samples[i]
		if s.position > replayed {
			continue
		}
		age := now.Sub(s.at)
		if i == len(w.samples)-1 {
			age -= watchInterval // nothing newer is known of the primary either
		}
		return max(0, age), true
	}
	return 0, false
}
