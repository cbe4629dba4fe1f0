// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// nextResync waits until the store asks for everything again, and returns why.
func nextResync(t testing.TB, s *Store) string {
	t.Helper()
	select {
	case why := <-s.Resyncs():
		return why
	case <-testContext(t).Done():
		t.Fatal("no resync")
		return ""
	}
}

// completed is an ended improvement.
func completed(n int) Improvement {
	i := improvement(n)
	i.ArchiveStatus, i.WorkspaceStatus, i.OutcomeReason = lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted, "Completed"
	return i
}

// The leader writes on through a restore to a moment: what was written after it
// is written again, what was there by then is not harmed.
func TestP3_RestoreToAMomentIsResynced(t *testing.T) {
	t.Parallel()
	server := pgtest.StartArchiving(t)
	url := server.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	<-s.Resyncs()
	backup := server.BaseBackup(t)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	saved, lost := []byte("bytes of 2"), []byte("bytes of 3")
	_, err := s.SaveSnapshot(ctx, improvement(2), saved)
	must(t, err)
	must(t, s.MirrorImprovement(ctx, completed(4)))
	moment := server.Moment(t)

	rolledBack := completed(4)
	rolledBack.ArchiveStatus, rolledBack.WorkspaceStatus, rolledBack.OutcomeReason = lifecycle.ArchiveRolledBack, lifecycle.WorkspaceFailed, "RolledBack"
	after := []Improvement{completed(1), completed(2), improvement(3), rolledBack}
	must(t, s.MirrorImprovement(ctx, after[0]))
	must(t, s.MirrorImprovement(ctx, after[1]))
	_, err = s.SaveSnapshot(ctx, after[2], lost)
	must(t, err)
	must(t, s.MirrorImprovement(ctx, after[3]))
	db := openDatabase(t, url)
	epoch := db.text("SELECT epoch FROM dgm.writer_fences")
	server.Archive(t)
	server.Destroy(t)
	server.RestoreTo(t, backup, moment)

	if why := nextResync(t, s.Store); why != resyncLost {
		t.Errorf("resync because %q, want %q", why, resyncLost)
	}
	waitReady(t, s.Store)
	db = openDatabase(t, url)
	db.want("1 pending, 2 pending, 4 completed", "SELECT string_agg(right(name, 1) || ' ' || status, ', ' ORDER BY name) FROM dgm.dgm_archive")
	missing, err := s.WithoutSnapshot(ctx, []uuid.UUID{after[1].ImprovementID, after[2].ImprovementID})
	must(t, err)
	if diff := cmp.Diff([]uuid.UUID{after[2].ImprovementID}, missing); diff != "" {
		t.Errorf("snapshots that are missing (-want +got):\n%s", diff)
	}
	_, err = s.SaveSnapshot(ctx, after[2], lost)
	must(t, err)
	for _, i := range after {
		must(t, s.MirrorImprovement(ctx, i))
	}
	db.want("1 completed, 2 completed, 3 pending, 4 rolled_back", "SELECT string_agg(right(name, 1) || ' ' || status, ', ' ORDER BY name) FROM dgm.dgm_archive")
	db.want("true", "SELECT min(writer_epoch) > $1::text::bigint FROM dgm.dgm_archive", epoch)
	for id, want := range map[uuid.UUID][]byte{after[1].ImprovementID: saved, after[2].ImprovementID: lost} {
		if got, err := s.LoadSnapshot(ctx, id); err != nil || !bytes.Equal(got, want) {
			t.Errorf("LoadSnapshot = %q, %v, want %q", got, err, want)
		}
	}
}

// Leaders that came after the moment have drawn epochs that the restored sequence
// knows nothing of. One of them that was frozen meanwhile must not come back.
func TestP4_LeaderFrozenDuringARestoreCannotWrite(t *testing.T) {
	t.Parallel()
	server := pgtest.StartArchiving(t)
	url := server.Database(t)
	ctx := testContext(t)
	must(t, startReady(t, testConfig(url)).stop())
	backup := server.BaseBackup(t)
	moment := server.RestorePoint(t, "before the leader that freezes")
	var ice sync.Mutex
	config := testConfig(url)
	config.URL = func() (string, error) {
		ice.Lock()
		defer ice.Unlock()
		return url, nil
	}
	frozen := startReady(t, config)
	must(t, frozen.MirrorImprovement(ctx, improvement(1)))
	epoch := openDatabase(t, url).text("SELECT epoch FROM dgm.writer_fences")
	server.Archive(t)

	ice.Lock()
	server.Destroy(t)
	server.RestoreTo(t, backup, moment)
	// As if more leaders had come and gone than the sequence logs ahead.
	openDatabase(t, url).text("SELECT setval('dgm.writer_epoch', 1)")
	newer := startReady(t, testConfig(url))
	must(t, newer.MirrorImprovement(ctx, completed(1)))
	db := openDatabase(t, url)
	db.want("true", "SELECT epoch > $1::text::bigint FROM dgm.writer_fences", epoch)
	ice.Unlock()

	eventually(t, "the leader that was frozen knows that it was replaced", func() error {
		if err := frozen.Ready(); !errors.Is(err, ErrDeposed) {
			return fmt.Errorf("Ready = %w", err)
		}
		return newer.Ready()
	})
	if err := frozen.MirrorImprovement(ctx, improvement(1)); !errors.Is(err, ErrDeposed) {
		t.Errorf("MirrorImprovement of the leader that was frozen = %v, want ErrDeposed", err)
	}
	must(t, newer.MirrorImprovement(ctx, improvement(2)))
	db.want("completed", "SELECT status FROM dgm.dgm_archive WHERE name = 'improvement-00001'")
}

