// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// migratedMetrics is a database without samples; a new one has some to begin with.
func migratedMetrics(t testing.TB) (url string, db *observer) {
	t.Helper()
	url = newTestDatabase(t)
	db = migrated(t, url)
	db.exec("DELETE FROM dgm.performance_metrics")
	return url, db
}

// month is the first instant of the month that is so many after the current one.
func month(after int) time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month()+time.Month(after), 1, 0, 0, 0, 0, time.UTC)
}

func partitionOf(at time.Time) string { return "dgm.performance_metrics_" + at.UTC().Format("200601") }

// insertAt inserts a sample as another service would.
func (d *observer) insertAt(at any) {
	d.t.Helper()
	d.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, timestamp)
		VALUES ('m', 'latency', 'service', 1, 'svc', $1::text::timestamptz)`, fmt.Sprint(at))
}

const (
	countPartitions = `SELECT count(*) FROM pg_inherits WHERE inhparent = 'dgm.performance_metrics'::regclass`
	countDefault    = `SELECT count(*) FROM dgm.performance_metrics_default`
	countMetrics    = `SELECT count(*) FROM dgm.performance_metrics`
)

func TestMonthsAreThoseOfUTCInEveryZone(t *testing.T) {
	t.Parallel()
	_, db := migratedMetrics(t)
	for _, zone := range []string{"Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati", "UTC"} {
		db.exec("SET timezone = '" + zone + "'")
		db.exec("DELETE FROM dgm.performance_metrics")
		// Two years ahead there are all changes to and from summer time.
		db.text("SELECT dgm.ensure_metric_partitions(24, 24)")
		for _, m := range []int{-13, -1, 0, 5, 24} {
			db.insertAt(month(m).Format(time.RFC3339Nano))
			db.insertAt(month(m + 1).Add(-time.Microsecond).Format(time.RFC3339Nano))
			db.want("2", "SELECT count(*) FROM "+partitionOf(month(m)))
		}
		db.want("0", countDefault)
	}
	db.exec("SET timezone = 'UTC'")
	db.want("true", `SELECT bool_and(pg_get_expr(relpartbound, oid) ~ '^FOR VALUES FROM \(''....-..-01 00:00:00\+00''\) TO \(''....-..-01 00:00:00\+00''\)$')
		FROM pg_class WHERE relname ~ '^performance_metrics_[0-9]{6}$' AND relkind = 'r'`)
	// Each partition has all of the indexes, and compresses as its parent does.
	db.want("", `SELECT string_agg(DISTINCT parent_index || ' of ' || partition, ', ') FROM dgm.unfinished_indexes()`)
	db.want("0", "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p') AND a.atttypid = 'jsonb'::regtype AND a.attnum > 0 AND NOT a.attisdropped AND a.attcompression <> 'l'")
}

func TestP3_FarOffSamplesAreKeptAndMakeNoPartitions(t *testing.T) {
	t.Parallel()
	_, db := migratedMetrics(t)
	before := db.text(countPartitions)
	far := []any{"9999-12-31 23:59:59Z", "294276-01-01 00:00Z", "4000-01-01 00:00 BC", "1970-01-01 00:00Z", month(60).Format(time.RFC3339), month(-60).Format(time.RFC3339)}
	for _, at := range far {
		db.insertAt(at)
	}
	db.want("0", "SELECT dgm.ensure_metric_partitions()")
	db.want(before, countPartitions)
	db.want(fmt.Sprint(len(far)), countDefault)

	// Those of the last three years get their months, at any call.
	db.insertAt(month(-20).Add(time.Hour).Format(time.RFC3339))
	db.insertAt(month(-36).Format(time.RFC3339))
	db.want("2", "SELECT dgm.ensure_metric_partitions()")
	db.want("1 1", "SELECT (SELECT count(*) FROM "+partitionOf(month(-20))+") || ' ' || (SELECT count(*) FROM "+partitionOf(month(-36))+")")
	db.want(fmt.Sprint(len(far)), countDefault)
	db.want("0", "SELECT dgm.ensure_metric_partitions()")

	// But none that retention has done with.
	db.exec("UPDATE dgm.metric_retention_state SET floor = $1", month(-5))
	db.insertAt(month(-10).Format(time.RFC3339))
	db.want("0", "SELECT dgm.ensure_metric_partitions(12, 6)::int - 4") // months -5 to -2
	db.want(fmt.Sprint(len(far)+1), countDefault)
}

func TestP3_NoSampleIsLostOrDoubledWhileItsMonthGetsAPartition(t *testing.T) {
	t.Parallel()
	url, db := migratedMetrics(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var inserted, inDefault atomic.Int64
	var group sync.WaitGroup
	failures := make(chan error, 4)
	for worker := range 4 {
		group.Go(func() {
			conn, err := pgx.Connect(testContext(t), url)
			if err != nil {
				failures <- err
				return
			}
			defer conn.Close(context.Background()) //nolint:errcheck // nothing depends on it
			for n := 0; ctx.Err() == nil; n++ {
				at := month(7 + (worker+n)%6).Add(time.Duration(n) * time.Second)
				tag, err := conn.Exec(testContext(t), `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, timestamp)
					SELECT 'm', 'latency', 'service', i, $1 FROM generate_series(1, 5) i`, at)
				if err != nil {
					failures <- err
					return
				}
				inserted.Add(tag.RowsAffected())
			}
		})
	}
	for ahead := 7; ahead <= 12; ahead++ {
		from := inserted.Load()
		eventually(t, "more is inserted", func() error {
			select {
			case err := <-failures:
				t.Fatal(err)
			default:
			}
			if inserted.Load() < from+200 {
				return errors.New("too little")
			}
			return nil
		})
		held, _ := time.ParseDuration(db.text(countDefault) + "ns")
		inDefault.Add(int64(held))
		// Two leaders at once.
		var both sync.WaitGroup
		var made atomic.Int64
		for range 2 {
			conn := openDatabase(t, url)
			both.Go(func() {
				var n int64
				if err := conn.conn.QueryRow(testContext(t), "SELECT dgm.ensure_metric_partitions(1, $1)", ahead).Scan(&n); err != nil {
					failures <- err
				}
				made.Add(n)
			})
		}
		both.Wait()
		if made.Load() != 1 {
			t.Errorf("two leaders made %d partitions for month %d, want 1", made.Load(), ahead)
		}
	}
	cancel()
	group.Wait()
	select {
	case err := <-failures:
		t.Fatal(err)
	default:
	}
	if inDefault.Load() == 0 {
		t.Fatal("nothing ever was in the default partition")
	}
	db.want(fmt.Sprintf("%d %[1]d", inserted.Load()), "SELECT count(*) || ' ' || count(DISTINCT id) FROM dgm.performance_metrics")
	db.want("0", countDefault)
	// A moved sample is new to aggregation, whose snapshot may be older than the partition.
	db.want("true", "SELECT count(DISTINCT ingest_xid) < count(*) / 5 + 7 AND count(*) FILTER (WHERE created_at > now()) = 0 FROM "+partitionOf(month(12)))
}

func TestMovedSamplesAreNewToAggregation(t *testing.T) {
	t.Parallel()
	_, db := migratedMetrics(t)
	db.insertAt(month(8).Format(time.RFC3339))
	before := db.text("SELECT ingest_xid FROM dgm.performance_metrics")
	db.want("2", "SELECT dgm.ensure_metric_partitions(1, 8)")
	db.want("true", "SELECT ingest_xid > $1::text::xid8 FROM "+partitionOf(month(8)), before)
}

func TestMakingPartitionsGivesWay(t *testing.T) {
	t.Parallel()
	url, db := migratedMetrics(t)
	db.insertAt(time.Now().UTC().Format(time.RFC3339))
	db.exec("BEGIN")
	db.want("2", "SELECT dgm.ensure_metric_partitions(1, 8)")
	other := openDatabase(t, url)
	other.exec("SET lock_timeout = '500ms'")
	other.want("1", fmt.Sprintf("SELECT count(*) FROM dgm.performance_metrics WHERE timestamp >= '%s' AND timestamp < '%s'", month(0).Format(time.RFC3339), month(1).Format(time.RFC3339)))
	db.exec("ROLLBACK")

	other.exec("BEGIN; LOCK TABLE dgm.performance_metrics_default IN ROW EXCLUSIVE MODE")
	if _, err := db.conn.Exec(testContext(t), "SELECT dgm.ensure_metric_partitions(1, 8)"); err == nil || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("ensure_metric_partitions beside a lock = %v, want lock_not_available", err)
	}
	other.exec("COMMIT")
	db.want("2", "SELECT dgm.ensure_metric_partitions(1, 8)")
}

func TestRetentionDropsWholeMonthsAndNothingElse(t *testing.T) {
	t.Parallel()
	_, db := migratedMetrics(t)
	db.exec("SET timezone = 'Europe/Berlin'")
	db.text("SELECT dgm.ensure_metric_partitions(6, 6)")
	for m := -6; m <= 1; m++ {
		db.insertAt(month(m).Format(time.RFC3339))
		db.insertAt(month(m + 1).Add(-time.Microsecond).Format(time.RFC3339Nano))
	}
	db.insertAt("1970-01-01 00:00Z")
	db.insertAt("9999-01-01 00:00Z")
	kept := time.Now().UTC().AddDate(0, 0, -90) // of which month everything is kept
	first := time.Date(kept.Year(), kept.Month(), 1, 0, 0, 0, 0, time.UTC)
	months := 0
	for m := month(-6); m.Before(first); m = m.AddDate(0, 1, 0) {
		months++
		db.want("1", "SELECT dgm.drop_expired_metric_partitions(90, false)")
	}
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(90, false)")
	db.want("true", "SELECT floor = $1 FROM dgm.metric_retention_state", first)
	db.want("1", "SELECT dgm.delete_expired_metrics()")
	db.want("0", "SELECT dgm.delete_expired_metrics()")
	db.want(fmt.Sprint(2*(8-months)+1), countMetrics)
	db.want("0", "SELECT count(*) FROM dgm.performance_metrics WHERE timestamp < $1", first)
	db.want("1", countDefault)

	// The floor does not come down with a longer retention, and what it dropped is not made again.
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(3650, false)")
	db.want("true", "SELECT floor = $1 FROM dgm.metric_retention_state", first)
	db.want("0", "SELECT dgm.ensure_metric_partitions(6, 6)")

	for _, refused := range []string{"drop_expired_metric_partitions(0)", "drop_expired_metric_partitions(-1)", "drop_expired_metric_partitions(NULL)", "purge_metric_batches('1 minute')", "purge_metric_batches(NULL)"} {
		if _, err := db.conn.Exec(testContext(t), "SELECT dgm."+refused); err == nil || !strings.Contains(err.Error(), "22023") {
			t.Errorf("%s = %v, want invalid_parameter_value", refused, err)
		}
	}
	// At the shortest, the current month is kept all the same.
	for range 5 {
		db.text("SELECT dgm.drop_expired_metric_partitions(1, false)")
	}
	db.want("true", "SELECT to_regclass($1::text) IS NOT NULL", partitionOf(month(0)))
}

func TestRetentionWaitsForAggregation(t *testing.T) {
	t.Parallel()
	_, db := migratedMetrics(t)
	db.text("SELECT dgm.ensure_metric_partitions(6, 6)")
	old := month(-6)
	db.insertAt(old.Format(time.RFC3339))
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(90)") // nothing was ever aggregated
	aggregated := func(want string) {                             // transactions of other databases hold it up too
		t.Helper()
		eventually(t, want+" samples are in the rollups", func() error {
			db.text("SELECT hours FROM dgm.aggregate_metrics(1000)")
			if got := db.text("SELECT sum(count) FROM dgm.metric_rollups WHERE time_window = '1h'"); got != want {
				return errors.New(got)
			}
			return nil
		})
	}
	aggregated("1")
	db.insertAt(old.Add(time.Hour).Format(time.RFC3339)) // late
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(90)")
	db.want("true", "SELECT to_regclass($1::text) IS NOT NULL", partitionOf(old))
	aggregated("2")
	db.want("1", "SELECT dgm.drop_expired_metric_partitions(90)")
	db.want("true", "SELECT to_regclass($1::text) IS NULL", partitionOf(old))

	// A month that is only in the default partition waits as well.
	for db.text("SELECT dgm.drop_expired_metric_partitions(90)") == "1" {
	}
	db.exec("UPDATE dgm.metric_retention_state SET floor = '-infinity'")
	db.insertAt("1999-05-05 05:05Z")
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(90)")
	db.want("0", "SELECT dgm.delete_expired_metrics()")
	aggregated("3")
	db.want("0", "SELECT dgm.drop_expired_metric_partitions(90)")
	db.want("1", "SELECT dgm.delete_expired_metrics()")
}

func TestRetentionGivesWayAndRunsOnceForTwoLeaders(t *testing.T) {
	t.Parallel()
	url, db := migratedMetrics(t)
	db.text("SELECT dgm.ensure_metric_partitions(6, 6)")
	reader := openDatabase(t, url)
	reader.exec("BEGIN; SELECT count(*) FROM dgm.performance_metrics")
	began := time.Now()
	if _, err := db.conn.Exec(testContext(t), "SELECT dgm.drop_expired_metric_partitions(90, false)"); err == nil || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("drop_expired_metric_partitions beside a reader = %v, want lock_not_available", err)
	}
	if waited := time.Since(began); waited > 20*time.Second {
		t.Errorf("everybody was held up for %v", waited)
	}
	reader.exec("COMMIT")
	before := db.text(countPartitions)
	db.exec("BEGIN")
	db.want("1", "SELECT dgm.drop_expired_metric_partitions(90, false)")
	reader.want("0", "SELECT dgm.drop_expired_metric_partitions(90, false)")
	db.exec("COMMIT")
	db.want("1", "SELECT $1::text::int - count(*) FROM pg_inherits WHERE inhparent = 'dgm.performance_metrics'::regclass", before)
}

func TestP12_TheLeaderKeepsPartitionsAndRetentionAndThenRests(t *testing.T) {
	t.Parallel()
	url, db := migratedMetrics(t)
	db.text("SELECT dgm.ensure_metric_partitions(12, 6)")
	db.insertAt(month(3).Format(time.RFC3339))
	db.insertAt(month(-9).Format(time.RFC3339))
	db.exec("INSERT INTO dgm.metric_batches (batch_id, rows, created_at) VALUES (gen_random_uuid(), 1, now() - interval '8 days'), (gen_random_uuid(), 1, now() - interval '6 days')")
	db.exec("DROP TABLE " + partitionOf(month(6)))
	// What is not aggregated holds up retention, and transactions of other databases hold up aggregation.
	db.exec(`INSERT INTO dgm.system_configurations (key, value, value_type) VALUES ('metrics_aggregation_enabled', 'false', 'boolean')
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`)
	s := startReady(t, testConfig(url))
	eventually(t, "partitions are made and dropped", func() error {
		if got := db.text(`SELECT concat_ws(' ', to_regclass($1::text) IS NOT NULL, to_regclass($2::text) IS NULL, (SELECT count(*) FROM dgm.metric_batches), (SELECT floor > '-infinity' FROM dgm.metric_retention_state))`,
			partitionOf(month(6)), partitionOf(month(-9))); got != "t t 1 t" {
			return errors.New(got)
		}
		return nil
	})
	sess, err := s.current()
	must(t, err)
	// A second turn finds nothing to do, and writes nothing.
	must(t, pgx.BeginFunc(testContext(t), sess.pool, func(tx pgx.Tx) error {
		for _, call := range []string{"ensure_metric_partitions()", "drop_expired_metric_partitions(90, false)", "delete_expired_metrics()", "purge_metric_batches()"} {
			var did int
			if err := tx.QueryRow(testContext(t), "SELECT dgm."+call).Scan(&did); err != nil || did != 0 {
				t.Errorf("%s = %d, %v; want 0", call, did, err)
			}
		}
		var xid *string // only a transaction that writes has one
		err := tx.QueryRow(testContext(t), "SELECT pg_current_xact_id_if_assigned()::text").Scan(&xid)
		if xid != nil {
			t.Errorf("the turn that found nothing wrote, in transaction %s", *xid)
		}
		return err
	}))
}

// The upgrade of a database with samples: what was there is kept, counts as new,
// and no table is rewritten.
func TestUpgradeOfSamplesToIngestIsQuickAndComplete(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	old := migrationsWith(t, nil)
	for name := range old {
		if name > "00006" {
			delete(old, name)
		}
	}
	_, err := openMigrator(t, url, old).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, timestamp)
		SELECT 'm', 'latency', 'service', i, 'svc', $1::timestamptz + i * interval '1 second' FROM generate_series(1, 80000) i`, month(0))
	db.insertAt("1970-01-01 00:00Z")
	files := `SELECT string_agg(pg_relation_filenode(relid)::text, ' ' ORDER BY relid) FROM pg_partition_tree('dgm.performance_metrics') WHERE isleaf`
	before := db.text(files)
	m := openMigrator(t, url, migrationsWith(t, nil))
	_, err = m.Up(testContext(t))
	must(t, err)
	db.want(before, files)
	db.want("80001 1", "SELECT count(*) || ' ' || count(DISTINCT ingest_xid) FROM dgm.performance_metrics WHERE metric_name = 'm'")
	// The partition of the month is too large to be indexed by the migration, and only it.
	db.want(strings.TrimPrefix(partitionOf(month(0)), "dgm.")+" missing", "SELECT string_agg(partition || ' ' || state, ',') FROM dgm.unfinished_indexes()")

	// A build that is killed leaves an invalid index behind, which the next one mends.
	blocker := openDatabase(t, url)
	blocker.exec("BEGIN; UPDATE dgm.metric_retention_state SET floor = floor")
	blocker.exec("LOCK TABLE " + partitionOf(month(0)) + " IN ROW EXCLUSIVE MODE")
	killed := make(chan error, 1)
	go func() {
		_, err := m.FinishIndexes(context.Background())
		killed <- err
	}()
	eventually(t, "the build waits for the transaction", func() error {
		if db.text(`SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock') AS k`) == "0" {
			return errors.New("not yet")
		}
		return nil
	})
	if err := <-killed; err == nil {
		t.Fatal("FinishIndexes succeeded although its backend was killed")
	}
	blocker.exec("ROLLBACK")
	db.want("invalid", "SELECT string_agg(state, ',') FROM dgm.unfinished_indexes()")

	// The leader finishes it, while samples come in.
	s := startReady(t, testConfig(url))
	eventually(t, "the index is whole", func() error {
		if err := s.RecordMetrics(testContext(t), samples(10)); err != nil {
			return err
		}
		if left := db.text("SELECT count(*) FROM dgm.unfinished_indexes()"); left != "0" {
			return errors.New(left + " left")
		}
		return nil
	})
	db.want("true", "SELECT indisvalid FROM pg_index WHERE indexrelid = 'dgm.performance_metrics_ingest_xid'::regclass")
	built, err := m.FinishIndexes(testContext(t))
	if err != nil || built != 0 {
		t.Errorf("FinishIndexes again = %d, %v; want nothing to do", built, err)
	}
}
