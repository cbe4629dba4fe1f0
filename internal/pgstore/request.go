// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// request is what one caller wants of one object to be in the database. Exactly
// one of improvement, policy and tombstone is set.
type request struct {
	kind   Kind
	object Object // of a tombstone: UID is the one that stays

	improvement *Improvement
	policy      *Policy
	tombstone   bool
	snapshot    *dbsql.InsertSnapshotParams // with an improvement

	digest   digest // of everything
	content  digest // of an improvement without its object: what P11 protects
	revision int64
	// changed: the database is known to hold something else, or a snapshot goes
	// with it, so that comparing first would be in vain.
	changed bool

	// joined are earlier requests for the same rows, which this one replaces.
	joined []*request
	err    error
	done   chan error
}

func (r *request) answer(err error) {
	for _, j := range r.joined {
		j.answer(err)
	}
	r.done <- err // has room for one
}

type nameKey struct {
	kind            Kind
	namespace, name string
}

func (r *request) nameKey() nameKey { return nameKey{r.kind, r.object.Namespace, r.object.Name} }

// batch is what goes into one transaction: at most one request per row.
type batch struct {
	requests []*request
	byName   map[nameKey]*request
	size     int // bytes, roughly
}

// maxBatchSize bounds the bytes of a transaction: PostgreSQL takes no message of
// 1 GiB, and a batch that is tried again is sent again.
const maxBatchSize = 16 << 20

func newBatch() *batch { return &batch{byName: map[nameKey]*request{}} }

// add takes a request in, or returns false when it must wait for the next
// transaction: what it says about a name depends on the order of writing, or the
// batch would become too large.
func (b *batch) add(r *request) bool {
	earlier, found := b.byName[r.nameKey()]
	size := r.size()
	if len(b.requests) > 0 && b.size+size > maxBatchSize {
		return false
	}
	if !found {
		b.size += size
		b.byName[r.nameKey()] = r
		b.requests = append(b.requests, r)
		return true
	}
	if !r.replaces(earlier) {
		return false
	}
	b.size += size
	r.joined = append(r.joined, earlier)
	r.changed = r.changed || earlier.changed
	if r.snapshot == nil {
		r.snapshot = earlier.snapshot
	}
	b.byName[r.nameKey()] = r
	for i := range b.requests {
		if b.requests[i] == earlier {
			b.requests[i] = r
		}
	}
	return true
}

func (r *request) replaces(earlier *request) bool {
	if r.tombstone || earlier.tombstone || r.object.UID != earlier.object.UID {
		return false
	}
	return r.improvement == nil || r.improvement.ImprovementID == earlier.improvement.ImprovementID
}

// groups sorts requests by what is to be done with them, in the order of tables.
type groups struct {
	improvements, snapshots, policies    []*request
	deletedImprovements, deletedPolicies []*request
}

func groupRequests(requests []*request) groups {
	var g groups
	for _, r := range requests {
		switch {
		case r.improvement != nil:
			g.improvements = append(g.improvements, r)
			if r.snapshot != nil {
				g.snapshots = append(g.snapshots, r)
			}
		case r.policy != nil:
			g.policies = append(g.policies, r)
		case r.kind == KindImprovementWorkspace:
			g.deletedImprovements = append(g.deletedImprovements, r)
		default:
			g.deletedPolicies = append(g.deletedPolicies, r)
		}
	}
	sortImprovements(g.improvements)
	return g
}
