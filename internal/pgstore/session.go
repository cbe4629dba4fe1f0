// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	// A caller that cannot be queued in this time is told that the database is
	// not available, rather than left blocked.
	enqueueTimeout = 5 * time.Second
	// queueLength bounds the memory of what waits for the writer.
	queueLength = 4096

	watchInterval = 2 * time.Second
	watchTimeout  = 4 * time.Second
)

// session is one uninterrupted tenure of the fence on one server: connections,
// and the goroutines that write, look up and watch.
type session struct {
	store   *Store
	cluster string
	pool    *pgxpool.Pool
	queries *dbsql.Queries
	fence   fence
	// address is what the connections were made with; the watch alone uses it.
	address *pgx.ConnConfig
	server  server // its walPosition is that of the beginning
	// walPosition is how far the server's log was when last seen.
	walPosition atomic.Int64

	queue   chan *request
	lookups chan *lookup
	eventQueue
	samples         walSamples
	replica         replica
	readingSettings sync.Mutex // by the chore, or after an event
	// recording bounds how many connections are taken by samples.
	recording chan struct{}
	// relisten ends the connection that listens; nil before there is one.
	relisten atomic.Pointer[context.CancelFunc]
	// fingerprint is that of all configurations when the chore last looked.
	fingerprint atomic.Pointer[string]
	// undecryptable are sensitive configurations, as key/key_id, that are no longer tried.
	undecryptable []string
	reencrypting  sync.Mutex // guards undecryptable

	// analyticsActivity is what had been written when the materialized views were
	// last compared, at analyticsChecked.
	analyticsActivity string
	analyticsChecked  time.Time

	// contended is why the last write was given up, if it was.
	contended atomic.Pointer[error]
	done      chan struct{} // closed when cause is set
	cause     error
}

func (s *Store) newSession(pool *pgxpool.Pool, f fence, at server) *session {
	sess := &session{
		store: s, cluster: s.config.ClusterName, undecryptable: []string{}, pool: pool, queries: dbsql.New(pool), fence: f, server: at,
		samples:    walSamples{keep: max(walSamplesKept, 2*s.config.AnalyticsMaxLag)},
		eventQueue: eventQueue{events: make(chan string, eventQueueLength)},
		queue:      make(chan *request, queueLength), lookups: make(chan *lookup, queueLength),
		recording: make(chan struct{}, metricWriters), done: make(chan struct{}),
	}
	sess.walPosition.Store(at.walPosition)
	return sess
}

// checkFence judges what was just read of the fence. seen is how far the log was
// known to be before reading: a shorter one is a server that was restored.
func (s *session) checkFence(seen int64, state fenceState, err error) error {
	if err := s.fence.check(s.server, state, err); err != nil {
		return err
	}
	if state.WalPosition < seen {
		return errServerChanged
	}
	for {
		known := s.walPosition.Load()
		if state.WalPosition <= known || s.walPosition.CompareAndSwap(known, state.WalPosition) {
			return nil
		}
	}
}

// readFence reads the fence without locking it.
func (s *session) readFence(ctx context.Context) error {
	seen := s.walPosition.Load()
	row, err := s.queries.CheckFence(ctx, s.cluster)
	return s.checkFence(seen, fenceState(row), err)
}

// run serves until the context ends or the session cannot go on, and returns why.
func (s *session) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.writeLoop(ctx) })
	group.Go(func() error { return s.lookupLoop(ctx) })
	group.Go(func() error { return s.watchLoop(ctx) })
	group.Go(func() error { return s.maintainLoop(ctx) })
	group.Go(func() error { return s.indexLoop(ctx) })
	group.Go(func() error { return s.notifyLoop(ctx) })
	group.Go(func() error { return s.listenLoop(ctx) })
	return group.Wait()
}

// end answers all who wait. Ready must say already that the session is over.
func (s *session) end(cause error) {
	s.cause = cause
	close(s.done)
	s.replica.close()
}

func (s *session) trouble() error {
	if err := s.contended.Load(); err != nil {
		return *err
	}
	return nil
}

// submit hands a request to the writer and waits until it is committed.
func (s *session) submit(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	timer := time.NewTimer(enqueueTimeout)
	defer timer.Stop()
	select {
	case s.queue <- r:
	case <-s.done:
		return s.cause
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return unavailable("the writer is behind")
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
	}
	select { // both may have come at once; an answer says more
	case err := <-r.done:
		return err
	default:
		return s.cause
	}
}

// watchLoop notices a new leader, a failover and an outage when nobody writes.
func (s *session) watchLoop(ctx context.Context) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		s.takeUpCredentials(ctx)
		if err := s.watch(ctx); err != nil {
			return err
		}
	}
}

// watch tries twice: a connection that broke while idle is no outage.
func (s *session) watch(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		timed, cancel := context.WithTimeout(ctx, watchTimeout)
		began := time.Now()
		err := s.readFence(timed)
		cancel()
		if err == nil {
			s.samples.add(began, s.walPosition.Load())
		}
		if err == nil || attempt == 1 || isVerdict(err) || ctx.Err() != nil {
			return err
		}
		s.pool.Reset()
	}
}

// isVerdict reports whether the fence itself was judged, which trying again
// would not change.
func isVerdict(err error) bool {
	return errors.Is(err, ErrDeposed) || isLoss(err)
}
