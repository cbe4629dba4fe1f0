// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const lockNotAvailable = "55P03"

//go:embed lockholders.sql
var lockHoldersSQL string

// lockPatience is how a migration deals with locks of others: it waits for one
// no longer than timeout, since readers queue up behind it, lets them through,
// and tries again.
type lockPatience struct {
	timeout  time.Duration
	attempts int
	pause    time.Duration // doubles each time
	// migrator is how long another one, which holds the migration lock, is waited
	// for: any session can take that lock, and keep it.
	migrator time.Duration
}

var defaultPatience = lockPatience{timeout: 10 * time.Second, attempts: 5, pause: time.Second, migrator: time.Minute}

// namingLocker says who has the migration lock when it cannot be had.
type namingLocker struct {
	lock.SessionLocker
	holders func(context.Context) string
}

func (l namingLocker) SessionLock(ctx context.Context, conn *sql.Conn) error {
	err := l.SessionLocker.SessionLock(ctx, conn)
	if err != nil && ctx.Err() == nil {
		return &lockedError{holders: l.holders(ctx), cause: err}
	}
	return err
}

// lockedError says that a migration was kept from a lock, and by whom.
type lockedError struct {
	holders string
	cause   error
}

func (e *lockedError) Error() string {
	return "a migration gave way to others who hold locks: " + e.holders + ": end these transactions, or wait; it is tried again"
}

func (e *lockedError) Unwrap() error { return e.cause }

// upPatiently applies what is pending. What an earlier attempt has applied stays.
func (m *Migrator) upPatiently(ctx context.Context) ([]string, error) {
	var names []string
	for attempt, pause := 1, m.patience.pause; ; attempt, pause = attempt+1, 2*pause {
		if err := m.dropInvalidIndexes(ctx); err != nil {
			return names, err
		}
		results, err := m.goose.Up(ctx)
		var partial *goose.PartialError
		if errors.As(err, &partial) {
			results = partial.Applied
		}
		for _, r := range results {
			names = append(names, r.Source.Path)
		}
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != lockNotAvailable {
			return names, err
		}
		locked := &lockedError{holders: m.lockHolders(ctx), cause: err}
		if attempt >= m.patience.attempts {
			return names, locked
		}
		m.remark(locked.Error())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return names, ctx.Err()
		}
	}
}

// lockHolders says who held locks a moment after a migration gave up.
func (m *Migrator) lockHolders(ctx context.Context) string {
	holders, err := textRows(ctx, m.db, lockHoldersSQL)
	switch {
	case err != nil:
		return "(who cannot be read: " + err.Error() + ")"
	case len(holders) == 0:
		return "(they are gone already)"
	}
	return strings.Join(holders, "; ")
}

func textRows(ctx context.Context, db *sql.DB, query string, args ...any) ([]string, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err is checked
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return nil, err
		}
		out = append(out, line)
	}
	return out, rows.Err()
}

// concurrentIndex finds the names of indexes that a migration outside of a
// transaction builds.
var concurrentIndex = regexp.MustCompile(`(?i)CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(IF\s+NOT\s+EXISTS\s+)?(\w+)`)

// dropInvalidIndexes clears what interrupted concurrent builds have left behind,
// so that the pending migration builds them anew. It holds the migration lock: a
// build that is under way elsewhere is invalid too, and not ours to drop.
func (m *Migrator) dropInvalidIndexes(ctx context.Context) (err error) {
	applied, err := readApplied(ctx, m.db)
	if err != nil {
		return err
	}
	var building []string
	for _, f := range m.files {
		if _, found := applied[f.Version]; !found && f.NoTransaction {
			for _, match := range concurrentIndex.FindAllStringSubmatch(f.Up, -1) {
				building = append(building, match[2])
			}
		}
	}
	if len(building) == 0 {
		return nil
	}
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the pool notices a broken connection
	if err := m.locker.SessionLock(ctx, conn); err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	defer func() {
		err = errors.Join(err, m.locker.SessionUnlock(context.WithoutCancel(ctx), conn))
	}()
	for _, name := range building {
		var invalid bool
		if err := conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indexrelid = to_regclass('dgm.' || $1::text) AND NOT i.indisvalid)", name).Scan(&invalid); err != nil {
			return fmt.Errorf("look at index %s: %w", name, err)
		}
		if !invalid {
			continue
		}
		if _, err := conn.ExecContext(ctx, "DROP INDEX CONCURRENTLY IF EXISTS dgm."+name); err != nil {
			return fmt.Errorf("drop index %s, whose build was interrupted: %w", name, err)
		}
		m.remark("index " + name + " was left half built, and is built anew")
	}
	return nil
}
