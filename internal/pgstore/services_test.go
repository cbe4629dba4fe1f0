// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// What docs/database.md shows to other services, word for word, as the role that
// it names, and what the operator makes of it.
func TestAnotherServiceWritesWithPlainSQLAndTheOperatorUsesIt(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	i := improvement(1)
	i.Name = "checkout-cache-ttl"
	must(t, s.MirrorImprovement(ctx, i))
	must(t, s.MirrorPolicy(ctx, policy(1, "a", "b")))
	service, db := openDatabase(t, pgtest.ServiceURL(url)), openDatabase(t, url)
	blocks := documented(t, "## For other services", "dgm.")
	for _, block := range blocks[:2] { // reading, then writing
		service.exec(block)
	}
	unknown := uuid.New()
	service.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, improvement_id) SELECT 'm', 'latency', 'improvement', n, $1 FROM generate_series(1, 3) n`, unknown)

	db.want("17 12.5", `SELECT string_agg(value::text, ' ' ORDER BY metric_name DESC) FROM dgm.performance_metrics WHERE metric_name IN ('p99-latency', 'queue-depth')`)
	db.want("cdd01ef066bc6cf2", "SELECT DISTINCT constitutional_hash FROM dgm.performance_metrics WHERE timestamp > now() - interval '1 hour' AND metric_name <> 'm'")
	db.want("0.8749 completed shop/checkout-cache-ttl 1", `SELECT concat_ws(' ', compliance_score, status, namespace || '/' || name, attempt) FROM dgm.v_compliance WHERE assessor_id = 'auditor-3' AND reviewed_at IS NOT NULL`)

	sess := s.session.Load()
	eventually(t, "the sample is aggregated", func() error { // transactions of others delay it
		must(t, sess.aggregateMetrics(ctx))
		if got := db.text(`SELECT concat_ws(' ', max(value) FILTER (WHERE aggregation_type = 'p99'), max(value) FILTER (WHERE aggregation_type = 'sum'))
		FROM dgm.metric_aggregations WHERE metric_name = 'p99-latency' AND time_window = '1m' AND service_name = 'checkout'`); got != "12.5 12.5" {
			return fmt.Errorf("p99 and sum are %q", got)
		}
		return nil
	})
	eventually(t, "the assessment shows in the posture", func() error { // sessions count what they wrote once a second
		must(t, sess.refreshAnalytics(ctx))
		postures, err := s.CompliancePosture(ctx)
		must(t, err)
		for _, p := range postures {
			if p.Service == "checkout" && p.Levels["warning"] == 1 && p.OpenReviews == 0 && p.NewestLevel == "warning" {
				return nil
			}
		}
		return fmt.Errorf("%+v", postures)
	})
	unmatched, err := s.UnmatchedMetrics(ctx)
	must(t, err)
	if unmatched.Improvements != 1 || unmatched.Samples != 3 {
		t.Errorf("unmatched metrics are %+v, want 3 samples of one improvement", unmatched)
	}
	db.want(unknown.String()+" 3", "SELECT concat_ws(' ', improvement_id, samples) FROM dgm.v_unmatched_metrics WHERE last_at >= first_at")
	// An assessment must name a known improvement, or none.
	if _, err := service.conn.Exec(ctx, `INSERT INTO dgm.constitutional_compliance_logs (improvement_id, operation_type, compliance_level, status, assessment_method)
		VALUES (gen_random_uuid(), 'o', 'compliant', 'completed', 'manual')`); sqlState(err) != "23503" {
		t.Errorf("an assessment of an unknown improvement: %v, want a violation of its foreign key", err)
	}
}

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

func TestReadonlyRoleReadsAllViewsAndNothingSensitive(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	must(t, s.MirrorPolicy(ctx, policy(1, "a", "b")))
	db, reader := openDatabase(t, url), openDatabase(t, pgtest.ReadonlyURL(url))
	db.exec(`UPDATE dgm.bandit_states SET total_pulls = CASE arm_id WHEN 'a' THEN 3 ELSE 1 END WHERE name = 'policy-001'`)
	db.exec(`INSERT INTO dgm.system_configurations (key, value, default_value, value_type) VALUES ('mine', '5', '4', 'integer'), ('unset', NULL, '4', 'integer')`)
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ('sealed', true, 'SEALED', 'key-1')`)

	for _, view := range []string{"v_improvements", "v_compliance", "v_bandit_arms", "v_bandit_decisions", "v_system_configurations", "v_unmatched_metrics"} {
		reader.text("SELECT count(*) FROM dgm." + view)
		if strings.Contains(reader.text("SELECT string_agg(v::text, ' ') FROM dgm."+view+" v"), "SEALED") {
			t.Errorf("dgm.%s shows what is sensitive", view)
		}
	}
	reader.exec(documented(t, "## For other services", "dgm.")[0])
	reader.want("a 3 0.750000, b 1 0.250000", "SELECT string_agg(concat_ws(' ', arm_id, total_pulls, pull_share), ', ' ORDER BY arm_id) FROM dgm.v_bandit_arms WHERE policy = 'policy-001'")
	reader.want("mine 5 t t, sealed t t, unset 4 f f", `SELECT string_agg(concat_ws(' ', key, effective_value, is_set::text::char(1), (is_overridden AND is_set)::text::char(1)), ', ' ORDER BY key)
		FROM dgm.v_system_configurations WHERE NOT is_builtin`)
	db.exec(`UPDATE dgm.known_constitutions SET configuration_rules = configuration_rules || '{"mine": {"max": 4}}' WHERE active`)
	reader.want("true", `SELECT problem LIKE '%is more than max 4, by the constitution%' FROM dgm.v_system_configurations WHERE key = 'mine'`)
	reader.want("", `SELECT string_agg(key, ' ') FROM dgm.v_system_configurations WHERE problem IS NOT NULL AND key <> 'mine'`)
	for _, refused := range []string{
		"SELECT encrypted_value FROM dgm.system_configurations", "SELECT bytes FROM dgm.rollback_snapshots", "SELECT token FROM dgm.writer_fences",
		"UPDATE dgm.v_bandit_arms SET policy = 'x'", "INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('m', 'latency', 'service', 1)",
	} {
		if _, err := reader.conn.Exec(ctx, refused); sqlState(err) == "" {
			t.Errorf("%s: %v, want a refusal", refused, err)
		}
	}
}

