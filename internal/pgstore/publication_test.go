// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// keywords is a URL as libpq's list of keywords and values.
func keywords(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	password, _ := u.User.Password()
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s", u.Hostname(), u.Port(), u.User.Username(), password, strings.TrimPrefix(u.Path, "/"))
}

// subscribe makes the tables and a subscription as the document says.
func subscribe(t *testing.T, url string, subscriber *observer) {
	t.Helper()
	subscriber.exec("CREATE SCHEMA dgm")
	rows, err := openDatabase(t, pgtest.ReadonlyURL(url)).conn.Query(testContext(t), documented(t, "## For other services", "CREATE TABLE")[0])
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var statement string
		must(t, rows.Scan(&statement))
		subscriber.exec(statement)
	}
	must(t, rows.Err())
	subscriber.exec(fmt.Sprintf("CREATE SUBSCRIPTION dgm CONNECTION '%s' PUBLICATION dgm_publication", keywords(t, url)))
}

func TestSubscriberGetsRowsAndNothingSensitive(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "wal_level=logical")
	url := server.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	db, replica := openDatabase(t, url), openDatabase(t, pgtest.Start(t).Database(t))
	const insert = `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp") VALUES ($1, 'latency', 'service', 1e-7, $2)`
	now := time.Now().UTC()
	db.exec(insert, "copied at first", now)
	i := improvement(1)
	must(t, s.MirrorImprovement(ctx, i))
	_, err := s.SaveSnapshot(ctx, i, []byte("exact bytes"))
	must(t, err)
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ('a_secret', true, 'SEALED', 'key-1')`)
	subscribe(t, url, replica)
	t.Cleanup(func() { replica.exec("DROP SUBSCRIPTION dgm") })

	arrived := func(want, sql string, args ...any) {
		t.Helper()
		eventually(t, sql+" arrives", func() error {
			if got := replica.text(sql, args...); got != want {
				return fmt.Errorf("%q instead of %q", got, want)
			}
			return nil
		})
	}
	arrived("copied at first", "SELECT metric_name FROM dgm.performance_metrics WHERE service_name IS NULL")
	arrived("a_secret", "SELECT key FROM dgm.system_configurations WHERE is_sensitive")

	// Through the root, also of a month whose partition is made later.
	far := time.Date(now.Year(), now.Month()+8, 15, 0, 0, 0, 0, time.UTC)
	db.exec("SELECT dgm.ensure_metric_partitions(1, 9)")
	db.want("true", "SELECT to_regclass('dgm.performance_metrics_' || $1) IS NOT NULL", far.Format("200601"))
	db.exec(insert, "months ahead", far)
	arrived("0.0000001", "SELECT value FROM dgm.performance_metrics WHERE metric_name = 'months ahead'")
	// Changes and deletions too.
	i.ArchiveStatus, i.WorkspaceStatus = lifecycle.ArchiveRunning, lifecycle.WorkspaceActive
	must(t, s.MirrorImprovement(ctx, i))
	arrived("running", "SELECT status FROM dgm.dgm_archive")
	arrived("active", "SELECT status FROM dgm.improvement_workspaces")
	must(t, s.MirrorPolicy(ctx, policy(1, "a")))
	arrived("a", "SELECT arm_id FROM dgm.bandit_states WHERE name = 'policy-001'")
	db.exec("DELETE FROM dgm.system_configurations WHERE key = 'a_secret'")
	arrived("0", "SELECT count(*) FROM dgm.system_configurations WHERE key = 'a_secret'")
	for table, query := range map[string]string{
		"constitutional_compliance_logs": `INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, status, assessment_method) VALUES ('o', 'compliant', 'completed', 'manual')`,
		"bandit_decisions":               `INSERT INTO dgm.bandit_decisions (algorithm_type, context_key, seq, arm_id, eligible_arms, reason, spec_digest) VALUES ('ucb1', 'c', 1, 'a', '[]', 'r', 'd')`,
		"metric_rollups":                 `INSERT INTO dgm.metric_rollups (metric_name, metric_type, time_window, window_start, window_end, count) VALUES ('m', 'latency', '1m', '2026-07-01', '2026-07-01 00:01', 3)`,
		"known_constitutions":            `INSERT INTO dgm.known_constitutions (hash, version) VALUES ('0123456789abcdef', '2')`,
	} {
		db.exec(query)
		eventually(t, "dgm."+table+" arrives", func() error {
			if got, want := replica.text("SELECT count(*) FROM dgm."+table), db.text("SELECT count(*) FROM dgm."+table); got != want || got == "0" {
				return errors.New(got + " rows instead of " + want)
			}
			return nil
		})
	}
	replica.want("", `SELECT string_agg(relname || '.' || attname, ' ') FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'dgm'::regnamespace
		AND (relname IN ('rollback_snapshots', 'writer_fences') OR attname IN ('encrypted_value', 'key_id', 'token', 'ingest_xid'))`)
}

// Without a replica identity an UPDATE of a published table would be refused.
func TestPublishedTablesHaveAReplicaIdentity(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.want("9", "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'dgm_publication'")
	db.want("true", "SELECT pubviaroot FROM pg_publication WHERE pubname = 'dgm_publication'")
	db.want("", `SELECT string_agg(format('%s.%s', t.tablename, a.attname), ' ') FROM pg_publication_tables t
		JOIN pg_index i ON i.indrelid = format('%I.%I', t.schemaname, t.tablename)::regclass AND i.indisprimary
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE NOT a.attname = ANY (t.attnames)`)
	db.want("", `SELECT string_agg(t.tablename, ' ') FROM pg_publication_tables t WHERE NOT EXISTS (
		SELECT 1 FROM pg_index i WHERE i.indrelid = format('%I.%I', t.schemaname, t.tablename)::regclass AND i.indisprimary)`)
}

// Where the right is lacking the rest of the schema is made all the same, and
// the publication can be made later.
func TestPublicationIsMadeByWhoMay(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	migrator := openMigrator(t, url, migrationsWith(t, nil))
	_, err := migrator.Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.want("false", "SELECT dgm.create_publication()") // there is one
	db.exec("DROP PUBLICATION dgm_publication")
	db.exec(`BEGIN`)
	db.exec(`SET LOCAL session_replication_role = replica`)
	db.exec(`ALTER TABLE dgm.system_configurations DISABLE TRIGGER ALL, DROP CONSTRAINT system_configurations_sensitive`)
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, value) VALUES ('old_secret', true, 'PLAIN')`)
	if _, err := db.conn.Exec(testContext(t), "SELECT dgm.create_publication()"); err == nil || !strings.Contains(err.Error(), "still in plain") {
		t.Errorf("publishing a plain secret: %v, want a refusal", err)
	}
	db.exec(`ROLLBACK`)
	db.want("true", "SELECT dgm.create_publication()")
}
