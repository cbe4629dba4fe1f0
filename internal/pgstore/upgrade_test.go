// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// migrationsUpTo are the embedded migrations of an earlier release.
func migrationsUpTo(t testing.TB, version int64) fstest.MapFS {
	t.Helper()
	out := migrationsWith(t, nil)
	for name := range out {
		if name > fmt.Sprintf("%05d_z", version) {
			delete(out, name)
		}
	}
	return out
}

// fillings put rows into tables that a version has.
var fillings = []struct{ table, sql string }{
	{"known_constitutions", "INSERT INTO dgm.known_constitutions (hash, version) VALUES ('00000000000000aa', '2')"},
	{"writer_fences", "INSERT INTO dgm.writer_fences (cluster, cluster_uid, epoch, token, holder) VALUES ('c', 'u', 7, gen_random_uuid(), 'h')"},
	{"dgm_archive", `INSERT INTO dgm.dgm_archive (improvement_id, description, status, metadata, cluster, namespace, name, uid, attempt, constitutional_compliance_score_exact)
		SELECT md5(i::text)::uuid, 'text ' || chr(9763) || i, (ARRAY['pending', 'running', 'completed', 'failed', 'rolled_back'])[1 + i % 5],
			jsonb_build_object('n', i, 'f', 1.50, 's', repeat('x', i * 50)), 'c', 'ns', 'name-' || i, 'uid-' || i, 1 + i % 3, 0.123456789 FROM generate_series(1, 200) i`},
	{"improvement_workspaces", `INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, configuration, cluster, namespace, uid)
		SELECT improvement_id, name, 'archived', '{"changes": [1.0, 1e2]}', cluster, namespace, uid FROM dgm.dgm_archive`},
	{"rollback_snapshots", `INSERT INTO dgm.rollback_snapshots (improvement_id, revision, writer_epoch, format, sha256, plain_size, key_id, bytes)
		SELECT improvement_id, 1, 7, 'v1', repeat('ab', 32), 5, 'k', decode(repeat('00ff', 500), 'hex') FROM dgm.dgm_archive`},
	{"constitutional_compliance_logs", `INSERT INTO dgm.constitutional_compliance_logs (improvement_id, operation_type, compliance_level, status, assessment_method, compliance_score, evidence)
		SELECT improvement_id, 'o', 'warning', 'requires_review', 'hybrid', 0.71, '{"a": [null]}' FROM dgm.dgm_archive`},
	{"performance_metrics", `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, tags, "timestamp")
		SELECT 'm', 'latency', 'service', i * 1e-9, 's', '{"k": "v"}', now() + make_interval(months => i % 12 - 4) FROM generate_series(1, 600) i`},
	{"metric_rollups", `INSERT INTO dgm.metric_rollups (metric_name, metric_type, time_window, window_start, window_end, count, sum)
		VALUES ('old', 'latency', '1d', '2024-01-01Z', '2024-01-02Z', 3, 1e-20)`},
	{"bandit_states", `INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls, total_reward, exploration_data) VALUES ('ucb1', 'c/ns/p/default', 'a', 9, 4.50, '{}')`},
	{"bandit_decisions", `INSERT INTO dgm.bandit_decisions (algorithm_type, context_key, seq, arm_id, eligible_arms, reason, spec_digest, reward, resolved_at)
		VALUES ('ucb1', 'c/ns/p/default', 1, 'a', '["a"]', 'r', 'd', 0.25, now())`},
	{"system_configurations", `INSERT INTO dgm.system_configurations (key, value, value_type, metadata) VALUES ('of_my_own', '{"a": 1.0}', 'json', '{"b": 2}')`},
}

// contents is every row of every table, by the columns that it has now.
type contents struct{ query, rows string }

func (d *observer) fill() map[string]contents {
	d.t.Helper()
	out := map[string]contents{}
	for _, f := range fillings {
		if d.text("SELECT to_regclass('dgm.' || $1::text)", f.table) == "" {
			continue
		}
		d.exec(f.sql)
		columns := d.text(`SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = ('dgm.' || $1::text)::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'configuration_rules'`, f.table) // the population adds to these
		c := contents{query: fmt.Sprintf("SELECT string_agg(ROW(%s)::text, E'\\n') FROM dgm.%s", columns, f.table)}
		c.rows = d.text(c.query)
		out[f.table] = c
	}
	return out
}

