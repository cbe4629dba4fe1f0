// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// claimBook finds candidates by what they claim: of thousands only those that
// matter are looked at.
type claimBook struct {
	candidates map[string]lifecycle.Candidate // by uid
	claimants  map[namespacedClaim]map[string]struct{}
	names      map[types.NamespacedName]map[string]struct{}
}

type namespacedClaim struct {
	namespace string
	claim     lifecycle.Claim
}

func newClaimBook() *claimBook {
	return &claimBook{
		candidates: map[string]lifecycle.Candidate{},
		claimants:  map[namespacedClaim]map[string]struct{}{},
		names:      map[types.NamespacedName]map[string]struct{}{},
	}
}

func (b *claimBook) has(uid string) bool {
	_, found := b.candidates[uid]
	return found
}

// put adds a candidate, or what it claims now instead of before.
func (b *claimBook) put(candidate lifecycle.Candidate) {
	b.drop(candidate.UID)
	b.candidates[candidate.UID] = candidate
	addTo(b.names, keyOf(candidate), candidate.UID)
	for _, claim := range candidate.Claims {
		addTo(b.claimants, namespacedClaim{candidate.Namespace, claim}, candidate.UID)
	}
}

func (b *claimBook) drop(uid string) (lifecycle.Candidate, bool) {
	candidate, found := b.candidates[uid]
	if !found {
		return lifecycle.Candidate{}, false
	}
	delete(b.candidates, uid)
	removeFrom(b.names, keyOf(candidate), uid)
	for _, claim := range candidate.Claims {
		removeFrom(b.claimants, namespacedClaim{candidate.Namespace, claim}, uid)
	}
	return candidate, true
}

// sharing calls visit for each other candidate and claim that both have.
func (b *claimBook) sharing(with lifecycle.Candidate, visit func(lifecycle.Candidate, lifecycle.Claim)) {
	for _, claim := range with.Claims {
		for uid := range b.claimants[namespacedClaim{with.Namespace, claim}] {
			if uid != with.UID {
				visit(b.candidates[uid], claim)
			}
		}
	}
}

// named are the uids of the candidates of that name.
func (b *claimBook) named(key types.NamespacedName) []string {
	var uids []string
	for uid := range b.names[key] {
		uids = append(uids, uid)
	}
	return uids
}

func addTo[K comparable](sets map[K]map[string]struct{}, key K, uid string) {
	if sets[key] == nil {
		sets[key] = map[string]struct{}{}
	}
	sets[key][uid] = struct{}{}
}

func removeFrom[K comparable](sets map[K]map[string]struct{}, key K, uid string) {
	delete(sets[key], uid)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}