// A restore from a dump changes neither server nor timeline, and brings back the
// leader's own fence.
func TestP3_TablesRestoredFromADumpAreResynced(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, server *pgtest.Server, db *observer, url, dump string){
		"the schema": func(t *testing.T, server *pgtest.Server, db *observer, url, dump string) {
			t.Helper()
			db.exec("DROP PUBLICATION IF EXISTS dgm_publication")
			db.exec("DROP SCHEMA dgm CASCADE")
			server.Program(t, dump, "psql", "-Xq1", "-v", "ON_ERROR_STOP=1", "-d", url)
		},
		"one table": func(t *testing.T, _ *pgtest.Server, db *observer, _, _ string) {
			t.Helper()
			db.exec("TRUNCATE dgm.improvement_workspaces")
		},
		"on command": func(t *testing.T, _ *pgtest.Server, db *observer, _, _ string) {
			t.Helper()
			db.exec("DELETE FROM dgm.improvement_workspaces")
			db.exec("UPDATE dgm.writer_fences SET holder = holder WHERE cluster = 'test'")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.Shared(t)
			url := server.Database(t)
			ctx := testContext(t)
			s := startReady(t, testConfig(url))
			<-s.Resyncs()
			must(t, s.MirrorImprovement(ctx, improvement(1)))
			db := openDatabase(t, url)
			epoch := db.text("SELECT epoch FROM dgm.writer_fences")
			dump := server.Program(t, "", "pg_dump", "-d", url)
			must(t, s.MirrorImprovement(ctx, completed(1)))
			must(t, s.MirrorImprovement(ctx, improvement(2)))
			harm(t, server, db, url, dump)
			if why := nextResync(t, s.Store); why != resyncLost {
				t.Errorf("resync because %q, want %q", why, resyncLost)
			}
			eventually(t, "the rows are written again", func() error {
				return errors.Join(s.MirrorImprovement(ctx, completed(1)), s.MirrorImprovement(ctx, improvement(2)))
			})
			db.want("completed completed, pending created", `SELECT string_agg(a.status || ' ' || w.status, ', ' ORDER BY a.name)
				FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id)`)
			db.want("true", "SELECT epoch > $1::text::bigint FROM dgm.writer_fences", epoch)
		})
	}
}

