// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// Other services write with plain SQL: what does not fit is refused by a named
// constraint or a message that says what is wrong, and nothing of the statement stays.
func TestPlainSQLIsRefusedInClearWords(t *testing.T) {
	t.Parallel()
	db, ctx := migrated(t, newTestDatabase(t)), testContext(t)
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	const metric = "INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, tags) VALUES ('m', $1, $2, $3::text::numeric, $4::text::jsonb)"
	const review = "INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, compliance_score, status, assessment_method) VALUES ('o', $1, $2::text::numeric, $3, $4)"
	const arm = "INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, safety_threshold) VALUES ($1, 'c', $2, $3::text::numeric)"
	for _, test := range []struct {
		name, sql string
		args      []any
		says      string
	}{
		{"value infinite", metric, []any{"latency", "service", "Infinity", "{}"}, "performance_metrics_value_"},
		{"value NaN", metric, []any{"latency", "service", "NaN", "{}"}, "performance_metrics_value_"},
		{"value beyond numeric", metric, []any{"latency", "service", "1e200000", "{}"}, "overflows"},
		{"value beyond any double", metric, []any{"latency", "service", "-1e308", "{}"}, "performance_metrics_value_bounded"},
		{"long metric name", "INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES (repeat('n', 1025), 'latency', 'service', 1)", nil, "performance_metrics_names_bounded"},
		{"long service name", "INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name) VALUES ('m', 'latency', 'service', 1, repeat('n', 1025))", nil, "performance_metrics_names_bounded"},
		{"unknown metric type", metric, []any{"Latency", "service", "1", "{}"}, "metric_type_check"},
		{"unknown scope", metric, []any{"latency", "galaxy", "1", "{}"}, "metric_scope_check"},
		{"NUL in a document", metric, []any{"latency", "service", "1", `{"a":"\u0000"}`}, "Unicode escape"},
		{"lone surrogate", metric, []any{"latency", "service", "1", `{"a":"\ud800"}`}, "json"},
		{"number beyond numeric in a document", metric, []any{"latency", "service", "1", `[1e999999]`}, "overflows"},
		{"NUL in text", metric, []any{"latency\x00", "service", "1", "{}"}, "0x00"},
		{"invalid UTF-8", metric, []any{"latency\xff", "service", "1", "{}"}, "0xff"},
		{"unknown level", review, []any{"fine", "0.5", "completed", "manual"}, "compliance_level_check"},
		{"unknown review status", review, []any{"compliant", "0.5", "done", "manual"}, "status_check"},
		{"unknown method", review, []any{"compliant", "0.5", "completed", "guess"}, "assessment_method_check"},
		{"score above 1", review, []any{"compliant", "1.01", "completed", "manual"}, "compliance_score"},
		{"score NaN", review, []any{"compliant", "NaN", "completed", "manual"}, "compliance_score"},
		{"exact score above 1", "INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, compliance_score_exact, status, assessment_method) VALUES ('o', 'compliant', 1.0001, 'completed', 'manual')", nil, "score_exact"},
		{"reward NaN", "INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_reward) VALUES ('ucb1', 'c', 'a', 'NaN')", nil, "bandit_states_reward_bounded"},
		{"reward beyond bounds", "INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_reward) VALUES ('ucb1', 'c', 'a', 1e101)", nil, "bandit_states_reward_bounded"},
		{"partitions for ever", "SELECT dgm.ensure_metric_partitions(0, 1000000)", nil, "0 to 120 months"},
		{"unknown algorithm", arm, []any{"UCB1", "a", "0.5"}, "algorithm_type_check"},
		{"safety above 1", arm, []any{"ucb1", "a", "1.5"}, "safety_threshold_check"},
		{"arm twice", "INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id) VALUES ('ucb1', 'c', 'a'), ('ucb1', 'c', 'a')", nil, "bandit_states_arm"},
		{"unknown improvement", "INSERT INTO dgm.improvement_workspaces (improvement_id, name, status) VALUES (gen_random_uuid(), 'n', 'created')", nil, "improvement_id"},
		{"setting of another type", "UPDATE dgm.system_configurations SET value = 'many' WHERE key = 'max_concurrent_improvements'", nil, "max_concurrent_improvements"},
		{"setting out of range", "UPDATE dgm.system_configurations SET value = '99999999999999999999' WHERE key = 'metrics_retention_days'", nil, "metrics_retention_days"},
	} {
		_, err := db.conn.Exec(ctx, test.sql, test.args...)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			t.Errorf("%s: the answer is %v, want an error", test.name, err)
			continue
		}
		if said := pgErr.ConstraintName + " " + pgErr.Message + " " + pgErr.Detail; !strings.Contains(said, test.says) {
			t.Errorf("%s: the error is %q, which does not say %q", test.name, said, test.says)
		}
	}
	db.exec(metric, "latency", "service", "1e-300", deep)
	db.exec(metric, "latency", "service", "-1e300", `"`+strings.Repeat("x", 1<<20)+`"`)
	db.want("2", "SELECT count(*) FROM dgm.performance_metrics WHERE metadata IS NULL")
	// One bad row of 500: the statement stores none, the next one all.
	batch := `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value)
		SELECT 'batch', CASE WHEN i = %d THEN 'unknown' ELSE 'latency' END, 'service', i FROM generate_series(1, 500) i`
	if _, err := db.conn.Exec(ctx, fmt.Sprintf(batch, 250)); err == nil {
		t.Error("a batch with a bad row was accepted")
	}
	db.want("0", "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name = 'batch'")
	db.exec(fmt.Sprintf(batch, 0))
	db.want("500", "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name = 'batch'")
}

