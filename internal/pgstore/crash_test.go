// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// Whoever migrates is killed in each migration just before it commits. The next
// one goes on with the same migration, and what was there stays.
func TestP3_UpgradeIsKilledInEachMigration(t *testing.T) {
	t.Parallel()
	c := newCrashSite(t)
	all := migrationsWith(t, concurrentMigration)
	migrate := func(ctx context.Context) error {
		m, err := newMigrator(ctx, pgtest.MigrationURL(c.url), all, defaultPatience)
		if err != nil {
			return err
		}
		defer m.Close() //nolint:errcheck // it may be dead
		_, err = m.Up(ctx)
		return err
	}
	_, err := openMigrator(t, pgtest.MigrationURL(c.url), migrationsUpTo(t, 5)).Up(testContext(t))
	must(t, err)
	before := c.db.fill()
	c.prepare(crashPointSQL)
	files, err := embeddedMigrationFiles()
	must(t, err)
	for _, f := range files[5:] {
		c.db.exec("UPDATE crash.armed SET version = $1", f.Version)
		for _, by := range harms {
			if !c.interrupt(migrate, atCrashPoint, by) {
				t.Fatalf("%s was not stopped", f.Name)
			}
			c.db.want(int64Text(f.Version-1), "SELECT max(version_id) FROM dgm.schema_migrations")
		}
		c.db.wantContents(before, "after crashes in "+f.Name)
	}
	c.db.exec("UPDATE crash.armed SET version = NULL")
	// The build of an index has no transaction to be rolled back: it waits for a
	// writer, and is killed then.
	for _, by := range harms {
		writer := openDatabase(t, c.url)
		writer.exec("BEGIN")
		writer.exec("INSERT INTO dgm.dgm_archive (improvement_id, description, status) VALUES (gen_random_uuid(), 'd', 'pending')")
		if !c.interrupt(migrate, whileBuilding, by) {
			t.Fatal("the build of the index was not stopped")
		}
		if by != harmKill {
			writer.exec("ROLLBACK")
		}
		c.db.want("0", "SELECT count(*) FROM dgm.schema_migrations WHERE version_id = 99999")
	}
	must(t, migrate(testContext(t)))
	c.db.want("2", "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid IN (to_regclass('dgm.archive_created_by'), to_regclass('dgm.archive_reason'))")
	c.db.wantContents(before, "after the upgrade")
	c.db.want("1", "SELECT max(n) FROM (SELECT count(*) AS n FROM dgm.schema_migrations GROUP BY version_id) x")
	m := openMigrator(t, pgtest.MigrationURL(c.url), all)
	_, err = m.Down(testContext(t)) // the one that is of this test alone
	must(t, err)
	c.wantNoDrift()
	t.Logf("harmed %d times", c.did)
}

// wantNoDrift checks the schema, once the crash points are removed.
func (c *crashSite) wantNoDrift() {
	c.t.Helper()
	c.prepare("DROP EVENT TRIGGER crash_on_command; DROP SCHEMA crash CASCADE")
	drift, err := openMigrator(c.t, pgtest.MigrationURL(c.url), migrationsWith(c.t, nil)).Drift(testContext(c.t))
	must(c.t, err)
	if drift.Drifted() || drift.NotJudged != "" || len(drift.Extra) > 0 {
		c.t.Errorf("after the crashes the schema is %+v", drift)
	}
}

// The rights on what a migration made are given in its transaction: there is no
// moment after it at which a crash would leave them out.
func TestRightsComeWithTheirMigration(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	m := openMigrator(t, pgtest.MigrationURL(url), migrationsWith(t, lockingMigration))
	_, err := m.goose.Up(testContext(t)) // Up without what comes after it
	must(t, err)
	db := openDatabase(t, url)
	db.want("true", "SELECT has_column_privilege('dgm_service', 'dgm.dgm_archive', 'more', 'UPDATE')")
}

// choreSession is a leader's session that does nothing by itself.
func choreSession(ctx context.Context, config Config) (*session, error) {
	s := New(config)
	poolConfig, err := s.poolConfig()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, err
	}
	sess, _, err := s.establish(ctx, pool, nil)
	if err != nil {
		pool.Close()
	}
	return sess, err
}

