// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

//go:embed rightstomigrate.sql
var rightsToMigrateSQL string

const explainTimeout = 5 * time.Second

// rightsError is a right that is missing, with the statement that gives it.
type rightsError struct {
	cause *pgconn.PgError
	mend  string
}

func (e *rightsError) Error() string {
	return fmt.Sprintf("%s (SQLSTATE %s): a database administrator mends it with: %s", e.cause.Message, e.cause.Code, e.mend)
}

func (e *rightsError) Unwrap() error { return e.cause }

// lacksRight returns PostgreSQL's error when a right was missing and nobody has
// said yet how to give it.
func lacksRight(err error) *pgconn.PgError {
	var pgErr *pgconn.PgError
	var explained *rightsError
	if errors.As(err, &explained) || !errors.As(err, &pgErr) || pgErr.Code != insufficientPrivilege {
		return nil
	}
	return pgErr
}

// explainMigration adds to an error for want of a right which one the role that
// migrates needs.
func explainMigration(ctx context.Context, db *sql.DB, err error) error {
	cause := lacksRight(err)
	if cause == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	var mend string
	if asked := db.QueryRowContext(ctx, rightsToMigrateSQL).Scan(&mend); asked != nil || mend == "" {
		return err
	}
	return &rightsError{cause: cause, mend: mend}
}

// explainRights does so for the role that the operator works as.
func (s *Store) explainRights(ctx context.Context, err error) error {
	cause := lacksRight(err)
	if cause == nil {
		return err
	}
	config, failed := parseURL(s.config.URL)
	if failed != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	conn, failed := pgx.ConnectConfig(ctx, config.ConnConfig)
	if failed != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	mend, failed := dbsql.New(conn).RightsToServe(ctx)
	if failed != nil {
		return err
	}
	return &rightsError{cause: cause, mend: mend}
}