// Times that no calendar has keep neither the leader's chores nor the views from
// working on everything else.
func TestImpossibleTimesHoldUpNobody(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	_, err := AggregateMetrics(ctx, s.session.Load().pool, time.Minute) // the first pass looks at everything, later ones at what is new
	must(t, err)
	for _, at := range []string{"infinity", "-infinity", "4713-01-01 BC", "0001-01-01", "1969-12-31 23:59:59.999999+00", "2200-01-01", "9999-12-31", "294276-12-31"} {
		db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, improvement_id, "timestamp")
			VALUES ('odd', 'latency', 'service', 1, 's', gen_random_uuid(), $1::text::timestamptz)`, at)
		db.exec(`INSERT INTO dgm.constitutional_compliance_logs (operation_type, service_name, compliance_level, status, assessment_method, assessed_at)
			VALUES ('o', 's', 'compliant', 'completed', 'manual', $1::text::timestamptz)`, at)
	}
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name) VALUES ('plain', 'latency', 'service', 1, 's')`)
	_, err = AggregateMetrics(ctx, s.session.Load().pool, time.Minute)
	must(t, err)
	for _, c := range chores() {
		if err := c.do(s.session.Load(), ctx); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	eventually(t, "the plain sample is aggregated", func() error { // transactions of others delay it
		if _, err := AggregateMetrics(ctx, s.session.Load().pool, time.Minute); err != nil {
			return err
		}
		if n := db.text("SELECT count(*) FROM dgm.metric_rollups WHERE metric_name = 'plain' AND time_window = '1m'"); n != "1" {
			return fmt.Errorf("%s rollups", n)
		}
		return nil
	})
	// Expired ones may have gone by now; those ahead of time are all there.
	db.want("4", `SELECT count(*) FROM dgm.performance_metrics WHERE metric_name = 'odd' AND "timestamp" > '2100-01-01'`)
	posture, err := s.CompliancePosture(ctx)
	must(t, err)
	if len(posture) == 0 {
		t.Error("no service has a posture")
	}
	partitions, _, err := s.Partitions(ctx)
	must(t, err)
	if partitions[0].RowCount < 4 || len(partitions) > 40 {
		t.Errorf("%d partitions, the default one with %d rows", len(partitions), partitions[0].RowCount)
	}
	unmatched, err := s.UnmatchedMetrics(ctx)
	must(t, err)
	if unmatched.Improvements < 4 {
		t.Errorf("unmatched metrics = %+v", unmatched)
	}
	_, err = s.AggregationStanding(ctx)
	must(t, err)
	for _, view := range []string{"v_improvements", "v_compliance", "v_metric_aggregation", "v_partitions", "v_unmatched_metrics", "mv_compliance_posture", "metric_aggregations"} {
		if _, err := db.conn.Exec(ctx, "SELECT * FROM dgm."+view); err != nil {
			t.Errorf("%s: %v", view, err)
		}
	}
}

// Rows that another service writes, each of them allowed, keep the leader neither
// from finding its own objects nor from adding up all others.
func TestP3_OddRowsOfOtherServicesHoldUpNobody(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, pgtest.ServiceURL(url))
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	must(t, s.MirrorPolicy(ctx, policy(1, "keep")))

	// Our cluster's name, but nobody's uid or name.
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status, cluster, namespace, name) VALUES (gen_random_uuid(), 'd', 'running', 'test', 'zoo', 'nobody')`)
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status, cluster, namespace, uid) VALUES (gen_random_uuid(), 'd', 'running', 'test', 'zoo', 'u')`)
	db.exec(`INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, cluster, namespace) VALUES ('ucb1', 'c', 'a', 'test', 'zoo')`)
	for kind, name := range map[Kind]string{KindImprovementWorkspace: "improvement-00001", KindBanditPolicy: "policy-001"} {
		var found []string
		must(t, s.LiveObjects(ctx, kind, func(o Object) error {
			found = append(found, o.Name)
			return nil
		}))
		if len(found) != 1 || found[0] != name {
			t.Errorf("live objects of kind %s: %q, want %s", kind, found, name)
		}
	}

	// A name that no index holds, and a time that cannot be subtracted.
	id := db.text("SELECT improvement_id FROM dgm.dgm_archive WHERE name = 'nobody'")
	db.exec(`INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, completed_at, target_service)
		SELECT $1::text::uuid, 'n', 'completed', 'infinity', string_agg(md5(i::text), '') FROM generate_series(1, 300) i`, id)
	db.exec("UPDATE dgm.dgm_archive SET status = 'completed' WHERE improvement_id = $1::text::uuid", id)
	db.exec(`INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls, total_reward)
		VALUES ('ucb1', 'far', 'up', 9223372036854775807, 1e100), ('ucb1', 'far', 'down', 9223372036854775807, -1e100)`)
	eventually(t, "both rows are added up", func() error { // the leader may be refreshing as well
		db.text("SELECT dgm.refresh_analytics()")
		success, err := s.SuccessByServiceAndType(ctx)
		must(t, err)
		if len(success) < 2 {
			return fmt.Errorf("success of %d services, want those of both rows", len(success))
		}
		return nil
	})
	_, err := s.BanditPerformance(ctx)
	must(t, err)
}
