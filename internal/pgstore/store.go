// SPDX-License-Identifier: Apache-2.0

// Package pgstore is the system of record: it brings schema dgm up to date,
// mirrors objects into it through one batched writer, and keeps the exact bytes
// that a rollback needs. Only one leader per cluster writes; a row in the
// database fences off all others.
package pgstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/acgs/dgm-operator/internal/settings"
)

const (
	applicationName = "dgm-operator"

	defaultBatchSize  = 500
	defaultBatchDelay = 2 * time.Millisecond
)

// Config of a Store.
type Config struct {
	// URL of the database, read at every connect and never logged.
	URL func() (string, error)
	// MigrationURL leads to the same database without a transaction pooler
	// between; nil means URL.
	MigrationURL func() (string, error)
	// AnalyticsURL leads to a read replica that answers the questions of the
	// analytics; nil, or an error that is fs.ErrNotExist, means that there is none.
	AnalyticsURL func() (string, error)
	// AnalyticsMaxLag is how far the replica may be behind (default 30 s); beyond,
	// the primary answers.
	AnalyticsMaxLag time.Duration
	// ClusterName is what rows say in cluster; it is bound to ClusterUID, the UID
	// of the namespace kube-system, at the first use. AdoptCluster binds it anew.
	ClusterName, ClusterUID string
	AdoptCluster            bool
	// Holder identifies this replica, for people who read the fence.
	Holder string
	// AEAD encrypts the exact bytes of snapshots. It also returns the id of the
	// key that it encrypts with.
	AEAD func(context.Context) (tink.AEAD, string, error)
	Log  logr.Logger
	// BatchSize is the largest number of objects in one transaction (default
	// 500), BatchDelay how long the first one waits for others (default 2 ms).
	BatchSize  int
	BatchDelay time.Duration
}

// Store is the database as controllers see it. All methods are safe for
// concurrent use. It connects only while Lead runs, but for Ping.
type Store struct {
	config  Config
	digests *digests
	resyncs chan string

	session  atomic.Pointer[session]
	revision atomic.Int64

	settings          atomic.Pointer[settings.Settings]
	settingsChanged   chan struct{}
	settingsComplaint atomic.Value // what was last said of unusable ones

	announcements        *announcements
	configurationChanged chan []string
	joiningKeys          sync.Mutex
	refusals             refusals
	replicaState         atomic.Pointer[ReplicaState]

	drift atomic.Pointer[SchemaDrift]

	said sync.Map // what sayOnce has said

	mu      sync.Mutex
	unready error // why there is no session
}

// New returns a store. It never connects.
func New(c Config) *Store {
	if c.MigrationURL == nil {
		c.MigrationURL = c.URL
	}
	if c.BatchSize <= 0 {
		c.BatchSize = defaultBatchSize
	}
	if c.BatchDelay <= 0 {
		c.BatchDelay = defaultBatchDelay
	}
	if c.AnalyticsMaxLag <= 0 {
		c.AnalyticsMaxLag = defaultAnalyticsMaxLag
	}
	if c.Log.GetSink() == nil {
		c.Log = logr.Discard()
	}
	s := &Store{
		config: c, digests: newDigests(), resyncs: make(chan string, 1), settingsChanged: make(chan struct{}, 1),
		announcements: newAnnouncements(), configurationChanged: make(chan []string, 1),
		unready: unavailable("this replica does not lead yet"),
	}
	defaults := settings.Default()
	s.settings.Store(&defaults)
	s.replicaState.Store(&ReplicaState{})
	return s
}

// Ready returns nil when the schema is migrated, the fence is held and the last
// exchange with the database went well. Otherwise it returns why not, wrapping
// ErrUnavailable or ErrDeposed, in words that stay the same while the cause
// does and hold no secrets.
func (s *Store) Ready() error {
	if sess := s.session.Load(); sess != nil {
		return sess.trouble()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unready
}

// Ping checks that the database answers. It serves replicas that do not lead.
func (s *Store) Ping(ctx context.Context) error {
	if sess := s.session.Load(); sess != nil {
		if err := sess.pool.Ping(ctx); err != nil {
			return unavailable(reason(err))
		}
		return nil
	}
	config, err := s.poolConfig()
	if err != nil {
		return unavailable(reason(err))
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return unavailable(reason(err))
	}
	return conn.Close(ctx)
}

// Resyncs delivers a value whenever rows may be missing or stale, so that all
// objects are to be mirrored again and deletions looked for: when the database
// is ready for the first time, comes back, or has lost commits. The value says
// which. Values that nobody has received yet are joined.
func (s *Store) Resyncs() <-chan string { return s.resyncs }

func (s *Store) requestResync(why string) {
	select {
	case s.resyncs <- why:
	default: // one is waiting already, and covers this one
	}
}

// ForgetSynced makes the next Mirror of the object compare it with the database
// again.
func (s *Store) ForgetSynced(kind Kind, uid string) { s.digests.forget(kind, uid) }

// ForgetAllSynced does so for every object.
func (s *Store) ForgetAllSynced() { s.digests.clear() }

func (s *Store) setUnready(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unready == nil || s.unready.Error() != err.Error() {
		s.config.Log.Info("Database is not ready", "reason", err.Error())
	}
	s.unready = err
}

// current returns the session to work with.
func (s *Store) current() (*session, error) {
	if sess := s.session.Load(); sess != nil {
		return sess, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.unready
}

func (s *Store) poolConfig() (*pgxpool.Config, error) { return s.poolConfigOf(s.config.URL) }

func (s *Store) poolConfigOf(source func() (string, error)) (*pgxpool.Config, error) {
	config, err := parseURL(source)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 4 + metricWriters
	config.MaxConnIdleTime = 5 * time.Minute
	// Passwords are rotated by rewriting the file that holds the URL.
	config.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		fresh, err := parseURL(source)
		if err != nil {
			return err
		}
		*conn = *fresh.ConnConfig
		return nil
	}
	return config, nil
}
