// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Claim is one thing that only one active improvement may hold: a service or an
// object, written for people.
type Claim string

// Claims are what an improvement holds while it is active (P13): its target
// service and every object that it changes, in its namespace.
func Claims(w *dgmv1alpha1.ImprovementWorkspace) []Claim {
	claims := []Claim{Claim("service " + w.Spec.Target.Service)}
	for _, c := range w.Spec.Changes {
		claims = append(claims, ClaimOf(c.TargetRef))
	}
	if w.Spec.Rollout == nil {
		return claims
	}
	for _, restarted := range w.Spec.Rollout.Restart {
		if claim := ClaimOf(restarted.ObjectReference()); !slices.Contains(claims, claim) {
			claims = append(claims, claim)
		}
	}
	return claims
}

// ClaimOf is the claim on an object, whatever version of its API names it.
func ClaimOf(ref dgmv1alpha1.ObjectReference) Claim {
	return Claim(ref.GroupVersionKind().GroupKind().String() + " " + ref.Name)
}

// HoldsAside reports whether an improvement keeps its claims and does not count as
// active: nothing is done for it until a person has spoken, or its kept change is
// watched. When it goes on it does so at once, even if as many as may be active
// are: it has waited for its turn already.
func HoldsAside(w *dgmv1alpha1.ImprovementWorkspace) bool {
	switch w.Status.Phase {
	case dgmv1alpha1.PhaseAwaitingApproval:
		return true
	case dgmv1alpha1.PhaseObserving:
		return CurrentStanding(w).Stalled
	default:
		return w.Watching()
	}
}

// Candidate is an improvement that wants its claims.
type Candidate struct {
	UID       string
	Namespace string
	Name      string
	Priority  dgmv1alpha1.Priority
	Created   time.Time
	Claims    []Claim
}

// Precedes reports whether a goes before b when both want the same: the higher
// priority, then the older, then the lower name.
func (a Candidate) Precedes(b Candidate) bool {
	if a.Priority.Rank() != b.Priority.Rank() {
		return a.Priority.Rank() > b.Priority.Rank()
	}
	if !a.Created.Equal(b.Created) {
		return a.Created.Before(b.Created)
	}
	return a.Name < b.Name
}

// Shared is the first claim that both have in one namespace, "" when none.
func (a Candidate) Shared(b Candidate) Claim {
	if a.Namespace != b.Namespace {
		return ""
	}
	held := make(map[Claim]struct{}, len(b.Claims))
	for _, c := range b.Claims {
		held[c] = struct{}{}
	}
	for _, c := range a.Claims {
		if _, ok := held[c]; ok {
			return c
		}
	}
	return ""
}