func TestNewestAttemptIsMarked(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	for attempt := range 3 {
		i := improvement(1)
		i.ImprovementID, i.Attempt = uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, attempt)), int32(attempt+1) //nolint:gosec // small
		must(t, s.MirrorImprovement(ctx, i))
	}
	must(t, s.MirrorImprovement(ctx, improvement(2)))
	openDatabase(t, url).want("improvement-00001/3 improvement-00002/1", `SELECT string_agg(name || '/' || attempt, ' ' ORDER BY name) FROM dgm.v_improvements WHERE is_newest_attempt AND cluster = 'test'`)
}

// The report of unknown improvements costs by the number of improvements that
// samples name, not by the number of samples.
func TestUnmatchedMetricsAreFoundThroughTheIndex(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status) SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'd', 'running' FROM generate_series(1, 10) n`)
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, improvement_id)
		SELECT 'm', 'latency', 'improvement', n, ('00000000-0000-0000-0000-' || lpad((n % 11 + 1)::text, 12, '0'))::uuid FROM generate_series(1, 22000) n`)
	db.exec("ANALYZE dgm.performance_metrics")
	db.want("00000000-0000-0000-0000-000000000011 2000", "SELECT concat_ws(' ', improvement_id, samples) FROM dgm.v_unmatched_metrics")
	plan := db.text("SELECT 1 FROM pg_class WHERE false")
	rows, err := db.conn.Query(testContext(t), "EXPLAIN (ANALYZE, TIMING off, SUMMARY off, COSTS off) SELECT * FROM dgm.v_unmatched_metrics")
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var line string
		must(t, rows.Scan(&line))
		plan += line + "\n"
	}
	must(t, rows.Err())
	for _, line := range strings.Split(plan, "\n") {
		if strings.Contains(line, "Seq Scan on performance_metrics") && !strings.Contains(line, "rows=0") {
			t.Errorf("samples are read without the index:\n%s", plan)
			break
		}
	}
}
