// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// claims keeps who holds what (P13), and how many are active at once. The cache
// lags behind our own writes, so that it alone cannot tell; this is rebuilt from
// it at start and is exact from then on, since only the leader begins improvements.
type claims struct {
	mu      sync.Mutex
	holders *claimBook // active improvements, and those that are just being planned
	active  map[string]struct{}
	waiting *claimBook // those that wait for a holder's end, and for nothing else
	// queue are those of waiting that only wait for room below the limit, in order.
	queue []lifecycle.Candidate
	limit func() int
	wake  func(types.NamespacedName)
}

func newClaims(wake func(types.NamespacedName), limit func() int) *claims {
	return &claims{
		holders: newClaimBook(), active: map[string]struct{}{}, waiting: newClaimBook(), limit: limit, wake: wake,
	}
}

// Hold notes an improvement as active, as found at start.
func (c *claims) Hold(candidate lifecycle.Candidate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold(candidate)
}

func (c *claims) hold(candidate lifecycle.Candidate) {
	c.stopWaiting(candidate.UID)
	c.holders.put(candidate)
	c.active[candidate.UID] = struct{}{}
}

// HoldAside keeps an improvement's claims without counting it as active: its kept
// change is watched, or a person is awaited.
func (c *claims) HoldAside(candidate lifecycle.Candidate) {
	c.mu.Lock()
	var wake []types.NamespacedName
	if _, active := c.active[candidate.UID]; active || !c.holders.has(candidate.UID) {
		c.stopWaiting(candidate.UID)
		c.holders.put(candidate)
		delete(c.active, candidate.UID)
		wake = c.nextInQueue()
	}
	c.mu.Unlock()
	c.wakeAll(wake)
}

// Acquire takes the candidate's claims if nobody holds any of them and nobody who
// goes first waits for one; else it says what holds it up, and notes the candidate
// as waiting. One that stands in the queue stays there until it has its turn.
func (c *claims) Acquire(candidate lifecycle.Candidate) lifecycle.Blocker {
	c.mu.Lock()
	blocker, wake := c.acquire(candidate)
	c.mu.Unlock()
	c.wakeAll(wake)
	return blocker
}

func (c *claims) acquire(candidate lifecycle.Candidate) (lifecycle.Blocker, []types.NamespacedName) {
	if c.holders.has(candidate.UID) {
		return lifecycle.Blocker{}, nil
	}
	place, queued := slices.BinarySearchFunc(c.queue, candidate, inOrder)
	if queued && place >= c.room() {
		return lifecycle.Blocker{Limit: c.limit()}, nil
	}
	c.stopWaiting(candidate.UID)
	if blocker := c.overlap(candidate); blocker.Name != "" {
		c.waiting.put(candidate)
		return blocker, c.nextInQueue() // it may have stood there, in front of others
	}
	c.holders.put(candidate)
	if queued {
		c.active[candidate.UID] = struct{}{}
	}
	return lifecycle.Blocker{}, nil
}

// TakeRoom makes a candidate that holds its claims active if there is room below
// the limit besides those who go first; else it gives its claims up again and
// stands in the queue.
func (c *claims) TakeRoom(candidate lifecycle.Candidate) lifecycle.Blocker {
	c.mu.Lock()
	blocker, wake := c.takeRoom(candidate)
	c.mu.Unlock()
	c.wakeAll(wake)
	return blocker
}

func (c *claims) takeRoom(candidate lifecycle.Candidate) (lifecycle.Blocker, []types.NamespacedName) {
	if _, active := c.active[candidate.UID]; active {
		return lifecycle.Blocker{}, nil
	}
	place, _ := slices.BinarySearchFunc(c.queue, candidate, inOrder)
	if place < c.room() {
		c.hold(candidate)
		return lifecycle.Blocker{}, nil
	}
	c.holders.drop(candidate.UID)
	wake := c.nextAfter(candidate)
	c.waiting.put(candidate)
	c.queue = slices.Insert(c.queue, place, candidate)
	return lifecycle.Blocker{Limit: c.limit()}, wake
}

// AcquireBeyondLimit is Acquire for what must not wait for room: a rollback.
func (c *claims) AcquireBeyondLimit(candidate lifecycle.Candidate) lifecycle.Blocker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders.has(candidate.UID) {
		return lifecycle.Blocker{}
	}
	c.stopWaiting(candidate.UID)
	if blocker := c.overlap(candidate); blocker.Name != "" {
		c.waiting.put(candidate)
		return blocker
	}
	c.hold(candidate)
	return lifecycle.Blocker{}
}

