// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// migrated is a connection to a new database with the newest schema.
func migrated(t testing.TB, url string) *observer {
	t.Helper()
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	return openDatabase(t, url)
}

func TestQueryPerformanceIsEmptyWithoutExtension(t *testing.T) {
	t.Parallel()
	db := migrated(t, migratedDatabase(t))
	db.want("0", "SELECT count(*) FROM dgm.v_query_performance")
	// Installed, and still not loaded by the server.
	db.exec("CREATE EXTENSION pg_stat_statements")
	db.want("0", "SELECT count(*) FROM dgm.v_query_performance")
}

func TestQueryPerformanceShowsStatementsWithoutValues(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=all")
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	db.want("0", "SELECT count(*) FROM dgm.v_query_performance")
	db.exec(`CREATE SCHEMA "odd schema"; CREATE EXTENSION pg_stat_statements SCHEMA "odd schema"; GRANT USAGE ON SCHEMA "odd schema" TO dgm_service`)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	must(t, s.MirrorImprovement(ctx, improvement(2)))
	for _, sql := range []string{
		`SELECT /* secret-1 */ count(*) FROM dgm.dgm_archive WHERE name = 'secret-2' -- secret-3`,
		`COPY (SELECT 'secret-4', $$secret-5$$, E'a\'secret-6', 'x''secret-7', 778899 FROM dgm.dgm_archive) TO STDOUT`,
		`COPY (SELECT 'secret-8 -- ', 'secret-9', "name" FROM dgm.dgm_archive /* 'secret-10 */ WHERE name > 'secret-11') TO STDOUT`,
		`DO 'BEGIN PERFORM ''secret-12'' FROM dgm.dgm_archive; END'`,
		`SELECT 'elsewhere', 1 AS nodgm, count(*) FROM pg_class`,
	} {
		if _, err := db.conn.Exec(ctx, sql); err != nil && !strings.HasPrefix(sql, "COPY") {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	all := db.text("SELECT string_agg(query, E'\\n') FROM dgm.v_query_performance")
	if strings.Contains(all, "secret") || strings.Contains(all, "778899") || strings.Contains(all, "elsewhere") {
		t.Errorf("values or other statements show:\n%s", all)
	}
	for _, shown := range []string{"SELECT ? count(*) FROM dgm.dgm_archive WHERE name = $1", "COPY (SELECT ?, …", `COPY (SELECT ?, ?, "name" FROM dgm.dgm_archive ? WHERE name > ?) TO STDOUT`} {
		if !strings.Contains(all, shown) {
			t.Errorf("%s is missing from\n%s", shown, all)
		}
	}
	db.want("true", `SELECT calls = 3 AND rows_affected = 2 AND total_seconds > 0 AND max_seconds <= total_seconds AND mean_seconds * calls BETWEEN total_seconds * 0.99 AND total_seconds * 1.01
		FROM dgm.v_query_performance WHERE statement = 'UpsertArchive'`)
	statements, err := s.SlowestStatements(ctx, 1000)
	must(t, err)
	found := false
	for _, one := range statements {
		// Two, and the probe at the start.
		found = found || one.Statement == "UpsertWorkspaces" && one.Calls == 3
	}
	if !found {
		t.Errorf("UpsertWorkspaces is missing from %+v", statements)
	}
	// Who may not use the schema of the extension sees nothing, and no error.
	db.exec("CREATE ROLE somebody")
	eventually(t, "it has the rights", func() error { // the chores change those of the same tables
		_, err := db.conn.Exec(ctx, "GRANT USAGE ON SCHEMA dgm TO somebody; GRANT SELECT ON ALL TABLES IN SCHEMA dgm TO somebody")
		return err
	})
	db.exec("SET ROLE somebody")
	db.want("0", "SELECT count(*) FROM dgm.v_query_performance")
}

func TestIndexUsageTellsUsedUnusedAndInvalid(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	must(t, mirrorAll(ctx, s.Store, 2000, func(*Improvement) {}))
	db.exec("CREATE INDEX useless ON dgm.dgm_archive (outcome_reason)")
	db.exec("ANALYZE dgm.dgm_archive")
	db.exec("SET enable_seqscan = off; SET enable_bitmapscan = off")
	db.text("SELECT max(name) FROM dgm.dgm_archive WHERE status = 'pending' AND \"timestamp\" > now()")
	db.exec("INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, uid) SELECT improvement_id, 'n', 'created', 'same' FROM dgm.dgm_archive ON CONFLICT DO NOTHING")
	if _, err := db.conn.Exec(ctx, "CREATE UNIQUE INDEX CONCURRENTLY broken ON dgm.improvement_workspaces (target_service)"); err == nil {
		t.Fatal("a unique index over equal values was built")
	}
	eventually(t, "statistics have arrived", func() error {
		if db.text("SELECT scans FROM dgm.v_index_usage WHERE index_name = 'idx_dgm_archive_status_timestamp'") == "0" {
			return errors.New("no scan is counted")
		}
		return nil
	})
	db.want("t t 0", "SELECT concat_ws(' ', is_unused, is_valid, scans) FROM dgm.v_index_usage WHERE index_name = 'useless'")
	db.want("f t", "SELECT concat_ws(' ', is_unused, is_valid) FROM dgm.v_index_usage WHERE index_name = 'idx_dgm_archive_status_timestamp'")
	db.want("f f", "SELECT concat_ws(' ', is_unused, is_valid) FROM dgm.v_index_usage WHERE index_name = 'broken'")
	db.want("true", "SELECT bytes = pg_relation_size('dgm.useless') AND bytes > 0 FROM dgm.v_index_usage WHERE index_name = 'useless'")
	db.want("true", `SELECT count(*) > 7 AND bool_and(root_table = 'performance_metrics') FROM dgm.v_index_usage WHERE root_index = 'idx_performance_metrics_composite'`)
	indexes, err := s.IndexUsage(ctx, 1000)
	must(t, err)
	seen := map[string]IndexUse{}
	for _, one := range indexes {
		seen[one.IndexName] = one
	}
	if !seen["useless"].Unused || seen["broken"].Valid || !seen["performance_metrics_improvement"].Unused || seen["dgm_archive_pkey"].Unused {
		t.Errorf("index usage = %+v", seen)
	}
}

func TestStorageAddsUpToWhatTheServerSays(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	large := improvement(1)
	large.Description = randomText(1 << 20) // stored out of line
	must(t, s.MirrorImprovement(ctx, large))
	for n := range 3 {
		db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp")
			SELECT 'm', 'latency', 'service', i, now() + make_interval(months => $1) FROM generate_series(1, 100) i`, n)
	}
	db.exec("DELETE FROM dgm.performance_metrics WHERE value <= 10 AND service_name IS NULL")
	db.exec("SELECT pg_stat_force_next_flush()")
	db.want("300 30 270", "SELECT concat_ws(' ', sum(rows_inserted), sum(rows_deleted), sum(live_rows)) FROM dgm.v_storage WHERE root_table = 'performance_metrics'")
	db.want("0", `SELECT count(*) FROM dgm.v_storage WHERE heap_bytes + index_bytes + toast_bytes <> pg_total_relation_size(format('dgm.%I', table_name))`)
	db.want("true", "SELECT toast_bytes > 500000 AND heap_bytes > 0 AND index_bytes > 0 FROM dgm.v_storage WHERE table_name = 'dgm_archive'")
	tables, err := s.Storage(ctx, 1000)
	must(t, err)
	if tables[0].TableName != "dgm_archive" || tables[0].ToastBytes < 500_000 {
		t.Errorf("the largest table = %+v, want dgm_archive", tables[0])
	}
}

func TestPartitionsTellWhatIsAheadExpiredAndInTheDefault(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	_, ahead, err := s.Partitions(ctx)
	must(t, err)
	if ahead < 6 {
		t.Errorf("%d months ahead, want at least 6", ahead)
	}
	// While somebody aggregates, retention waits.
	db.exec("SELECT pg_advisory_lock(hashtextextended('dgm.aggregate_metrics', 0))")
	db.exec("SELECT dgm.ensure_metric_partitions(months_back => 5)")
	// Months count as expired by the retention that is set, and by 90 days without one.
	expired := `SELECT count(*) FROM dgm.v_partitions WHERE is_expired`
	byRule := `SELECT count(*) FROM dgm.v_partitions WHERE to_time <= now() - make_interval(days => $1::integer)`
	db.want(db.text(byRule, 90), expired)
	for _, days := range []int{1, 30, 365} {
		db.exec(`INSERT INTO dgm.system_configurations (key, value, value_type) VALUES ('metrics_retention_days', $1, 'integer')
			ON CONFLICT (key) DO UPDATE SET value = excluded.value`, fmt.Sprint(days))
		db.want(db.text(byRule, days), expired)
	}
	db.want("0", "SELECT count(*) FROM dgm.v_partitions WHERE is_expired AND is_default")

	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, "timestamp")
		SELECT 'm', 'latency', 'service', 1, '1999-01-01'::timestamptz + make_interval(secs => i) FROM generate_series(1, 123) i`)
	partitions, _, err := s.Partitions(ctx)
	must(t, err)
	if first := partitions[0]; !first.IsDefault || first.RowCount != 123 {
		t.Errorf("the first partition is %+v, want the default one with 123 rows", first)
	}
	third := db.text(`SELECT partition_name FROM dgm.v_partitions WHERE from_time = (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '3 months') AT TIME ZONE 'UTC'`)
	db.exec(fmt.Sprintf("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; ALTER TABLE dgm.performance_metrics DETACH PARTITION dgm.%s", third))
	if _, ahead, err = s.Partitions(ctx); err != nil || ahead != 2 {
		t.Errorf("months ahead of a gap = %d, %v, want 2", ahead, err)
	}
	// Whatever the session's zone and style.
	db.want("true", `SELECT bool_or(from_time = (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months') AT TIME ZONE 'UTC') FROM dgm.v_partitions`)
}

func TestLongTransactionsShowWhatTheyHoldBack(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "max_prepared_transactions=5")
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	none, err := s.OpenTransactions(ctx)
	must(t, err)
	if none.Open != 0 || none.Longest != 0 || none.XminAge != 0 {
		t.Errorf("open transactions = %+v, want none", none)
	}
	begin := func(url, application, first string) *pgx.Conn {
		conn, err := pgx.Connect(ctx, url)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		_, err = conn.Exec(ctx, fmt.Sprintf("SET application_name = '%s'; BEGIN ISOLATION LEVEL REPEATABLE READ; %s", application, first))
		must(t, err)
		return conn
	}
	begin(url, "reads", "SELECT count(*) FROM dgm.dgm_archive WHERE name = 'secret'")
	begin(url, "writes", "SELECT pg_current_xact_id(), 'secret'")
	begin(server.URL("postgres"), "reads elsewhere", "SELECT 1")
	begin(server.URL("postgres"), "writes elsewhere", "SELECT pg_current_xact_id()")
	_, err = begin(url, "prepares", "SELECT pg_current_xact_id()").Exec(ctx, "PREPARE TRANSACTION 'forgotten'")
	must(t, err)
	for range 20 {
		db.exec("SELECT pg_current_xact_id()")
	}
	db.want("", "SELECT string_agg(name, ',') FROM dgm.v_long_transactions")
	time.Sleep(5100 * time.Millisecond)
	db.want("prepared///prepared/t session/reads/idle in transaction/f session/writes/idle in transaction/t session/writes elsewhere/idle in transaction/t",
		`SELECT string_agg(concat_ws('/', kind, CASE WHEN kind = 'prepared' THEN '/' ELSE application END, state, delays_aggregation), ' ' ORDER BY kind, application COLLATE "C") FROM dgm.v_long_transactions`)
	db.want("0", "SELECT count(*) FROM dgm.v_long_transactions v WHERE v::text LIKE '%secret%' OR age_seconds NOT BETWEEN 5 AND 60 OR xmin_age < 20")
	open, err := s.OpenTransactions(ctx)
	must(t, err)
	if open.Open != 4 || open.Longest < 5 || open.LongestWriting < 5 || open.XminAge < 20 {
		t.Errorf("open transactions = %+v, want 4 of five seconds", open)
	}
	sessions, err := s.Sessions(ctx)
	must(t, err)
	if sessions.IdleInTransaction != 2 || sessions.Hidden != 0 || sessions.Sessions < 5 || sessions.MaxConnections != 100 {
		t.Errorf("sessions = %+v", sessions)
	}
	// Others' sessions are hidden from who has no right to see them, and counted.
	db.exec("CREATE ROLE somebody; GRANT USAGE ON SCHEMA dgm TO somebody; GRANT SELECT ON ALL TABLES IN SCHEMA dgm TO somebody; SET ROLE somebody")
	db.want("prepared", "SELECT string_agg(kind, ',') FROM dgm.v_long_transactions")
	db.want("true", "SELECT hidden >= 3 FROM dgm.v_sessions")
}

func TestMonitoringIsCheapAndWritesNothing(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "shared_preload_libraries=pg_stat_statements", "autovacuum=off")
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	db.exec("CREATE EXTENSION pg_stat_statements")
	must(t, mirrorAll(ctx, s.Store, 1000, func(*Improvement) {}))
	look := func() {
		_, err := s.SlowestStatements(ctx, 20)
		must(t, err)
		_, err = s.IndexUsage(ctx, 100)
		must(t, err)
		_, err = s.Storage(ctx, 100)
		must(t, err)
		_, _, err = s.Partitions(ctx)
		must(t, err)
		_, err = s.OpenTransactions(ctx)
		must(t, err)
		_, err = s.Sessions(ctx)
		must(t, err)
		_, err = s.SnapshotsByKey(ctx, 100)
		must(t, err)
	}
	// What follows the mirroring takes transaction ids for a while.
	const xid = "SELECT pg_snapshot_xmax(pg_current_snapshot())"
	eventually(t, "five looks take no transaction id", func() error {
		before, began := db.text(xid), time.Now()
		for range 5 {
			look()
		}
		took := time.Since(began) / 5
		t.Logf("one look takes %v", took)
		if after := db.text(xid); after != before || took > 2*time.Second {
			return fmt.Errorf("the next transaction id was %s, is %s; one look takes %v", before, after, took)
		}
		return nil
	})
}

// A table that somebody has locked makes one look fail, and holds up nobody.
func TestMonitoringDoesNotWaitForLocks(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db, ctx := openDatabase(t, url), testContext(t)
	db.exec("BEGIN; LOCK TABLE dgm.constitutional_compliance_logs IN ACCESS EXCLUSIVE MODE")
	began := time.Now()
	_, err := s.Storage(ctx, 100)
	if err == nil || !errors.Is(err, ErrUnavailable) || time.Since(began) > 10*time.Second {
		t.Errorf("Storage = %v after %v, want it to give up soon", err, time.Since(began))
	}
	_, err = s.Sessions(ctx)
	must(t, err)
	db.exec("ROLLBACK")
	_, err = s.Storage(ctx, 100)
	must(t, err)
	must(t, s.Ready())
}
