// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// claims keeps who holds what (P13). The cache lags behind our own writes, so
// that it alone cannot tell; this is rebuilt from it at start and is exact from
// then on, since only the leader begins improvements.
type claims struct {
	mu      sync.Mutex
	holders map[string]lifecycle.Candidate // by uid: active improvements
	waiting map[string]lifecycle.Candidate // by uid: those that wait for nothing else
	wake    func(types.NamespacedName)
}

func newClaims(wake func(types.NamespacedName)) *claims {
	return &claims{
		holders: map[string]lifecycle.Candidate{},
		waiting: map[string]lifecycle.Candidate{},
		wake:    wake,
	}
}

// Hold notes an improvement as active, as found at start.
func (c *claims) Hold(candidate lifecycle.Candidate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders[candidate.UID] = candidate
	delete(c.waiting, candidate.UID)
}

// Acquire takes the candidate's claims if nobody holds any of them and nobody
// who goes first waits for one; else it names who does, and notes the candidate
// as waiting.
func (c *claims) Acquire(candidate lifecycle.Candidate) (blocker string, claim lifecycle.Claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, held := c.holders[candidate.UID]; held {
		return "", ""
	}
	for _, holder := range c.holders {
		if shared := candidate.Shared(holder); shared != "" && (blocker == "" || holder.Name < blocker) {
			blocker, claim = holder.Name, shared
		}
	}
	if blocker == "" {
		for uid, other := range c.waiting {
			if shared := candidate.Shared(other); uid != candidate.UID && shared != "" && other.Precedes(candidate) {
				blocker, claim = other.Name, shared
				break
			}
		}
	}
	if blocker != "" {
		c.waiting[candidate.UID] = candidate
		return blocker, claim
	}
	delete(c.waiting, candidate.UID)
	c.holders[candidate.UID] = candidate
	return "", ""
}

// Release gives up what an improvement holds or waits for and wakes those who
// wait for it.
func (c *claims) Release(uid string) {
	c.mu.Lock()
	released, held := c.holders[uid]
	if !held {
		released, held = c.waiting[uid]
	}
	delete(c.holders, uid)
	delete(c.waiting, uid)
	var wake []types.NamespacedName
	if held {
		wake = c.nextAfter(released)
	}
	c.mu.Unlock()
	for _, key := range wake {
		c.wake(key)
	}
}

// nextAfter are those that what was released may let begin. Who shares a claim
// with one that goes first is woken when that one has ended, or waits no more:
// of thousands that wait for one service each end wakes one, not all.
func (c *claims) nextAfter(released lifecycle.Candidate) []types.NamespacedName {
	var waiting []lifecycle.Candidate
	for _, other := range c.waiting {
		if other.Shared(released) != "" {
			waiting = append(waiting, other)
		}
	}
	slices.SortFunc(waiting, func(a, b lifecycle.Candidate) int {
		if a.Precedes(b) {
			return -1
		}
		return 1
	})
	var next []types.NamespacedName
	taken := map[lifecycle.Claim]struct{}{}
	for _, candidate := range waiting {
		if !slices.ContainsFunc(candidate.Claims, func(claim lifecycle.Claim) bool { _, ok := taken[claim]; return ok }) {
			next = append(next, types.NamespacedName{Namespace: candidate.Namespace, Name: candidate.Name})
		}
		for _, claim := range candidate.Claims {
			taken[claim] = struct{}{}
		}
	}
	return next
}

// ReleaseName releases what the object of that name holds, whatever its uid.
func (c *claims) ReleaseName(key types.NamespacedName) {
	c.mu.Lock()
	var uids []string
	for _, m := range []map[string]lifecycle.Candidate{c.holders, c.waiting} {
		for uid, candidate := range m {
			if candidate.Namespace == key.Namespace && candidate.Name == key.Name {
				uids = append(uids, uid)
			}
		}
	}
	c.mu.Unlock()
	for _, uid := range uids {
		c.Release(uid)
	}
}
