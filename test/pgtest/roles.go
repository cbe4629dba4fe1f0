// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
)

// Login roles of every server, but for those made WithoutRoles. Each is a member
// of one of the schema's roles, as a database administrator would make them, and
// has the superuser's password.
const (
	// MigrateUser may act as dgm_owner.
	MigrateUser = "dgm_migrate"
	// ServiceUser has the rights of dgm_service, no more.
	ServiceUser = "dgm_operator"
	// ReadonlyUser has the rights of dgm_readonly, no more.
	ReadonlyUser = "dgm_monitor"
)

// MigrationURL turns the URL of a database into that of MigrateUser.
func MigrationURL(databaseURL string) string { return as(MigrateUser, databaseURL) }

// ServiceURL turns the URL of a database into that of ServiceUser.
func ServiceURL(databaseURL string) string { return as(ServiceUser, databaseURL) }

// ReadonlyURL turns the URL of a database into that of ReadonlyUser.
func ReadonlyURL(databaseURL string) string { return as(ReadonlyUser, databaseURL) }

// as leaves alone what is not the URL of the superuser.
func as(user, databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.User == nil || u.User.Username() != User {
		return databaseURL
	}
	password, _ := u.User.Password()
	u.User = url.UserPassword(user, password)
	return u.String()
}

func (s *Server) makeRoles(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("pgtest: roles: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	for _, member := range []struct{ user, of string }{
		{MigrateUser, "dgm_owner"}, {ServiceUser, "dgm_service"}, {ReadonlyUser, "dgm_readonly"},
	} {
		sql := fmt.Sprintf("CREATE ROLE %s NOLOGIN; CREATE ROLE %s LOGIN PASSWORD '%s' IN ROLE %s", member.of, member.user, s.password, member.of)
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("pgtest: role %s: %w", member.user, err)
		}
	}
	if _, err := conn.Exec(ctx, "GRANT pg_read_all_stats TO dgm_service"); err != nil {
		return fmt.Errorf("pgtest: right to monitor: %w", err)
	}
	return nil
}