// wantContents checks that each row is there as it was; migrations may add rows.
func (d *observer) wantContents(before map[string]contents, when string) {
	d.t.Helper()
	for table, c := range before {
		now := map[string]bool{}
		for row := range strings.SplitSeq(d.text(c.query), "\n") {
			now[row] = true
		}
		lost := 0
		for row := range strings.SplitSeq(c.rows, "\n") {
			if !now[row] {
				lost++
			}
		}
		if lost > 0 {
			d.t.Errorf("%s: %d rows of %s are not as they were", when, lost, table)
		}
	}
}

func TestUpgradeFromEveryVersionKeepsData(t *testing.T) {
	t.Parallel()
	files, err := embeddedMigrationFiles()
	must(t, err)
	for _, from := range files[:len(files)-1] {
		t.Run(from.Name, func(t *testing.T) {
			url := newTestDatabase(t)
			ctx := testContext(t)
			_, err := openMigrator(t, url, migrationsUpTo(t, from.Version)).Up(ctx)
			if from.Version >= 5 { // one that knows less cannot work here, but may have been interrupted
				must(t, err)
			} else if !errors.Is(err, ErrIncompatible) {
				t.Fatalf("up to version %d: %v", from.Version, err)
			}
			db := openDatabase(t, url)
			before := db.fill()
			m := openMigrator(t, url, migrationsWith(t, nil))
			_, err = m.Up(ctx)
			must(t, err)
			db.wantContents(before, "after the upgrade")
			drift, err := m.Drift(ctx)
			must(t, err)
			if drift.Drifted() {
				t.Errorf("the upgraded schema is not that of a new installation: %+v", drift.Differences)
			}
			if from.Version != 5 {
				return
			}
			for range len(files) - 5 {
				name, err := m.Down(ctx)
				must(t, err)
				db.wantContents(before, "after undoing "+name)
			}
			db.want("5", "SELECT max(version_id) FROM dgm.schema_migrations")
			_, err = m.Up(ctx)
			must(t, err)
			db.wantContents(before, "after the second upgrade")
		})
	}
}

