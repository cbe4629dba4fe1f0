// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// The roles that the schema's rights are given to. They cannot log in: a login
// role is made a member of one of them.
const (
	// RoleOwner owns every object of the schema and migrates it.
	RoleOwner = "dgm_owner"
	// RoleService is what the operator and the DGM service need from day to day.
	RoleService = "dgm_service"
	// RoleReadonly reads what is not sensitive.
	RoleReadonly = "dgm_readonly"
)

// insufficientPrivilege is a SQLSTATE.
const insufficientPrivilege = "42501"

//go:embed roles.sql
var rolesSQL string

//go:embed ownrole.sql
var ownRoleSQL string

//go:embed grants.sql
var grantsSQL string

// becomeOwner makes what the connection creates belong to dgm_owner, where it may
// act as that.
func becomeOwner(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, ownRoleSQL, pgx.QueryExecModeSimpleProtocol)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == insufficientPrivilege {
		return nil // a member that may not SET ROLE (PostgreSQL 16): it works as itself
	}
	return err
}

// prepareRoles makes the roles, and the schema that belongs to dgm_owner, as far
// as the login role may. Its changes are one transaction.
func prepareRoles(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing is left to roll back after the commit
	if _, err := tx.ExecContext(ctx, "RESET ROLE"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, rolesSQL); err != nil {
		return fmt.Errorf("make schema dgm and its roles: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return conn.Raw(func(driver any) error { return becomeOwner(ctx, driver.(*stdlib.Conn).Conn()) })
}

// grantRoles gives the roles their rights when one of them has appeared since the
// last migration, which gives them by itself.
func (m *Migrator) grantRoles(ctx context.Context) error {
	var outdated bool
	if err := m.db.QueryRowContext(ctx, grantsSQL).Scan(&outdated); err != nil {
		return fmt.Errorf("look at the rights on schema dgm: %w", err)
	}
	if !outdated {
		return nil
	}
	if _, err := m.db.ExecContext(ctx, grantRolesSQL); err != nil {
		return fmt.Errorf("give the roles their rights on schema dgm: %w", err)
	}
	return nil
}

// planRoles prints what prepareRoles does.
func planRoles(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s\n%s\n", rolesSQL, ownRoleSQL)
	return err
}

// Notices returns what PostgreSQL remarked in the meantime, such as a right that
// is missing and how to give it.
func (m *Migrator) Notices() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notices)
}

// notice keeps what migrations say by RAISE NOTICE; PostgreSQL's own remarks (a
// thing that exists already) have codes of their own.
func (m *Migrator) notice(_ *pgconn.PgConn, n *pgconn.Notice) {
	if n.Code == "00000" {
		m.remark(n.Message)
	}
}

// remark adds to Notices.
func (m *Migrator) remark(message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.notices, message) {
		m.notices = append(m.notices, message)
	}
}