// dumpOf is all of a database but for what differs in each dump by itself.
func dumpOf(t *testing.T, server *pgtest.Server, url string, args ...string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(server.Program(t, "", "pg_dump", append([]string{"-d", url}, args...)...)) {
		if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// A dump brings all of a database to another server, whether that has the roles
// already, gets them from the other one, or has none: the restored one dumps to the
// same text, and the operator works on it.
func TestP3_DumpIsRestoredOnAnotherServer(t *testing.T) {
	t.Parallel()
	from := pgtest.Start(t)
	source := from.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(source))
	must(t, s.MirrorImprovement(ctx, completed(1)))
	_, err := s.SaveSnapshot(ctx, improvement(2), []byte("bytes"))
	must(t, err)
	must(t, s.MirrorPolicy(ctx, policy(1, "keep", "fast")))
	db := openDatabase(t, source)
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, "timestamp")
		SELECT 'p99', 'latency', 'service', n / 10.0, 'ms', 'checkout', now() + (n - 50) * interval '1 day' FROM generate_series(1, 100) n`)
	epoch := db.text("SELECT epoch FROM dgm.writer_fences")
	must(t, s.stop())
	roles := from.Program(t, "", "pg_dumpall", "--roles-only", "--no-role-passwords", "-d", source)
	dump := from.Program(t, "", "pg_dump", "-Fc", "-d", source)
	for name, c := range map[string]struct {
		server  pgtest.Options
		roles   bool     // whether those of the other server are restored, too
		restore []string // arguments of pg_restore
	}{
		"roles are there":               {},
		"roles are there and restored":  {roles: true},
		"roles come with the dump":      {server: pgtest.Options{WithoutRoles: true}, roles: true},
		"one role for everything":       {server: pgtest.Options{WithoutRoles: true}, restore: []string{"--no-owner", "--no-acl"}},
		"roles are there, rights lost":  {restore: []string{"--no-owner", "--no-acl"}},
		"roles are made by the restore": {server: pgtest.Options{WithoutRoles: true}, roles: true, restore: []string{"--no-acl"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, err := pgtest.New(ctx, c.server)
			must(t, err)
			t.Cleanup(to.Close)
			target := to.Database(t)
			if c.roles {
				to.Program(t, roles, "psql", "-Xq", "-d", target)
			}
			to.Program(t, dump, "pg_restore", append([]string{"--exit-on-error", "-d", target}, c.restore...)...)
			if diff := cmp.Diff(dumpOf(t, from, source, c.restore...), dumpOf(t, to, target, c.restore...)); diff != "" {
				t.Fatalf("the restored database differs (-want +got):\n%s", diff)
			}
			config := testConfig(target)
			whoRestored := func() (string, error) { return target, nil }
			if c.server.WithoutRoles { // login roles come without passwords
				config.URL = whoRestored
			}
			if c.server.WithoutRoles || c.restore != nil {
				config.MigrationURL = whoRestored
			}
			wantRestored(t, config, target, epoch)
		})
	}
}

// wantRestored checks that the operator goes on with a restored database.
func wantRestored(t *testing.T, config Config, target, epoch string) {
	t.Helper()
	ctx, db := testContext(t), openDatabase(t, target)
	db.want("0", "SELECT count(*) FROM pg_matviews WHERE schemaname = 'dgm' AND NOT ispopulated")
	db.want("1", "SELECT count(*) FROM pg_publication WHERE pubname = 'dgm_publication'")
	db.want("true", "SELECT last_value >= $1::text::bigint FROM dgm.writer_epoch", epoch)
	db.want("100", "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name = 'p99'")
	url, err := config.MigrationURL()
	must(t, err)
	m := openMigrator(t, url, migrationsWith(t, nil))
	applied, err := m.Up(ctx)
	if err != nil || len(applied) != 0 {
		t.Errorf("Up on the restored database = %v, %v, want nothing to do", applied, err)
	}
	drift, err := m.Drift(ctx)
	must(t, err)
	if drift.Drifted() || drift.NotJudged != "" || len(drift.Extra) > 0 {
		t.Errorf("the restored schema is %+v", drift)
	}
	s := startReady(t, config)
	db.want("true", "SELECT epoch > $1::text::bigint FROM dgm.writer_fences", epoch)
	must(t, s.MirrorImprovement(ctx, completed(2)))
	db.want("1 completed, 2 completed", "SELECT string_agg(right(name, 1) || ' ' || status, ', ' ORDER BY name) FROM dgm.dgm_archive")
	if got, err := s.LoadSnapshot(ctx, improvement(2).ImprovementID); err != nil || string(got) != "bytes" {
		t.Errorf("LoadSnapshot = %q, %v", got, err)
	}
	sess := s.session.Load()
	for _, chore := range chores() {
		if err := chore.do(sess, ctx); err != nil {
			t.Errorf("%s, on the restored database: %v", chore.name, err)
		}
	}
	eventually(t, "all samples are aggregated", func() error { // or the leader is at it just now
		if n := db.text("SELECT sum(count) FROM dgm.metric_rollups WHERE time_window = '1d' AND metric_name = 'p99'"); n != "100" {
			return errors.Join(fmt.Errorf("%q of them", n), sess.aggregateMetrics(ctx))
		}
		return nil
	})
}

// Rows that somebody deleted come back from a restored copy of the database; what
// was written since is left alone.
func TestRowsOfOneTableAreBroughtBackFromACopy(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	url, scratch := server.Database(t), server.Database(t)
	ctx := testContext(t)
	startReady(t, testConfig(url))
	db := openDatabase(t, url)
	metric := `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, "timestamp")
		SELECT $1, 'latency', 'service', n, 'checkout', now() + (n - 50) * interval '1 day' FROM generate_series(1, 100) n`
	_, err := db.conn.Exec(ctx, metric, "before")
	must(t, err)
	server.Program(t, server.Program(t, "", "pg_dump", "-d", url), "psql", "-Xq1", "-v", "ON_ERROR_STOP=1", "-d", scratch)
	_, err = db.conn.Exec(ctx, metric, "after")
	must(t, err)
	db.exec("DELETE FROM dgm.performance_metrics WHERE value > 30 AND metric_name = 'before'")

	rows := server.Program(t, "", "pg_dump", "--data-only", "--table=dgm.performance_metrics*", "--load-via-partition-root",
		"--rows-per-insert=500", "--on-conflict-do-nothing", "-d", scratch)
	server.Program(t, rows, "psql", "-Xq1", "-v", "ON_ERROR_STOP=1", "-d", url)
	db.want("after 100 5050, before 100 5050", `SELECT string_agg(line, ', ' ORDER BY line) FROM (
		SELECT metric_name || ' ' || count(*) || ' ' || sum(value) AS line FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%' GROUP BY metric_name) lines`)
}
