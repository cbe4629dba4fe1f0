// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const syncTimeout = 10 * time.Minute

const liveRows = `SELECT count(*) FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id)
	WHERE w.cluster = $1 AND w.namespace = $2 AND w.deleted_at IS NULL AND a.deleted_at IS NULL`

func waitForRows(ctx context.Context, database, namespace string, want int) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for deadline := time.Now().Add(syncTimeout); ; {
		var found int
		if err := conn.QueryRow(ctx, liveRows, clusterName, namespace).Scan(&found); err != nil {
			return err
		}
		if found == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d workspaces are in the database after %s", found, want, syncTimeout)
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// waitForSynced waits until every object says that it is in the database and
// returns the revision of the last one to do so.
func waitForSynced(ctx context.Context, c client.Client, namespace string, want int) (last int64, err error) {
	for deadline := time.Now().Add(syncTimeout); ; {
		synced, last, err := countSynced(ctx, c, namespace)
		if err != nil {
			return 0, err
		}
		if synced == want {
			return last, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("only %d of %d workspaces say that they are in the database after %s", synced, want, syncTimeout)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func countSynced(ctx context.Context, c client.Client, namespace string) (synced int, last int64, err error) {
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return 0, 0, err
	}
	for i := range list.Items {
		revision, err := strconv.ParseInt(list.Items[i].ResourceVersion, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		last = max(last, revision)
		if isSynced(&list.Items[i]) {
			synced++
		}
	}
	return synced, last, nil
}

// revisionClock notes when the API server's revision was seen at what. That way
// the end of a round is known without watching the objects, which would cost the
// API server as much as a second operator.
type revisionClock struct {
	client    client.Client
	namespace string // in which nobody makes ConfigMaps

	mu   sync.Mutex
	seen []sighting
	err  error
}

type sighting struct {
	revision int64
	at       time.Time
}

func newRevisionClock(c client.Client, namespace string) *revisionClock {
	return &revisionClock{client: c, namespace: namespace}
}

const revisionInterval = 20 * time.Millisecond

func (r *revisionClock) run(ctx context.Context) {
	for sleep(ctx, revisionInterval) == nil {
		var list corev1.ConfigMapList
		err := r.client.List(ctx, &list, client.InNamespace(r.namespace))
		at := time.Now()
		revision, parseErr := strconv.ParseInt(list.ResourceVersion, 10, 64)
		r.mu.Lock()
		if err = errors.Join(err, parseErr); err != nil {
			r.err = err
		} else {
			r.seen = append(r.seen, sighting{revision, at})
		}
		r.mu.Unlock()
	}
}

// restTime is how long nothing may have been written for an end.
const restTime = 500 * time.Millisecond

// waitForRest waits until nothing has been written for a while.
func (r *revisionClock) waitForRest(ctx context.Context) error {
	for {
		if err := sleep(ctx, revisionInterval); err != nil {
			return err
		}
		r.mu.Lock()
		err := r.err
		resting := false
		if n := len(r.seen); n > 0 {
			newest := r.seen[n-1]
			first := slices.IndexFunc(r.seen, func(s sighting) bool { return s.revision >= newest.revision })
			resting = newest.at.Sub(r.seen[first].at) >= restTime
		}
		r.mu.Unlock()
		if err != nil || resting {
			return err
		}
	}
}

// waitFor returns when a revision, or a later one, was first seen.
func (r *revisionClock) waitFor(ctx context.Context, revision int64) (time.Time, error) {
	for {
		at, err := r.first(revision)
		if err != nil || !at.IsZero() {
			return at, err
		}
		if err := sleep(ctx, revisionInterval); err != nil {
			return time.Time{}, err
		}
	}
}

func (r *revisionClock) first(revision int64) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		if s.revision >= revision {
			return s.at, nil
		}
	}
	return time.Time{}, r.err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
