// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	_ "embed"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// rightsSQL prints what each role may do, by itself or as anybody may.
//
//go:embed testdata/rights.sql
var rightsSQL string

// Every right on schema dgm of dgm_service, dgm_readonly and of everybody is in
// testdata/rights.txt, to be reviewed. UPDATE_GOLDEN=1 writes it anew.
func TestContractOfRights(t *testing.T) {
	t.Parallel()
	got := openDatabase(t, migratedDatabase(t)).text(rightsSQL) + "\n"
	const golden = "testdata/rights.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(golden, []byte(got), 0o600))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the rights differ from %s (-want +got):\n%s", golden, diff)
	}
}

// What a later migration makes belongs to dgm_owner, can be read by dgm_service
// and by nobody else; the same holds for what a member makes by hand as dgm_owner.
func TestRightsCoverWhatIsMadeLater(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx := testContext(t)
	admin := openDatabase(t, url)
	admin.exec("GRANT DELETE ON dgm.dgm_archive TO dgm_service; GRANT SELECT (bytes) ON dgm.rollback_snapshots TO dgm_readonly")
	_, err := openMigrator(t, pgtest.MigrationURL(url), migrationsWith(t, map[string]string{"00099_later.sql": `-- min-compatible-binary: 5
-- +goose Up
ALTER TABLE dgm.dgm_archive ADD COLUMN later text;
CREATE TABLE dgm.later (n bigint GENERATED ALWAYS AS IDENTITY, secret text);
CREATE VIEW dgm.later_view AS SELECT n FROM dgm.later;
CREATE FUNCTION dgm.later_call() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT 1';
-- +goose Down
DROP FUNCTION dgm.later_call();
DROP VIEW dgm.later_view;
DROP TABLE dgm.later;
ALTER TABLE dgm.dgm_archive DROP COLUMN later;
`})).Up(ctx)
	must(t, err)
	byHand := openDatabase(t, pgtest.MigrationURL(url))
	byHand.exec("SET ROLE dgm_owner")
	byHand.exec("CREATE TABLE dgm.by_hand (n bigint)")

	service, reader := openDatabase(t, pgtest.ServiceURL(url)), openDatabase(t, pgtest.ReadonlyURL(url))
	byHand.want("dgm_owner", "SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class WHERE relnamespace = 'dgm'::regnamespace")
	service.want("0 0 0", "SELECT concat_ws(' ', (SELECT count(*) FROM dgm.later), (SELECT count(*) FROM dgm.later_view), (SELECT count(*) FROM dgm.by_hand))")
	service.want("true", "SELECT has_column_privilege('dgm.dgm_archive', 'later', 'INSERT')")
	refused(t, service, "DELETE FROM dgm.dgm_archive") // what was given by hand is taken away
	refused(t, reader, "SELECT bytes FROM dgm.rollback_snapshots")
	for _, write := range []string{"INSERT INTO dgm.later (secret) VALUES ('x')", "INSERT INTO dgm.by_hand VALUES (1)", "SELECT dgm.later_call()"} {
		refused(t, service, write)
		refused(t, reader, write)
	}
	for _, read := range []string{"SELECT * FROM dgm.later", "SELECT * FROM dgm.later_view", "SELECT * FROM dgm.by_hand"} {
		refused(t, reader, read)
	}
	// A month's partition, made for the operator by a function of the owner.
	service.exec("SELECT dgm.ensure_metric_partitions(3, 9)")
	for _, straight := range []string{
		`INSERT INTO dgm.performance_metrics_%s (metric_name, metric_type, metric_scope, value, "timestamp") SELECT metric_name, metric_type, metric_scope, value, "timestamp" FROM dgm.performance_metrics LIMIT 1`,
		"DROP TABLE dgm.performance_metrics_%s",
	} {
		refused(t, service, strings.ReplaceAll(straight, "%s", service.text("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '9 months', 'YYYYMM')")))
	}
}

// refused fails unless the role lacks the right.
func refused(t *testing.T, as *observer, sql string) {
	t.Helper()
	if _, err := as.conn.Exec(testContext(t), sql); sqlState(err) != insufficientPrivilege {
		t.Errorf("%s as %s: %v; want it refused for want of a right", sql, as.conn.Config().User, err)
	}
}

