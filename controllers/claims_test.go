// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

func waiter(name string, priority dgmv1alpha1.Priority, wants ...lifecycle.Claim) lifecycle.Candidate {
	return lifecycle.Candidate{UID: name, Namespace: "shop", Name: name, Priority: priority, Created: time.Unix(0, 0), Claims: wants}
}

// begin is what an improvement goes through before it is active.
func begin(c *claims, candidate lifecycle.Candidate) lifecycle.Blocker {
	if blocker := c.Acquire(candidate); blocker != (lifecycle.Blocker{}) {
		return blocker
	}
	return c.TakeRoom(candidate)
}

func noLimit() int { return 1 << 30 }

func TestP13_ReleaseWakesWhoGoesNext(t *testing.T) {
	var woken []string
	c := newClaims(func(key types.NamespacedName) { woken = append(woken, key.Name) }, noLimit)
	c.Acquire(waiter("running", dgmv1alpha1.PriorityLow, "x", "y"))
	for _, w := range []lifecycle.Candidate{
		waiter("later", dgmv1alpha1.PriorityLow, "x"), waiter("first", dgmv1alpha1.PriorityHigh, "x"),
		waiter("beside", dgmv1alpha1.PriorityLow, "y"), waiter("both", dgmv1alpha1.PriorityLow, "x", "y"),
	} {
		if blocker := c.Acquire(w); blocker.Name != "running" {
			t.Fatalf("%s is blocked by %+v, want running", w.Name, blocker)
		}
	}
	c.Release("running")
	if want := []string{"first", "beside"}; !slices.Equal(woken, want) {
		t.Errorf("woken are %v, want %v", woken, want)
	}
}

// Whatever the claims, everybody gets its turn by being woken alone, and of many
// that want the same each end wakes one.
func TestP13_EverybodyIsWokenInTheEnd(t *testing.T) {
	const many = 200
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		var queue []types.NamespacedName
		limit := noLimit()
		if seed%2 == 0 {
			limit = 3
		}
		c := newClaims(func(key types.NamespacedName) { queue = append(queue, key) }, func() int { return limit })
		all := map[string]lifecycle.Candidate{}
		for i := range many {
			name := fmt.Sprintf("w%03d", i)
			wants := []lifecycle.Claim{lifecycle.Claim(fmt.Sprint("a", random.IntN(4))), lifecycle.Claim(fmt.Sprint("b", random.IntN(1+int(seed))))}
			all[name] = waiter(name, []dgmv1alpha1.Priority{dgmv1alpha1.PriorityLow, dgmv1alpha1.PriorityHigh}[random.IntN(2)], wants...)
			queue = append(queue, types.NamespacedName{Name: name})
		}
		ended, tries := map[string]bool{}, 0
		var running []string
		for len(queue) > 0 || len(running) > 0 {
			if len(queue) > 0 && (len(running) == 0 || random.IntN(2) == 0) {
				name := queue[0].Name
				queue = queue[1:]
				if ended[name] || slices.Contains(running, name) {
					continue // it wants nothing any more
				}
				tries++
				if begin(c, all[name]) == (lifecycle.Blocker{}) {
					running = append(running, name)
				}
				if len(running) > limit {
					t.Fatalf("seed %d: %d run at once", seed, len(running))
				}
				continue
			}
			at := random.IntN(len(running))
			ended[running[at]] = true
			c.Release(running[at])
			running = slices.Delete(running, at, at+1)
		}
		if len(ended) != many {
			t.Errorf("seed %d: %d of %d had their turn", seed, len(ended), many)
		}
		if tries > 8*many {
			t.Errorf("seed %d: %d tries for %d improvements", seed, tries, many)
		}
	}
}

func TestConcurrencyLimit(t *testing.T) {
	var woken []string
	limit := 1
	c := newClaims(func(key types.NamespacedName) { woken = append(woken, key.Name) }, func() int { return limit })
	acquire := func(want lifecycle.Blocker, w lifecycle.Candidate) {
		t.Helper()
		if got := begin(c, w); got != want {
			t.Fatalf("%s is held up by %+v, want %+v", w.Name, got, want)
		}
	}
	low, high, other := waiter("low", dgmv1alpha1.PriorityLow, "b"), waiter("high", dgmv1alpha1.PriorityHigh, "c"), waiter("other", dgmv1alpha1.PriorityLow, "d")
	acquire(lifecycle.Blocker{}, waiter("running", dgmv1alpha1.PriorityLow, "a"))
	acquire(lifecycle.Blocker{Limit: 1}, low)
	acquire(lifecycle.Blocker{Limit: 1}, high)
	if blocker := c.AcquireBeyondLimit(waiter("rollback", dgmv1alpha1.PriorityLow, "z")); blocker != (lifecycle.Blocker{}) {
		t.Fatalf("a rollback waits for %+v", blocker)
	}
	c.Release("rollback")
	c.Release("running")
	if want := []string{"high"}; !slices.Equal(woken, want) {
		t.Fatalf("woken are %v, want %v", woken, want)
	}
	acquire(lifecycle.Blocker{Limit: 1}, other) // the room is high's, who comes in a moment
	c.Release("high")                           // but has found something else to wait for
	if want := []string{"high", "low"}; !slices.Equal(woken, want) {
		t.Fatalf("woken are %v, want %v", woken, want)
	}
	if blocker := c.Acquire(waiter("planned", dgmv1alpha1.PriorityLow, "p")); blocker != (lifecycle.Blocker{}) {
		t.Fatalf("what is only planned needs no room, and waits for %+v", blocker)
	}
	c.Release("planned")
	acquire(lifecycle.Blocker{}, low)
	limit = 2
	acquire(lifecycle.Blocker{}, other)
}

func TestP13_AWatchHoldsItsClaimsAndNoRoom(t *testing.T) {
	var woken []string
	c := newClaims(func(key types.NamespacedName) { woken = append(woken, key.Name) }, func() int { return 1 })
	kept, beside := waiter("kept", dgmv1alpha1.PriorityLow, "x"), waiter("beside", dgmv1alpha1.PriorityLow, "y")
	begin(c, kept)
	if blocker := begin(c, beside); blocker.Limit != 1 {
		t.Fatalf("held up by %+v, want the limit", blocker)
	}
	c.HoldAside(kept)
	c.HoldAside(kept)
	if want := []string{"beside"}; !slices.Equal(woken, want) {
		t.Errorf("woken are %v, want %v", woken, want)
	}
	if blocker := begin(c, beside); blocker != (lifecycle.Blocker{}) {
		t.Errorf("a watch takes room: %+v", blocker)
	}
	if blocker := begin(c, waiter("same", dgmv1alpha1.PriorityHigh, "x")); blocker.Name != "kept" {
		t.Errorf("held up by %+v, want kept", blocker)
	}
	c.Release("kept")
	if want := []string{"beside", "same"}; !slices.Equal(woken, want) {
		t.Errorf("woken are %v, want %v", woken, want)
	}
}