func openImpatient(t testing.TB, url string, dir fstest.MapFS, attempts int) *Migrator {
	t.Helper()
	m, err := newMigrator(testContext(t), url, dir, lockPatience{timeout: 200 * time.Millisecond, attempts: attempts, pause: 50 * time.Millisecond, migrator: time.Minute})
	must(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

var lockingMigration = map[string]string{"99999_locking.sql": "-- min-compatible-binary: 5\n-- +goose Up\nALTER TABLE dgm.dgm_archive ADD COLUMN more text;\n-- +goose Down\nALTER TABLE dgm.dgm_archive DROP COLUMN more;\n"}

func TestMigrationGivesWayToLocksAndSaysWhose(t *testing.T) {
	t.Parallel()
	_, holder := newSchema(t)
	url := holder.conn.Config().ConnString()
	reader := openDatabase(t, url)
	holder.exec("SET application_name = 'long-report'")
	holder.exec("BEGIN")
	holder.text("SELECT count(*) FROM dgm.dgm_archive")

	_, err := openImpatient(t, url, migrationsWith(t, lockingMigration), 2).Up(testContext(t))
	var locked *lockedError
	if !errors.As(err, &locked) || !strings.Contains(reason(err), "long-report") || !strings.Contains(reason(err), "AccessShareLock on dgm.dgm_archive") {
		t.Errorf("Up against a held lock = %v, want it to name the holder", err)
	}

	patient := openImpatient(t, url, migrationsWith(t, lockingMigration), 1000)
	done := make(chan error, 1)
	go func() {
		_, err := patient.Up(context.Background())
		done <- err
	}()
	eventually(t, "it has given way once", func() error {
		if len(patient.Notices()) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	reader.exec("SET statement_timeout = '20s'")
	for range 20 { // readers queue behind the waiting migration for a moment only
		reader.text("SELECT count(*) FROM dgm.dgm_archive")
	}
	select {
	case err := <-done:
		t.Fatalf("the migration ended while the lock was held: %v", err)
	default:
	}
	holder.exec("COMMIT")
	must(t, <-done)
	reader.want("1", "SELECT count(*) FROM dgm.schema_migrations WHERE version_id = 99999")
	if !strings.Contains(strings.Join(patient.Notices(), "\n"), "long-report") {
		t.Errorf("the notices are %q, want the holder in them", patient.Notices())
	}
}

// Any session may take the migration lock, and keep it.
func TestWhoHoldsTheMigrationLockIsNamed(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	url := db.conn.Config().ConnString()
	holder := openDatabase(t, pgtest.ReadonlyURL(url))
	holder.exec("SET application_name = 'lock-keeper'")
	holder.exec("SELECT pg_advisory_lock($1)", migrationLockID)

	m, err := newMigrator(testContext(t), url, migrationsWith(t, lockingMigration), lockPatience{timeout: time.Second, attempts: 1, migrator: time.Second})
	must(t, err)
	defer m.Close() //nolint:errcheck // nothing depends on it
	if _, err := m.Up(testContext(t)); err == nil || !strings.Contains(reason(err), "holds the migration lock (lock-keeper, dgm_monitor") {
		t.Errorf("Up against a held migration lock = %v, want it to name the holder", err)
	}
	if _, err := m.FinishIndexes(testContext(t)); err == nil || !strings.Contains(reason(err), "lock-keeper") {
		t.Errorf("FinishIndexes against a held migration lock = %v, want it to name the holder", err)
	}
	holder.exec("SELECT pg_advisory_unlock($1)", migrationLockID)
	_, err = m.Up(testContext(t))
	must(t, err)
}

var concurrentMigration = map[string]string{"99999_index.sql": `-- min-compatible-binary: 5
-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS archive_created_by ON dgm.dgm_archive (created_by);
CREATE INDEX CONCURRENTLY IF NOT EXISTS archive_reason ON dgm.dgm_archive (outcome_reason);
-- +goose Down
DROP INDEX CONCURRENTLY dgm.archive_reason;
DROP INDEX CONCURRENTLY dgm.archive_created_by;
`}

func TestInterruptedConcurrentIndexBuildIsMended(t *testing.T) {
	t.Parallel()
	_, holder := newSchema(t)
	url := holder.conn.Config().ConnString()
	db := openDatabase(t, url)
	const valid = `SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ', ' ORDER BY 1) FROM pg_index WHERE indexrelid IN (to_regclass('dgm.archive_created_by'), to_regclass('dgm.archive_reason'))`
	// A build waits for the transactions that may still write without the index.
	holder.exec("BEGIN")
	holder.exec("INSERT INTO dgm.dgm_archive (improvement_id, description, status) VALUES (gen_random_uuid(), 'd', 'pending')")
	_, err := openImpatient(t, url, migrationsWith(t, concurrentMigration), 1).Up(testContext(t))
	var locked *lockedError
	if !errors.As(err, &locked) {
		t.Errorf("Up while a build has to wait = %v", err)
	}
	db.want("archive_created_by false", valid)
	holder.exec("COMMIT")

	m := openImpatient(t, url, migrationsWith(t, concurrentMigration), 20)
	names, err := m.Up(testContext(t))
	must(t, err)
	db.want("archive_created_by true, archive_reason true", valid)
	if len(names) != 1 || !strings.Contains(strings.Join(m.Notices(), "\n"), "archive_created_by was left half built") {
		t.Errorf("Up = %q, notices %q", names, m.Notices())
	}
	_, err = m.Down(testContext(t))
	must(t, err)
	db.want("", valid)
}

func TestConcurrentIndexIsBuiltOnceByMany(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	url := db.conn.Config().ConnString()
	results := make(chan error, 3)
	for range cap(results) {
		m := openMigrator(t, url, migrationsWith(t, concurrentMigration))
		go func() {
			_, err := m.Up(context.Background())
			results <- err
		}()
	}
	for range cap(results) {
		must(t, <-results)
	}
	db.want("1", "SELECT count(*) FROM dgm.schema_migrations WHERE version_id = 99999")
	db.want("true", "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'dgm.dgm_archive'::regclass")
}

func TestPlanOfAConcurrentBuildHasNoTransaction(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	url := db.conn.Config().ConnString()
	m := openMigrator(t, url, migrationsWith(t, concurrentMigration))
	var plan strings.Builder
	must(t, m.Plan(testContext(t), &plan))
	_, statements, found := strings.Cut(plan.String(), "-- 99999_index.sql: outside of a transaction")
	if !found || strings.Contains(statements, "BEGIN") || strings.Contains(statements, "COMMIT") {
		t.Fatalf("the plan is\n%s", plan.String())
	}
	_, statements, _ = strings.Cut(statements, "\n")
	for statement := range strings.SplitSeq(statements, ";\n") { // as psql sends them
		if strings.TrimSpace(statement) != "" {
			db.exec(statement)
		}
	}
	names, err := m.Up(testContext(t))
	must(t, err)
	if len(names) != 0 {
		t.Errorf("after the plan was run by hand Up applied %q", names)
	}
	bad := map[string]string{"99999_index.sql": strings.ReplaceAll(concurrentMigration["99999_index.sql"], "IF NOT EXISTS ", "")}
	if _, err := newMigrator(testContext(t), url, migrationsWith(t, bad), defaultPatience); err == nil || !strings.Contains(err.Error(), "IF NOT EXISTS") {
		t.Errorf("a build that cannot run again: %v", err)
	}
}
