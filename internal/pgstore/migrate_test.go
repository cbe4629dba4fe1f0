// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
)

// migrationsWith is the embedded migrations and those of extra, by file name.
func migrationsWith(t testing.TB, extra map[string]string) fstest.MapFS {
	t.Helper()
	dir, err := fs.Sub(embeddedMigrations, "migrations")
	must(t, err)
	out := fstest.MapFS{}
	entries, err := fs.ReadDir(dir, ".")
	must(t, err)
	for _, e := range entries {
		content, err := fs.ReadFile(dir, e.Name())
		must(t, err)
		out[e.Name()] = &fstest.MapFile{Data: content}
	}
	for name, content := range extra {
		out[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return out
}

func openMigrator(t testing.TB, url string, dir fs.FS) *Migrator {
	t.Helper()
	m, err := newMigrator(testContext(t), url, dir, defaultPatience)
	must(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMigrateEightAtOnce(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	var group sync.WaitGroup
	applied := make([][]string, 8)
	failures := make([]error, 8)
	for i := range applied {
		group.Go(func() {
			m, err := NewMigrator(testContext(t), url)
			if err != nil {
				failures[i] = err
				return
			}
			defer m.Close() //nolint:errcheck // nothing depends on it
			applied[i], failures[i] = m.Up(testContext(t))
		})
	}
	group.Wait()
	must(t, errors.Join(failures...))
	total := 0
	for _, names := range applied {
		total += len(names)
	}
	all := len(migrationsWith(t, nil))
	if total != all {
		t.Errorf("%d migrations were applied in all, want each of the %d once", total, all)
	}
	openDatabase(t, url).want(fmt.Sprint(all), "SELECT count(*) FROM dgm.schema_migrations WHERE version_id > 0")
}

func TestMigrateUpDownUp(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	m, err := NewMigrator(ctx, url)
	must(t, err)
	defer m.Close() //nolint:errcheck // nothing depends on it
	const objects = `SELECT count(*) FROM pg_class WHERE relnamespace = 'dgm'::regnamespace AND relname NOT LIKE 'schema_migrations%'`

	_, err = m.Up(ctx)
	must(t, err)
	full := db.text(objects)
	for range migrationsWith(t, nil) {
		_, err := m.Down(ctx)
		must(t, err)
	}
	db.want("0", objects)
	db.want("0", "SELECT count(*) FROM pg_proc WHERE pronamespace = 'dgm'::regnamespace")
	if _, err := m.Down(ctx); err == nil {
		t.Error("Down with nothing applied succeeded")
	}
	_, err = m.Up(ctx)
	must(t, err)
	db.want(full, objects)
}

func TestMigratePlanAndStatusChangeNothing(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	m, err := NewMigrator(ctx, url)
	must(t, err)
	defer m.Close() //nolint:errcheck // nothing depends on it

	var plan bytes.Buffer
	must(t, m.Plan(ctx, &plan))
	for _, part := range []string{"CREATE SCHEMA dgm AUTHORIZATION dgm_owner", "CREATE TABLE dgm.dgm_archive", "CREATE TABLE dgm.system_configurations"} {
		if !strings.Contains(plan.String(), part) {
			t.Errorf("the plan lacks %q", part)
		}
	}
	if strings.Contains(plan.String(), "\nDROP TABLE") {
		t.Error("the plan of going up drops tables")
	}
	status, err := m.Status(ctx)
	must(t, err)
	if len(status) != len(migrationsWith(t, nil)) || !status[0].AppliedAt.IsZero() {
		t.Errorf("status of an empty database = %+v, want all pending", status)
	}
	db.want("false", "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'dgm')")

	_, err = m.Up(ctx)
	must(t, err)
	plan.Reset()
	must(t, m.Plan(ctx, &plan))
	if plan.Len() != 0 {
		t.Errorf("with nothing pending the plan is %q", plan.String())
	}
	status, err = m.Status(ctx)
	must(t, err)
	if status[len(status)-1].AppliedAt.IsZero() {
		t.Errorf("status after Up = %+v, want all applied", status)
	}
}

func TestMigratePlanIsRunnableSQL(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	m, err := NewMigrator(ctx, url)
	must(t, err)
	defer m.Close() //nolint:errcheck // nothing depends on it
	var plan bytes.Buffer
	must(t, m.Plan(ctx, &plan))
	_, err = db.conn.Exec(ctx, plan.String(), pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	db.want("true", "SELECT to_regclass('dgm.idx_workspaces_status_created') IS NOT NULL")
	applied, err := m.Up(ctx)
	must(t, err)
	if len(applied) != 0 {
		t.Errorf("after the plan was run by hand, Up applied %v", applied)
	}
}

func TestMigrateResumesAfterCrashHalfWay(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	db := openDatabase(t, url)
	slow := map[string]string{"99999_slow.sql": "-- min-compatible-binary: 5\n-- +goose Up\nCREATE TABLE dgm.half (id int);\nSELECT pg_sleep(30);\nCREATE TABLE dgm.whole (id int);\n-- +goose Down\nDROP TABLE dgm.whole, dgm.half;\n"}
	quick := map[string]string{"99999_slow.sql": strings.Replace(slow["99999_slow.sql"], "pg_sleep(30)", "pg_sleep(0)", 1)}

	crashing := openMigrator(t, url, migrationsWith(t, slow))
	failed := make(chan error, 1)
	go func() {
		_, err := crashing.Up(context.Background())
		failed <- err
	}()
	eventually(t, "the migration is half-way", func() error {
		if db.text(`SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event = 'PgSleep') AS killed`) == "0" {
			return errors.New("nobody sleeps")
		}
		return nil
	})
	if err := <-failed; err == nil {
		t.Fatal("the migration succeeded although its backend was killed")
	}
	db.want("0", "SELECT count(*) FROM dgm.schema_migrations WHERE version_id = 99999")
	db.want("true", "SELECT to_regclass('dgm.half') IS NULL")

	resumed, err := openMigrator(t, url, migrationsWith(t, quick)).Up(testContext(t))
	must(t, err)
	if len(resumed) != 1 {
		t.Errorf("applied %v after the crash, want the slow one alone", resumed)
	}
	db.want("true", "SELECT to_regclass('dgm.whole') IS NOT NULL")
}

func TestMigrateRefusesEditedMigration(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	edited := migrationsWith(t, nil)
	edited["00004_bandits.sql"] = &fstest.MapFile{Data: append(edited["00004_bandits.sql"].Data, "\n-- edited\n"...)}
	_, err = openMigrator(t, url, edited).Up(testContext(t))
	if !errors.Is(err, ErrIncompatible) || !strings.Contains(err.Error(), "00004_bandits.sql was edited") {
		t.Errorf("Up = %v, want ErrIncompatible naming the file", err)
	}
}

func TestMigrateToleratesNewerSchemaThatSuits(t *testing.T) {
	t.Parallel()
	for name, minBinary := range map[string]string{"suits": "5", "does not suit": "99999"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newTestDatabase(t)
			newer := map[string]string{"99999_new.sql": "-- min-compatible-binary: " + minBinary + "\n-- +goose Up\nSELECT 1;\n-- +goose Down\nSELECT 1;\n"}
			_, err := openMigrator(t, url, migrationsWith(t, newer)).Up(testContext(t))
			must(t, err)
			m := openMigrator(t, url, migrationsWith(t, nil))
			_, err = m.Up(testContext(t))
			if suits := minBinary == "5"; suits != (err == nil) || (!suits && !errors.Is(err, ErrIncompatible)) {
				t.Errorf("Up of the older operator = %v", err)
			}
			status, err := m.Status(testContext(t))
			must(t, err)
			if last := status[len(status)-1]; last.Version != 99999 || last.Known {
				t.Errorf("last status = %+v, want the unknown one", last)
			}
		})
	}
}

func TestMetricPartitionsAreUTCAndDrainTheDefault(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.exec("SET timezone = 'Pacific/Auckland'")
	now := time.Now().UTC()
	far := time.Date(now.Year(), now.Month()+9, 15, 0, 0, 0, 0, time.UTC)
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, timestamp) VALUES ('m', 'latency', 'service', 1e-7, $1)`, far)
	db.want("1", "SELECT count(*) FROM dgm.performance_metrics_default")
	db.want("3", "SELECT dgm.ensure_metric_partitions(1, 9)")
	db.want("0", "SELECT count(*) FROM dgm.performance_metrics_default")
	db.want("0.0000001", "SELECT value FROM dgm.performance_metrics_"+far.Format("200601"))
	db.want("0", "SELECT dgm.ensure_metric_partitions(1, 9)")
	db.exec("SET timezone = 'UTC'")
	db.want("true", `SELECT bool_and(pg_get_expr(relpartbound, oid) ~ '^FOR VALUES FROM \(''....-..-01 00:00:00\+00''\) TO \(''....-..-01 00:00:00\+00''\)$')
		FROM pg_class WHERE relname ~ '^performance_metrics_[0-9]{6}$'`)
}
