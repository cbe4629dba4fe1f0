// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pressly/goose/v3/database"
)

// checksumStore is goose's own store but for the row of an applied migration,
// which also says what its file held.
type checksumStore struct {
	database.Store
	files []migrationFile
}

const insertMigrationSQL = `INSERT INTO dgm.schema_migrations (version_id, is_applied, name, sha256, min_compatible_binary)
VALUES ($1, true, $2, $3, $4)`

// Each migration since the one that knows how gives the roles their rights on what
// it made, in its own transaction: somebody killed after it has left nothing undone.
const (
	grantsSince   = 19
	grantRolesSQL = "SELECT dgm.grant_roles()"
)

// insertSQL is what Up does after the migration, for those who run it by hand.
// Its values are digits, hexadecimal and the names of our own files.
func (f migrationFile) insertSQL() string {
	sql := fmt.Sprintf("INSERT INTO dgm.schema_migrations (version_id, is_applied, name, sha256, min_compatible_binary)\nVALUES (%d, true, '%s', '%s', %d)",
		f.Version, f.Name, f.SHA256, f.MinCompatibleBinary)
	if f.Version > grantsSince {
		sql += ";\n" + grantRolesSQL
	}
	return sql
}

func (s *checksumStore) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	for _, f := range s.files {
		if f.Version == req.Version {
			if _, err := db.ExecContext(ctx, insertMigrationSQL, f.Version, f.Name, f.SHA256, f.MinCompatibleBinary); err != nil {
				return err
			}
			if f.Version <= grantsSince {
				return nil
			}
			if _, err := db.ExecContext(ctx, grantRolesSQL); err != nil {
				return fmt.Errorf("give the roles their rights on schema dgm: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("migration %d is not one of this binary", req.Version)
}

func (s *checksumStore) CreateVersionTable(ctx context.Context, db database.DBTxConn) error {
	_, err := db.ExecContext(ctx, bootstrapSQL)
	return err
}

type appliedMigration struct {
	version   int64
	name      string
	sha256    string
	minBinary int64
	at        time.Time
}

type sqlQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readApplied reads the table of migrations by version; it is empty when the
// schema is not there yet.
func readApplied(ctx context.Context, db sqlQuerier) (map[int64]appliedMigration, error) {
	var exists bool
	if err := db.QueryRowContext(ctx, "SELECT to_regclass('dgm.schema_migrations') IS NOT NULL").Scan(&exists); err != nil {
		return nil, fmt.Errorf("read applied migrations: %w", err)
	}
	out := map[int64]appliedMigration{}
	if !exists {
		return out, nil
	}
	rows, err := db.QueryContext(ctx, `SELECT version_id, coalesce(name, ''), coalesce(sha256, ''), min_compatible_binary, tstamp FROM dgm.schema_migrations`)
	if err != nil {
		return nil, fmt.Errorf("read applied migrations: %w", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err is checked
	for rows.Next() {
		var a appliedMigration
		if err := rows.Scan(&a.version, &a.name, &a.sha256, &a.minBinary, &a.at); err != nil {
			return nil, fmt.Errorf("read applied migrations: %w", err)
		}
		out[a.version] = a
	}
	return out, rows.Err()
}

// checkCompatible refuses an edited migration, and a schema that is too new for
// this binary. A newer schema that still suits it is fine: replicas of two
// versions overlap in every rollout.
func (m *Migrator) checkCompatible(applied map[int64]appliedMigration) error {
	var newest int64
	for _, f := range m.files {
		newest = max(newest, f.Version)
		if a, found := applied[f.Version]; found && a.sha256 != f.SHA256 {
			return fmt.Errorf("%w: migration %s was edited after it was applied here on %s (its SHA-256 was %s, is %s): put the file back as released and add a new migration",
				ErrIncompatible, f.Name, a.at.UTC().Format(time.DateOnly), a.sha256, f.SHA256)
		}
	}
	for _, a := range sortedByVersion(applied) {
		if a.minBinary > newest {
			return fmt.Errorf("%w: migration %s needs an operator that knows schema version %d, this one knows %d: install the newer operator",
				ErrIncompatible, a.name, a.minBinary, newest)
		}
	}
	return nil
}

func sortedByVersion(applied map[int64]appliedMigration) []appliedMigration {
	var out []appliedMigration
	for _, version := range slices.Sorted(maps.Keys(applied)) {
		if version > 0 {
			out = append(out, applied[version])
		}
	}
	return out
}