func TestWhatTheRolesMayNotDo(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	service, reader := openDatabase(t, pgtest.ServiceURL(url)), openDatabase(t, pgtest.ReadonlyURL(url))
	tables := strings.Fields(service.text("SELECT string_agg(oid::regclass::text, ' ') FROM pg_class WHERE relnamespace = 'dgm'::regnamespace AND relkind IN ('r', 'p')"))
	if len(tables) < 20 {
		t.Fatalf("only %d tables", len(tables))
	}
	both := []string{
		"SET ROLE dgm_owner", "SET SESSION AUTHORIZATION dgm_migrate", "SELECT dgm.grant_roles()", "SELECT dgm.create_publication()",
		"CREATE TABLE dgm.mine (n int)", "CREATE FUNCTION dgm.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TYPE dgm.mine AS (n int)",
		"CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'", "CREATE TABLE public.dgm_archive (n int)",
		"CREATE SCHEMA mine", "CREATE EXTENSION hstore", "CREATE PUBLICATION mine FOR TABLE dgm.dgm_archive", "CREATE ROLE mine",
		"ALTER FUNCTION dgm.purge_metric_batches(interval, integer) RESET search_path", "ALTER SCHEMA dgm RENAME TO mine", "DROP VIEW dgm.v_improvements",
		"CREATE OR REPLACE VIEW dgm.v_improvements AS SELECT 1", "DROP INDEX dgm.idx_bandit_states_context_arm", "REFRESH MATERIALIZED VIEW dgm.mv_compliance_posture",
		"ALTER ROLE dgm_migrate PASSWORD 'mine'", "GRANT dgm_owner TO CURRENT_USER", "COPY dgm.known_constitutions TO PROGRAM 'cat'",
		"UPDATE dgm.schema_migrations SET sha256 = ''", "INSERT INTO dgm.known_constitutions (hash, version) VALUES ('0000000000000000', '9')",
		"UPDATE dgm.rollback_snapshots SET bytes = NULL", "UPDATE dgm.known_constitutions SET configuration_rules = '{}'",
	}
	for _, table := range tables {
		both = append(both, "DELETE FROM "+table, "TRUNCATE "+table, "ALTER TABLE "+table+" DISABLE TRIGGER ALL", "DROP TABLE "+table,
			"CREATE TRIGGER mine BEFORE INSERT ON "+table+" EXECUTE FUNCTION suppress_redundant_updates_trigger()")
	}
	for _, sql := range both {
		refused(t, service, sql)
		refused(t, reader, sql)
	}
	for _, sql := range []string{
		"SELECT encrypted_value FROM dgm.system_configurations", "SELECT value FROM dgm.system_configurations", "SELECT bytes FROM dgm.rollback_snapshots",
		"SELECT token FROM dgm.writer_fences", "UPDATE dgm.writer_fences SET epoch = epoch + 1", "SELECT nextval('dgm.writer_epoch')",
		"INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('m', 'latency', 'service', 1)",
		"SELECT dgm.purge_rollback_snapshots('test', '1 day', 1)", "SELECT dgm.drop_expired_metric_partitions(1)", "SELECT dgm.refresh_analytics()",
		"SELECT rollback_data FROM dgm.dgm_archive", "SELECT source_code FROM dgm.improvement_workspaces",
	} {
		refused(t, reader, sql)
	}
	for _, sql := range []string{
		"INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, ingest_xid) VALUES ('m', 'latency', 'service', 1, '3')",
		"UPDATE dgm.performance_metrics SET value = 0", "UPDATE dgm.constitutional_compliance_logs SET compliance_level = 'exemplary'",
		"UPDATE dgm.system_configurations SET is_builtin = false", "UPDATE dgm.dgm_archive SET improvement_id = gen_random_uuid()",
		"SET dgm.purging = 'on'; UPDATE dgm.rollback_snapshots SET bytes = NULL",
	} {
		refused(t, service, sql)
	}
	if _, err := service.conn.Exec(testContext(t), "SET dgm.migration = 'on'; UPDATE dgm.system_configurations SET value = '2.0' WHERE key = 'constitutional_version'"); sqlState(err) != "23514" {
		t.Errorf("a read-only setting, changed as a migration would: %v; want a refusal", err)
	}
}

// Whoever calls a function of the owner cannot have it find objects of their own.
func TestOwnersFunctionsHaveAPinnedSearchPath(t *testing.T) {
	t.Parallel()
	openDatabase(t, migratedDatabase(t)).want("", `SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc
		WHERE pronamespace = 'dgm'::regnamespace AND prosecdef AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))`)
}
