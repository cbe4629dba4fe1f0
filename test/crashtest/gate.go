// SPDX-License-Identifier: Apache-2.0

// Package crashtest ends a manager right after a write that it has made to the
// API server or to the database. It stands between the manager and both, and
// notes what they have taken.
//
// Between two writes nothing changes outside of the manager: ended after one and
// ended before the next are the same. So before the first and after each are all
// the moments there are.
package crashtest

import (
	"errors"
	"fmt"
	"sync"
)

// Write is one write that was made.
type Write struct {
	// Phase is the phase that status shows when it is made.
	Phase string
	// What it writes, for people.
	What string
	// Time is how many writes of the same there were, with this one.
	Time int
}

func (w Write) String() string {
	if w.Time > 1 {
		return fmt.Sprintf("%s (%d)", w.What, w.Time)
	}
	return w.What
}

// Never is a Write that never comes.
var Never = Write{Time: -1}

// errEnded is the answer to a manager that is gone.
var errEnded = errors.New("the manager was ended")

// Gate notes writes, and ends the manager at one of them.
type Gate struct {
	mu     sync.Mutex
	kill   func()
	at     Write
	armed  bool
	ended  bool
	phase  string
	writes []Write
}

// Arm begins to note, and has the manager ended by kill, with SIGKILL, when a
// write like this has been made; the zero Write stands for before the first.
func (g *Gate) Arm(at Write, kill func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kill, g.at, g.armed, g.ended, g.phase, g.writes = kill, at, true, false, "", nil
}

// Disarm ends that and returns what was written up to then, and whether the manager
// was ended.
func (g *Gate) Disarm() (writes []Write, ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = false
	return g.writes, g.ended
}

// begin is asked before a write is passed on.
func (g *Gate) begin() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.armed && !g.ended && g.at == (Write{}) && len(g.writes) == 0 {
		return g.end()
	}
	return nil
}

// made is told of a write before its answer is passed on. phase is the phase
// that it writes into status, if any.
func (g *Gate) made(what, phase string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.armed || g.ended {
		return nil // what another manager writes then is how it goes on
	}
	if phase != "" {
		g.phase = phase
	}
	write := Write{Phase: g.phase, What: what, Time: 1}
	for _, other := range g.writes {
		if other.What == what && other.Phase == g.phase {
			write.Time++
		}
	}
	g.writes = append(g.writes, write)
	if write == g.at {
		return g.end()
	}
	return nil
}

func (g *Gate) end() error {
	g.ended = true
	g.kill()
	return errEnded
}
