// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/acgs/dgm-operator/test/pgtest"
)

const rolesHeading = "## Roles, TLS and credentials"

// managedDatabase is a server as a cloud gives it: TLS, and an administrator who
// may create roles and databases and is no superuser.
func managedDatabase(t *testing.T) (server *pgtest.Server, admin *observer) {
	t.Helper()
	server, err := pgtest.New(testContext(t), pgtest.Options{TLS: true, WithoutRoles: true})
	must(t, err)
	t.Cleanup(server.Close)
	openDatabase(t, server.URL("postgres")).exec("CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin'; GRANT pg_read_all_stats TO admin WITH ADMIN OPTION")
	return server, openDatabase(t, withUser(t, server.URL("postgres"), "admin", "admin"))
}

// runDocumented runs a documented block one statement at a time, as psql does.
func (d *observer) runDocumented(holding string) {
	d.t.Helper()
	for _, statement := range strings.Split(strings.TrimSpace(documented(d.t, rolesHeading, holding)[0]), ";\n") {
		d.exec(statement)
	}
}

// installedConfig is that of an operator with the documented URLs.
func installedConfig(t *testing.T, server *pgtest.Server) (*secret, Config, *logLines) {
	t.Helper()
	files, log := &secret{t: t, directory: t.TempDir()}, &logLines{}
	files.write("url", withUser(t, server.URL("dgm"), "dgm_operator", "change-me-2"))
	files.write("migration-url", withUser(t, server.URL("dgm"), "dgm_migrate", "change-me-1"))
	c := files.config()
	c.Log = log.logger()
	return files, c, log
}

// docs/database.md, word for word: the operator then works without a complaint,
// and takes up another password.
func TestDocumentedRolesAreAllThatIsNeeded(t *testing.T) {
	t.Parallel()
	server, admin := managedDatabase(t)
	admin.runDocumented("CREATE ROLE")
	admin.runDocumented("CREATE DATABASE")
	admin.runDocumented("pg_read_all_stats")
	files, c, log := installedConfig(t, server)
	s := startReady(t, c)
	ctx := testContext(t)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	monitor := openDatabase(t, withUser(t, server.URL("dgm"), "dgm_monitor", "change-me-3"))
	monitor.want("1", "SELECT count(*) FROM dgm.v_improvements WHERE cluster = 'test'")
	monitor.want("dgm_owner", "SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'dgm'::regnamespace")
	monitor.want("t", "SELECT bool_and(ssl)::text::char(1) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'dgm-operator%'")

	admin.runDocumented("ALTER ROLE")
	files.write("url", withUser(t, server.URL("dgm"), "dgm_operator", "change-me-4"))
	eventually(t, "it has taken up the password", func() error {
		if !strings.Contains(log.all(), "connections are made anew") {
			return errors.New(log.all())
		}
		return nil
	})
	must(t, s.MirrorImprovement(ctx, improvement(2)))
	for _, complaint := range []string{"missing", "may not", "certificate", "denied", "not work", "not ready"} {
		if strings.Contains(log.all(), complaint) {
			t.Errorf("the log says %q:\n%s", complaint, log.all())
		}
	}
	must(t, s.stop())
	c.MigrationURL = c.URL // somebody else migrates
	must(t, startReady(t, c).MirrorImprovement(ctx, improvement(3)))
}

// A schema of one role, of the released version or of the newest, is taken over
// as docs/database.md has it.
func TestRolesArePartedLater(t *testing.T) {
	t.Parallel()
	files, err := embeddedMigrationFiles()
	must(t, err)
	for _, from := range []int64{5, files[len(files)-1].Version} {
		t.Run(fmt.Sprint("from version ", from), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			server, admin := managedDatabase(t)
			admin.exec("CREATE ROLE app LOGIN PASSWORD 'app'")
			admin.exec("CREATE DATABASE dgm")
			admin.exec("GRANT CREATE ON DATABASE dgm TO app")
			one := openMigrator(t, withUser(t, server.URL("dgm"), "app", "app"), migrationsUpTo(t, from))
			_, err := one.Up(ctx)
			must(t, err)
			if all := strings.Join(one.Notices(), "\n"); !strings.Contains(all, "role dgm_owner is missing and app may not make it") {
				t.Errorf("the notices are %q", all)
			}
			admin.runDocumented("CREATE ROLE")
			admin.exec("GRANT CREATE ON DATABASE dgm TO dgm_owner")
			admin.exec("GRANT app TO dgm_migrate")
			_, c, log := installedConfig(t, server)
			s := startReady(t, c)
			must(t, s.MirrorImprovement(ctx, improvement(1)))
			owner := map[bool]string{true: "dgm_owner", false: "app"}[from == 5] // without a migration it stays
			openDatabase(t, server.URL("dgm")).want(owner, "SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'dgm'::regnamespace")
			if strings.Contains(log.all(), "denied") {
				t.Errorf("the log says\n%s", log.all())
			}
		})
	}
}
