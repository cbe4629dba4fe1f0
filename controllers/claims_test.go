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

func TestP13_ReleaseWakesWhoGoesNext(t *testing.T) {
	var woken []string
	c := newClaims(func(key types.NamespacedName) { woken = append(woken, key.Name) })
	c.Acquire(waiter("running", dgmv1alpha1.PriorityLow, "x", "y"))
	for _, w := range []lifecycle.Candidate{
		waiter("later", dgmv1alpha1.PriorityLow, "x"), waiter("first", dgmv1alpha1.PriorityHigh, "x"),
		waiter("beside", dgmv1alpha1.PriorityLow, "y"), waiter("both", dgmv1alpha1.PriorityLow, "x", "y"),
	} {
		if blocker, _ := c.Acquire(w); blocker != "running" {
			t.Fatalf("%s is blocked by %q, want running", w.Name, blocker)
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
		c := newClaims(func(key types.NamespacedName) { queue = append(queue, key) })
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
				if blocker, _ := c.Acquire(all[name]); blocker == "" {
					running = append(running, name)
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
