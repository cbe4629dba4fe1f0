// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	reconnectFirst   = 100 * time.Millisecond
	reconnectSlowest = 15 * time.Second
	// A session that lasted this long was a good one: the next wait is short again.
	goodSession      = time.Minute
	establishTimeout = 30 * time.Second
)

// Reasons that Resyncs delivers.
const (
	resyncStarted = "the database is ready for the first time"
	resyncBack    = "the database was away and is back"
	resyncLost    = "the database may have lost commits in a failover or a restore"
)

// tenure is what a leader remembers from one session to the next.
type tenure struct {
	fence  fence
	server server
	// lost: the last session saw that the database is not the one it was.
	lost bool
}

// Lead migrates, takes the fence and writes, until the context ends, when it
// returns nil, or another leader takes over, when it returns ErrDeposed. All
// other trouble (database away, migration failing, cluster name taken) it sits
// out, trying again with backoff, while Ready says what it is.
func (s *Store) Lead(ctx context.Context) error {
	var held *tenure
	wait := reconnectFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := s.leadOnce(ctx, &held)
		s.setUnready(s.failure(err))
		if errors.Is(err, ErrDeposed) {
			return ErrDeposed
		}
		s.config.Log.V(1).Info("Database session ended", "error", err.Error())
		if time.Since(began) > goodSession {
			wait = reconnectFirst
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, reconnectSlowest)
	}
	s.setUnready(unavailable("this replica stops leading"))
	return nil
}

// leadOnce runs one session and returns why it ended.
func (s *Store) leadOnce(ctx context.Context, held **tenure) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	config, err := s.poolConfig()
	if err != nil {
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	// Closing waits for queries of others, which may hang on a dead connection.
	defer func() { go pool.Close() }()
	s.warnOfBlindTrust("url", config.ConnConfig)
	sess, why, err := s.establish(ctx, pool, *held)
	if err != nil {
		return s.explainRights(ctx, err)
	}
	sess.address = config.ConnConfig
	if why == resyncLost {
		s.digests.clear()
	}
	s.session.Store(sess)
	s.config.Log.Info("Database is ready", "epoch", sess.fence.epoch, "reason", why)
	s.requestResync(why)
	cause := s.explainRights(ctx, sess.run(ctx))
	*held = &tenure{
		fence:  sess.fence,
		server: server{identity: sess.server.identity, incarnation: sess.server.incarnation, walPosition: sess.walPosition.Load()},
		lost:   isLoss(cause),
	}
	s.setUnready(s.failure(cause))
	s.session.Store(nil)
	sess.end(s.failure(cause))
	return cause
}

func (s *Store) openMigrator(ctx context.Context) (*Migrator, error) {
	url, err := s.config.MigrationURL()
	if err != nil {
		return nil, urlError(err)
	}
	return NewMigrator(ctx, url)
}

func (s *Store) migrate(ctx context.Context) error {
	m, err := s.openMigrator(ctx)
	if err != nil {
		return err
	}
	defer m.Close() //nolint:errcheck // nothing is left to do on these connections
	s.warnOfBlindTrust("migration-url", m.address)
	applied, err := m.Up(ctx)
	for _, notice := range m.Notices() {
		s.sayOnce("Migrating", "notice", notice)
	}
	for _, name := range applied {
		s.config.Log.Info("Applied migration", "name", name)
	}
	return err
}

// establish finds out whether the fence that was held is still worth something,
// takes it when not, and says what must be mirrored again.
func (s *Store) establish(ctx context.Context, pool *pgxpool.Pool, held *tenure) (*session, string, error) {
	ctx, cancel := context.WithTimeout(ctx, establishTimeout)
	defer cancel()
	began := time.Now()
	at, err := locate(ctx, pool)
	if err != nil {
		return nil, "", err
	}
	f, why, err := s.resumeOrTake(ctx, pool, held, at)
	if err != nil {
		return nil, "", err
	}
	state, err := dbsql.New(pool).CheckFence(ctx, s.config.ClusterName)
	if err != nil {
		return nil, "", err
	}
	at.incarnation = state.Incarnation
	sess := s.newSession(pool, f, at)
	sess.samples.add(began, at.walPosition) // so that a replica can be judged at once
	if err := errors.Join(sess.probe(ctx), sess.readSettings(ctx)); err != nil {
		return nil, "", err
	}
	return sess, why, nil
}

func locate(ctx context.Context, pool *pgxpool.Pool) (server, error) {
	row, err := dbsql.New(pool).ServerIdentity(ctx)
	if err != nil {
		return server{}, err
	}
	if row.InRecovery {
		return server{}, errStandby
	}
	return server{identity: row.Identity, walPosition: row.WalPosition}, nil
}

func (s *Store) resumeOrTake(ctx context.Context, pool *pgxpool.Pool, held *tenure, at server) (fence, string, error) {
	if held == nil {
		f, err := s.takeFence(ctx, pool, 0)
		return f, resyncStarted, err
	}
	row, err := dbsql.New(pool).CheckFence(ctx, s.config.ClusterName)
	err = held.fence.check(held.server, fenceState(row), err)
	switch {
	case err == nil && !held.lost && at.walPosition >= held.server.walPosition:
		return held.fence, resyncBack, nil
	case err == nil, isLoss(err):
		f, err := s.takeFence(ctx, pool, held.fence.epoch)
		return f, resyncLost, err
	}
	return fence{}, "", err
}

// isLoss reports whether the database is not as this leader left it, so that
// commits may be lost.
func isLoss(err error) bool {
	return errors.Is(err, errFenceLost) || errors.Is(err, errServerChanged) || errors.Is(err, errRestored)
}
