// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

const (
	migrationTable string = "dgm.schema_migrations"
	// migrationLockID is the advisory lock of everybody who migrates schema dgm.
	migrationLockID int64 = 0x64676d5f6d696772
)

// ErrIncompatible says that this binary cannot work with the schema that it
// found: migrations were edited after they were applied, or the schema is too new.
var ErrIncompatible = errors.New("database schema is not compatible with this operator")

// MigrationStatus is one migration and whether it is applied.
type MigrationStatus struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero when pending
	// Known is false for a migration of a newer operator.
	Known bool
}

// Migrator brings the schema of one database up or down. Any number of them may
// work on one database at the same time.
type Migrator struct {
	db     *sql.DB
	goose  *goose.Provider
	locker lock.SessionLocker
	files  []migrationFile
	// address is where it is connected to.
	address *pgx.ConnConfig

	patience lockPatience

	mu      sync.Mutex
	notices []string
}

// NewMigrator connects to the database. The URL must lead to PostgreSQL itself
// or to a pooler in session mode, since the migration lock belongs to a session.
func NewMigrator(ctx context.Context, url string) (*Migrator, error) {
	dir, err := fs.Sub(embeddedMigrations, "migrations")
	if err != nil {
		return nil, err
	}
	return newMigrator(ctx, url, dir, defaultPatience)
}

// embeddedMigrationFiles are the migrations of this binary.
func embeddedMigrationFiles() ([]migrationFile, error) {
	dir, err := fs.Sub(embeddedMigrations, "migrations")
	if err != nil {
		return nil, err
	}
	return readMigrations(dir)
}

func newMigrator(ctx context.Context, url string, dir fs.FS, patience lockPatience) (*Migrator, error) {
	files, err := readMigrations(dir)
	if err != nil {
		return nil, err
	}
	pooled, err := parseURL(func() (string, error) { return url, nil })
	if err != nil {
		return nil, err
	}
	config := pooled.ConnConfig
	config.RuntimeParams["application_name"] = applicationName + "-migrate"
	config.RuntimeParams["lock_timeout"] = fmt.Sprintf("%dms", patience.timeout.Milliseconds())
	config.RuntimeParams["statement_timeout"] = "0"
	config.RuntimeParams["timezone"] = "UTC"
	m := &Migrator{files: files, address: config, patience: patience}
	config.OnNotice = m.notice
	// Again at each use: the schema may have been made, or handed over, since.
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(becomeOwner), stdlib.OptionResetSession(becomeOwner))
	m.db = db
	db.SetMaxOpenConns(2)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("connect to migrate: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLockID),
		lock.WithLockTimeout(1, uint64(patience.migrator/time.Second)))
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	m.locker = namingLocker{SessionLocker: locker, holders: m.lockHolders}
	if m.goose, err = m.provider(dir); err != nil {
		_ = db.Close()
		return nil, err
	}
	return m, nil
}

func (m *Migrator) provider(dir fs.FS) (*goose.Provider, error) {
	inner, err := database.NewStore(database.DialectPostgres, migrationTable)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectCustom, m.db, dir,
		goose.WithStore(&checksumStore{Store: inner, files: m.files}),
		goose.WithSessionLocker(m.locker), goose.WithLogger(goose.NopLogger()),
		goose.WithDisableGlobalRegistry(true))
}

// Close ends its connections.
func (m *Migrator) Close() error { return m.db.Close() }

// Status lists the migrations of this binary and of the database, in order. It
// changes nothing.
func (m *Migrator) Status(ctx context.Context) ([]MigrationStatus, error) {
	applied, err := readApplied(ctx, m.db)
	if err != nil {
		return nil, err
	}
	var out []MigrationStatus
	for _, f := range m.files {
		out = append(out, MigrationStatus{Version: f.Version, Name: f.Name, AppliedAt: applied[f.Version].at, Known: true})
		delete(applied, f.Version)
	}
	for _, a := range sortedByVersion(applied) {
		out = append(out, MigrationStatus{Version: a.version, Name: a.name, AppliedAt: a.at})
	}
	return out, nil
}

