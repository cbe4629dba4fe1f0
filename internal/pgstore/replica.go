// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	defaultAnalyticsMaxLag = 30 * time.Second
	// replicaTimeout bounds what a replica may take of a question's time, and
	// replicaPause is how long one that failed is left alone.
	replicaTimeout = 20 * time.Second
	replicaPause   = 5 * time.Second
	replicaConns   = 2
	// walSamplesKept is up to which lag it is known how large it is.
	walSamplesKept = time.Hour
)

// ReplicaState is what the last question of the analytics found out about the
// read replica.
type ReplicaState struct {
	// Configured says whether there is an address of one.
	Configured bool
	// Used says whether it answered; the primary did otherwise.
	Used bool
	// Reason is why it did not, in words that stay the same while the cause does.
	Reason string
	// Lag is how far it was behind, when LagKnown.
	Lag      time.Duration
	LagKnown bool
}

// AnalyticsReplica returns what the last question found out.
func (s *Store) AnalyticsReplica() ReplicaState { return *s.replicaState.Load() }

// analyze answers a question of the analytics: on the read replica when there is
// one that is close enough behind, else, and whenever that fails, on the
// primary. read may be called twice, each time with a context and a server of its own.
func analyze[T any](ctx context.Context, s *Store, read func(context.Context, *dbsql.Queries) (T, error)) (T, error) {
	var result T
	sess, err := s.current()
	if err != nil {
		return result, err
	}
	if s.config.AnalyticsURL != nil && sess.replica.answer(ctx, sess, func(ctx context.Context, q *dbsql.Queries) (err error) {
		result, err = read(ctx, q)
		return err
	}) {
		return result, nil
	}
	return observe(ctx, s, func(q *dbsql.Queries) (T, error) { return read(ctx, q) })
}

// replica is the read replica as one session sees it.
type replica struct {
	mu        sync.Mutex
	url       string
	pool      *pgxpool.Pool
	pausedTil time.Time
}

// replicaUnfitError says why a replica that answers must not be used.
type replicaUnfitError string

func (e replicaUnfitError) Error() string { return string(e) }

// answer reports whether the replica has answered.
func (r *replica) answer(ctx context.Context, s *session, read func(context.Context, *dbsql.Queries) error) bool {
	pool, err := r.connections(ctx, s.store)
	if errors.Is(err, fs.ErrNotExist) {
		s.store.setReplicaState(ReplicaState{})
		return false
	}
	state := ReplicaState{Configured: true}
	if err == nil {
		if pool == nil {
			return false // paused; what was found out stays true
		}
		timed, cancel := context.WithTimeout(ctx, replicaShare(ctx))
		defer cancel()
		state, err = s.ask(timed, pool, read)
	}
	if ctx.Err() != nil {
		return false // the caller's time is over, which says nothing of the replica
	}
	state.Used = err == nil
	var unfit replicaUnfitError
	switch {
	case errors.As(err, &unfit):
		state.Reason = unfit.Error()
	case err != nil:
		state.Reason = reason(err)
		r.pause(pool)
	}
	s.store.setReplicaState(state)
	return state.Used
}

// replicaShare leaves the primary at least half of the caller's time.
func replicaShare(ctx context.Context) time.Duration {
	if deadline, found := ctx.Deadline(); found {
		return min(replicaTimeout, time.Until(deadline)/2)
	}
	return replicaTimeout
}

// connections returns the pool of the address that holds now, nil while it is
// left alone.
func (r *replica) connections(ctx context.Context, s *Store) (*pgxpool.Pool, error) {
	url, err := s.config.AnalyticsURL()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil && (err != nil || url != r.url) {
		go r.pool.Close() // waits for questions that are under way
		r.pool, r.pausedTil = nil, time.Time{}
	}
	if err != nil {
		return nil, urlError(err)
	}
	if time.Now().Before(r.pausedTil) {
		return nil, nil
	}
	if r.pool == nil {
		config, err := s.poolConfigOf(s.config.AnalyticsURL)
		if err != nil {
			return nil, err
		}
		config.MaxConns = replicaConns
		if r.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), config); err != nil {
			return nil, err
		}
		r.url = url
	}
	return r.pool, nil
}

func (r *replica) pause(pool *pgxpool.Pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pausedTil = time.Now().Add(replicaPause)
	if pool != nil {
		pool.Reset()
	}
}

func (r *replica) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil {
		go r.pool.Close()
		r.pool = nil
	}
}

// ask judges the replica and reads from it, in one transaction so that a pooler
// sends both to the same server. What is read is at least as new as what was judged.
func (s *session) ask(ctx context.Context, pool *pgxpool.Pool, read func(context.Context, *dbsql.Queries) error) (ReplicaState, error) {
	state := ReplicaState{Configured: true}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		row, err := q.ReplicaState(ctx, dbsql.ReplicaStateParams{Cluster: s.cluster, Epoch: s.fence.epoch, Token: s.fence.token})
		if err != nil {
			return err
		}
		systemIdentifier, _, _ := strings.Cut(s.server.identity, "/")
		if err := identifyReplica(row, systemIdentifier); err != nil {
			return err
		}
		state.Lag, state.LagKnown = s.samples.lag(time.Now(), row.Replayed)
		if !state.LagKnown || state.Lag > s.store.config.AnalyticsMaxLag {
			return replicaUnfitError("it is too far behind")
		}
		return read(ctx, q)
	})
	return state, err
}

// identifyReplica refuses a server that is no standby of the primary.
func identifyReplica(row dbsql.ReplicaStateRow, systemIdentifier string) error {
	switch {
	case row.SystemIdentifier != systemIdentifier:
		return replicaUnfitError("it is a copy of another server")
	case !row.InRecovery:
		return replicaUnfitError("it is not a standby: it was promoted, or is the primary itself")
	case !row.SameFence:
		return replicaUnfitError("it does not have this leader's fence: it is far behind, or follows another server")
	}
	return nil
}

func (s *Store) setReplicaState(now ReplicaState) {
	before := s.replicaState.Swap(&now)
	if before.Used == now.Used && before.Reason == now.Reason {
		return
	}
	switch {
	case now.Used:
		s.config.Log.Info("Analytics are read from the replica", "lag", now.Lag.String())
	case now.Configured:
		s.config.Log.Info("Analytics are read from the primary", "reason", now.Reason, "lag", now.Lag.String(), "lagKnown", now.LagKnown)
	default:
		s.config.Log.Info("Analytics are read from the primary", "reason", "there is no address of a replica any more")
	}
}