// interruptedChore is something that is done for the database, and work for it.
type interruptedChore struct {
	name string
	// work is called twice, and makes something to do, of another kind each time.
	work func(c *crashSite, round int)
	do   func(*session, context.Context) error
	// mayChange says that samples come or go with it.
	mayChange bool
	// onCommand says that it is nothing that the leader does by itself.
	onCommand bool
}

func interruptedChores(keys *rotatingKeyset, copied func(round int) []Sample) []interruptedChore {
	round := 0
	return []interruptedChore{
		{name: "make metric partitions", do: (*session).ensurePartitions, work: func(c *crashSite, round int) {
			for n := range 10 {
				c.db.insertAt(month(-20 - round).Add(time.Duration(n) * time.Minute).Format(time.RFC3339))
			}
		}},
		{name: "record metrics", mayChange: true, onCommand: true, work: func(_ *crashSite, n int) { round = n }, do: func(s *session, ctx context.Context) error {
			rows, _ := s.sampleRows(copied(round), 0)
			_, err := s.record(ctx, rows)
			return err
		}},
		{name: "aggregate metrics", do: (*session).aggregateMetrics, work: func(c *crashSite, round int) {
			c.db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, "timestamp")
				SELECT 'p99', 'latency', 'service', i * 1.25, 'checkout', now() - i * interval '2 minutes' FROM generate_series(1, 30 + $1::integer) i`, round)
		}},
		{name: "rebuild rollups", onCommand: true, work: func(*crashSite, int) {}, do: func(s *session, ctx context.Context) error {
			if _, err := s.pool.Exec(ctx, "SELECT dgm.rebuild_metric_rollups(now() - interval '1 hour', now())"); err != nil {
				return err
			}
			return s.aggregateMetrics(ctx)
		}},
		{name: "purge rollback bytes", do: (*session).purgeSnapshots, work: (*crashSite).endedAttempts},
		{name: "archive workspaces", do: (*session).archiveWorkspaces, work: (*crashSite).endedAttempts},
		{name: "refresh analytics", do: (*session).refreshAnalytics, work: func(c *crashSite, round int) {
			c.endedAttempts(round + 10)
			c.db.exec(`INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, status, assessment_method, compliance_score, service_name)
				VALUES ('o', 'warning', 'requires_review', 'hybrid', 0.71, 'svc')`)
			c.db.exec("INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls, total_reward) VALUES ('ucb1', 'c/ns/p/default', 'a' || $1::integer, 9, 4.5)", round)
		}},
		{name: "re-encrypt sensitive configurations", do: (*session).reencrypt, work: func(c *crashSite, _ int) { keys.rotate(c.t) }},
		{name: "drop expired metrics", mayChange: true, do: (*session).dropExpiredMetrics, work: func(c *crashSite, round int) {
			c.db.exec("UPDATE dgm.system_configurations SET value = $1 WHERE key = 'metrics_retention_days'", fmt.Sprint(310-round*150))
			c.db.exec("INSERT INTO dgm.metric_batches (batch_id, rows, created_at) VALUES (gen_random_uuid(), 1, now() - interval '8 days')")
		}},
	}
}

// endedAttempts adds attempts of long ago, with their snapshots.
func (c *crashSite) endedAttempts(round int) {
	c.t.Helper()
	c.db.exec(`WITH a AS (
		INSERT INTO dgm.dgm_archive (improvement_id, description, status, cluster, namespace, name, uid, timestamp, updated_at)
		SELECT gen_random_uuid(), 'd', 'completed', 'test', 'ns', 'crash-' || $1::integer || '-' || i, 'uid-' || i, now() - interval '40 days', now() - interval '40 days'
		FROM generate_series(1, 5) i RETURNING improvement_id, name
	), w AS (
		INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, cluster, namespace, uid, completed_at, target_service)
		SELECT improvement_id, name, 'completed', 'test', 'ns', 'uid', now() - interval '40 days', 'svc' FROM a
	)
	INSERT INTO dgm.rollback_snapshots (improvement_id, revision, writer_epoch, format, sha256, plain_size, key_id, bytes, created_at)
	SELECT improvement_id, 1, 7, 'v1', repeat('ab', 32), 5, 'k', '\x00ff', now() - interval '40 days' FROM a`, round)
}

// invariants is what no chore changes, however it ends.
const invariants = `SELECT concat_ws(' ', (SELECT count(*) FROM dgm.dgm_archive), (SELECT count(*) FROM dgm.improvement_workspaces),
	(SELECT md5(string_agg(improvement_id || sha256, ' ' ORDER BY improvement_id)) FROM dgm.rollback_snapshots),
	(SELECT count(*) FROM dgm.rollback_snapshots WHERE (bytes = '') <> (purged_at IS NOT NULL)),
	(SELECT count(*) FROM dgm.system_configurations),
	(SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'dgm'::regnamespace AND c.relname ~ '^performance_metrics_[0-9]+$' AND NOT c.relispartition))`

const sampleTotals = "SELECT concat_ws(' ', count(*), count(DISTINCT id), sum(value), md5(string_agg(id::text, '' ORDER BY id))) FROM dgm.performance_metrics"

// Each chore is stopped after each of its statements, in each way, and once when
// it is committed and nobody was told. The next turn finishes it: nothing is lost
// or doubled, and rollups are what the samples say.
func TestP3_ChoresAreKilledAtEachStatement(t *testing.T) {
	t.Parallel()
	c := newCrashSite(t)
	_, err := openMigrator(t, pgtest.MigrationURL(c.url), migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	keys := newRotatingKeyset(t)
	config := testConfig(c.url)
	config.AEAD = keys.load
	c.furnish(config)
	sampleSets := map[int][]Sample{}
	for round := range 2 {
		sampleSets[round] = samples(200 + round)
		for i := range sampleSets[round] {
			sampleSets[round][i].ID = newID()
		}
	}
	chores := interruptedChores(keys, func(round int) []Sample { return sampleSets[round] })
	c.prepare(crashPointSQL + ";" + crashOnStatementsSQL)
	for _, chore := range chores {
		if chore.name == "drop expired metrics" { // what is not in the rollups would keep it
			c.finish(config, interruptedChore{name: "aggregate metrics", do: (*session).aggregateMetrics})
			c.db.wantExactRollups()
		}
		rollups := c.db.text("SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM dgm.metric_rollups r")
		began, did := time.Now(), c.did
		steps := c.walk(config, chore)
		t.Logf("%s: %d steps, harmed %d times, %s", chore.name, steps, c.did-did, time.Since(began).Round(time.Millisecond))
		if steps == 0 {
			t.Errorf("%s was never stopped", chore.name)
		}
		if chore.name == "drop expired metrics" {
			c.db.want(rollups, "SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM dgm.metric_rollups r")
		}
	}
	c.wantFinished(keys)
	c.db.want("401 401", "SELECT count(*) || ' ' || count(DISTINCT id) FROM dgm.performance_metrics WHERE metric_name = 'http_request_duration'")
	c.db.want("401 2", "SELECT sum(rows) || ' ' || count(*) FROM dgm.metric_batches")
	c.wantNoDrift()
}

// furnish fills the database.
func (c *crashSite) furnish(config Config) {
	c.t.Helper()
	s := startReady(c.t, config)
	for n := range 3 {
		_, err := s.ApplyConfiguration(testContext(c.t), sensitive(fmt.Sprintf("token_%d", n), fmt.Sprint(secretValue, n)))
		must(c.t, err)
	}
	must(c.t, s.stop())
	c.db.text("SELECT dgm.ensure_metric_partitions(12, 6)")
	for m := -12; m <= 0; m++ {
		c.db.insertAt(month(m).Add(90 * time.Minute).Format(time.RFC3339))
	}
	c.finish(config, interruptedChore{name: "aggregate metrics", do: (*session).aggregateMetrics})
}

// walk harms a chore at each of its steps, and returns how many there are. The
// first ones, which are those of the first transaction, in every way that matters.
func (c *crashSite) walk(config Config, chore interruptedChore) (steps int) {
	c.t.Helper()
	chore.work(c, 0)
	for there := true; there; {
		ways := harms
		if steps >= 8 || chore.onCommand {
			ways = harms[steps%len(harms):][:1]
		}
		for _, by := range ways {
			if there = c.harmChore(config, chore, atCrashPoint, by, func() { c.db.exec("UPDATE crash.armed SET step = $1", steps+1) }); !there {
				break
			}
			c.db.exec("UPDATE crash.armed SET step = NULL")
		}
		if there {
			steps++
		}
	}
	c.db.exec("UPDATE crash.armed SET step = NULL")
	c.finish(config, chore)
	// Once more, when the first commit is on disk, and nobody was told so.
	chore.work(c, 1)
	if !c.harmChore(config, chore, whileCommitting, harmKill, func() { c.commitUnanswered(true) }) {
		c.t.Errorf("%s committed nothing", chore.name)
	}
	c.commitUnanswered(false)
	c.finish(config, chore)
	return steps
}

// harmChore interrupts a chore at a point that is armed once its session is there,
// and checks that nothing is there by half.
func (c *crashSite) harmChore(config Config, chore interruptedChore, point string, by harm, arm func()) bool {
	c.t.Helper()
	before, samplesBefore := c.db.text(invariants), c.db.text(sampleTotals)
	sess, err := choreSession(testContext(c.t), config)
	must(c.t, err)
	defer sess.pool.Close()
	arm()
	there := c.interrupt(func(ctx context.Context) error { return chore.do(sess, ctx) }, point, by)
	c.db.want(before, invariants)
	if !chore.mayChange {
		c.db.want(samplesBefore, sampleTotals)
	}
	if c.t.Failed() {
		c.t.Fatalf("after %s at a point of %s", by, chore.name)
	}
	return there
}

// finish does a chore to its end; a turn after that writes nothing (P12).
func (c *crashSite) finish(config Config, chore interruptedChore) {
	c.t.Helper()
	sess, err := choreSession(testContext(c.t), config)
	must(c.t, err)
	defer sess.pool.Close()
	if err := chore.do(sess, testContext(c.t)); err != nil {
		c.t.Fatalf("%s, after the crashes: %v", chore.name, err)
	}
	const next = "SELECT pg_snapshot_xmax(pg_current_snapshot())"
	before := c.db.text(next)
	must(c.t, chore.do(sess, testContext(c.t)))
	if !chore.onCommand {
		c.db.want(before, next)
	}
}

func (c *crashSite) wantFinished(keys *rotatingKeyset) {
	c.t.Helper()
	db := c.db
	db.want("0", "SELECT count(*) FROM dgm.unfinished_indexes()")
	db.want("20 10", "SELECT count(*) FILTER (WHERE bytes <> '') || ' ' || count(*) FILTER (WHERE bytes = '') FROM dgm.rollback_snapshots")
	db.want("10 20", "SELECT count(*) FILTER (WHERE status = 'completed') || ' ' || count(*) FILTER (WHERE status = 'archived') FROM dgm.improvement_workspaces")
	db.want("0", "SELECT count(*) FROM ((TABLE dgm.current_improvement_success EXCEPT TABLE dgm.mv_improvement_success_daily) UNION ALL (TABLE dgm.mv_improvement_success_daily EXCEPT TABLE dgm.current_improvement_success)) x")
	db.want("0", "SELECT count(*) FROM ((TABLE dgm.current_bandit_performance EXCEPT TABLE dgm.mv_bandit_performance) UNION ALL (TABLE dgm.mv_bandit_performance EXCEPT TABLE dgm.current_bandit_performance)) x")
	db.want("0", "SELECT count(*) FROM ((TABLE dgm.current_compliance_posture EXCEPT TABLE dgm.mv_compliance_posture) UNION ALL (TABLE dgm.mv_compliance_posture EXCEPT TABLE dgm.current_compliance_posture)) x")
	db.want("3", "SELECT count(*) FROM dgm.system_configurations WHERE key_id = $1", keys.primary())
	rows, err := db.conn.Query(testContext(c.t), "SELECT key, encrypted_value FROM dgm.system_configurations WHERE is_sensitive ORDER BY key")
	must(c.t, err)
	type sealed struct {
		Key            string
		EncryptedValue []byte
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sealed])
	must(c.t, err)
	primitive, id, err := keys.load(testContext(c.t))
	must(c.t, err)
	for n, row := range all {
		if plain, err := (&cipher{primitive, id}).open(row.Key, row.EncryptedValue); err != nil || plain != fmt.Sprint(secretValue, n) {
			c.t.Errorf("%s = %q, %v", row.Key, plain, err)
		}
	}
}