// Up applies what is pending, each migration in a transaction of its own (but for
// concurrent index builds), and returns the names of those that it applied. When
// another process migrates, it waits for it; when a table is locked, it gives way
// and tries again.
func (m *Migrator) Up(ctx context.Context) ([]string, error) {
	names, err := m.up(ctx)
	return names, explainMigration(ctx, m.db, err)
}

func (m *Migrator) up(ctx context.Context) ([]string, error) {
	if err := m.bootstrap(ctx); err != nil {
		return nil, err
	}
	names, err := m.upPatiently(ctx)
	if err != nil {
		return names, fmt.Errorf("migrate up: %w", err)
	}
	// Another operator may have migrated meanwhile, and further than this one can.
	after, err := readApplied(ctx, m.db)
	if err != nil {
		return names, err
	}
	if err := m.checkCompatible(after); err != nil {
		return names, err
	}
	return names, m.grantRoles(ctx)
}

// Down takes back the newest migration and returns its name. What its tables
// held is lost.
func (m *Migrator) Down(ctx context.Context) (string, error) {
	if err := m.bootstrap(ctx); err != nil {
		return "", explainMigration(ctx, m.db, err)
	}
	result, err := m.goose.Down(ctx)
	if errors.Is(err, goose.ErrNoNextVersion) {
		return "", errors.New("migrate down: no migration is applied")
	}
	if err != nil {
		return "", explainMigration(ctx, m.db, fmt.Errorf("migrate down: %w", err))
	}
	return result.Source.Path, nil
}

// Plan prints the SQL of the pending migrations, which can be reviewed and run
// by hand instead of Up. It changes nothing.
func (m *Migrator) Plan(ctx context.Context, w io.Writer) error {
	applied, err := readApplied(ctx, m.db)
	if err != nil {
		return err
	}
	if err := m.checkCompatible(applied); err != nil {
		return err
	}
	if m.pending(applied) {
		if err := planRoles(w); err != nil {
			return err
		}
	}
	if _, found := applied[0]; !found {
		if _, err := fmt.Fprintf(w, "%s\n", bootstrapSQL); err != nil {
			return err
		}
	}
	for _, f := range m.files {
		if _, found := applied[f.Version]; found {
			continue
		}
		form := "-- %s\nBEGIN;\n%s\n%s;\nCOMMIT;\n\n"
		if f.NoTransaction {
			form = "-- %s: outside of a transaction, one statement after the other, as psql does\n%s\n%s;\n\n"
		}
		if _, err := fmt.Fprintf(w, form, f.Name, f.Up, f.insertSQL()); err != nil {
			return err
		}
	}
	return nil
}

// pending reports whether there is anything to apply.
func (m *Migrator) pending(applied map[int64]appliedMigration) bool {
	return slices.ContainsFunc(m.files, func(f migrationFile) bool {
		_, found := applied[f.Version]
		return !found
	})
}

// bootstrap makes the roles, the schema and the table of migrations under the
// lock, which goose itself would do without it, and refuses what does not fit.
// With nothing to apply it only reads.
func (m *Migrator) bootstrap(ctx context.Context) (err error) {
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the pool notices a broken connection
	applied, err := readApplied(ctx, conn)
	if err != nil {
		return err
	}
	if err := m.checkCompatible(applied); err != nil || !m.pending(applied) {
		return err
	}
	if err := m.locker.SessionLock(ctx, conn); err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	defer func() {
		err = errors.Join(err, m.locker.SessionUnlock(context.WithoutCancel(ctx), conn))
	}()
	if err := prepareRoles(ctx, conn); err != nil {
		return err
	}
	if _, found := applied[0]; found {
		return nil
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing is left to roll back after the commit
	if _, err := tx.ExecContext(ctx, bootstrapSQL); err != nil {
		return fmt.Errorf("make the table of migrations: %w", err)
	}
	return tx.Commit()
}