// overlap names who holds what the candidate claims, or waits for it and goes first.
func (c *claims) overlap(candidate lifecycle.Candidate) lifecycle.Blocker {
	var blocker lifecycle.Blocker
	c.holders.sharing(candidate, func(holder lifecycle.Candidate, claim lifecycle.Claim) {
		if blocker.Name == "" || holder.Name < blocker.Name {
			blocker = lifecycle.Blocker{Name: holder.Name, Claim: claim}
		}
	})
	if blocker.Name != "" {
		return blocker
	}
	var first lifecycle.Candidate
	c.waiting.sharing(candidate, func(other lifecycle.Candidate, claim lifecycle.Claim) {
		if other.Precedes(candidate) && (blocker.Name == "" || other.Precedes(first)) {
			blocker, first = lifecycle.Blocker{Name: other.Name, Claim: claim}, other
		}
	})
	return blocker
}

// room is how many more may be active.
func (c *claims) room() int { return max(0, c.limit()-len(c.active)) }

func (c *claims) stopWaiting(uid string) (lifecycle.Candidate, bool) {
	waited, found := c.waiting.drop(uid)
	if found {
		if place, queued := slices.BinarySearchFunc(c.queue, waited, inOrder); queued {
			c.queue = slices.Delete(c.queue, place, place+1)
		}
	}
	return waited, found
}

// Release gives up what an improvement holds or waits for and wakes those who
// wait for it.
func (c *claims) Release(uid string) {
	c.mu.Lock()
	released, held := c.holders.drop(uid)
	delete(c.active, uid)
	if waited, ok := c.stopWaiting(uid); ok && !held {
		released, held = waited, true
	}
	var wake []types.NamespacedName
	if held {
		wake = c.nextAfter(released)
		for _, key := range c.nextInQueue() {
			if !slices.Contains(wake, key) {
				wake = append(wake, key)
			}
		}
	}
	c.mu.Unlock()
	c.wakeAll(wake)
}

func (c *claims) wakeAll(keys []types.NamespacedName) {
	for _, key := range keys {
		c.wake(key)
	}
}

// nextAfter are those that what was released may let begin. Who shares a claim
// with one that goes first is woken when that one has ended, or waits no more:
// of thousands that wait for one service each end wakes one, not all.
func (c *claims) nextAfter(released lifecycle.Candidate) []types.NamespacedName {
	var sharing []lifecycle.Candidate
	c.waiting.sharing(released, func(other lifecycle.Candidate, _ lifecycle.Claim) { sharing = append(sharing, other) })
	slices.SortFunc(sharing, inOrder)
	sharing = slices.CompactFunc(sharing, func(a, b lifecycle.Candidate) bool { return a.UID == b.UID })
	var next []types.NamespacedName
	taken := map[lifecycle.Claim]struct{}{}
	for _, candidate := range sharing {
		if !slices.ContainsFunc(candidate.Claims, func(claim lifecycle.Claim) bool { _, ok := taken[claim]; return ok }) {
			next = append(next, keyOf(candidate))
		}
		for _, claim := range candidate.Claims {
			taken[claim] = struct{}{}
		}
	}
	return next
}

// nextInQueue are the first of the queue, as many as there is room for.
func (c *claims) nextInQueue() []types.NamespacedName {
	var next []types.NamespacedName
	for _, candidate := range c.queue[:min(c.room(), len(c.queue))] {
		next = append(next, keyOf(candidate))
	}
	return next
}

// inOrder compares by who goes first.
func inOrder(a, b lifecycle.Candidate) int {
	switch {
	case a.Precedes(b):
		return -1
	case b.Precedes(a):
		return 1
	default:
		return strings.Compare(a.UID, b.UID)
	}
}

func keyOf(candidate lifecycle.Candidate) types.NamespacedName {
	return types.NamespacedName{Namespace: candidate.Namespace, Name: candidate.Name}
}

// ReleaseName releases what the object of that name holds, whatever its uid.
func (c *claims) ReleaseName(key types.NamespacedName) {
	c.mu.Lock()
	uids := append(c.holders.named(key), c.waiting.named(key)...)
	c.mu.Unlock()
	for _, uid := range uids {
		c.Release(uid)
	}
}
