// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func of(v float64) *float64 { return &v }

func TestAnalyticsOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	db, _ := metricsDatabase(t, migratedDatabase(t))
	db.exec("DELETE FROM dgm.constitutional_compliance_logs")
	db.exec("DELETE FROM dgm.bandit_states")
	db.text("SELECT dgm.refresh_analytics()")
	for _, view := range []string{"mv_improvement_success_daily", "mv_compliance_posture", "mv_bandit_performance"} {
		db.want("0", "SELECT count(*) FROM dgm."+view)
	}
	db.want("0", "SELECT dgm.refresh_analytics()")
}

// begun inserts an attempt, on a day, that ended after some minutes unless it is running.
func (d *observer) begun(n int, service, kind, day, status string, minutes int) {
	d.t.Helper()
	id := fmt.Sprintf("00000000-0000-0000-0000-%012d", n)
	d.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status, "timestamp", deleted_at)
		VALUES ($1::text::uuid, 'x', $2, $3::text::timestamptz, CASE WHEN $4 THEN now() END)`, id, status, day, n%2 == 0)
	d.exec(`INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, target_service, improvement_type, completed_at)
		SELECT $1::text::uuid, 'x', 'created', NULLIF($2, ''), NULLIF($3, ''), CASE WHEN $4::integer > 0 THEN a."timestamp" + make_interval(mins => $4) END
		FROM dgm.dgm_archive a WHERE a.improvement_id = $1::text::uuid`, id, service, kind, minutes)
}

func TestSuccessByServiceAndType(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	store := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	yesterday := today.AddDate(0, 0, -1)
	last := today.Add(-time.Microsecond).Format(time.RFC3339Nano)
	db.begun(1, "checkout", "ParameterTuning", last, "completed", 10)
	db.begun(2, "checkout", "ParameterTuning", last, "completed", 20)
	db.begun(3, "checkout", "ParameterTuning", last, "failed", 30)
	db.begun(4, "checkout", "ParameterTuning", last, "rolled_back", 40)
	db.begun(5, "checkout", "ParameterTuning", last, "running", 0)
	db.begun(6, "", "", today.Format(time.RFC3339), "pending", 0)
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status, "timestamp") VALUES (gen_random_uuid(), 'of no workspace', 'failed', $1)`, today)
	db.begun(8, "checkout", "ParameterTuning", today.AddDate(0, 0, -100).Format(time.RFC3339), "failed", 1)
	db.want("1", "SELECT dgm.refresh_analytics()")
	got, err := store.SuccessByServiceAndType(testContext(t))
	must(t, err)
	want := []ServiceSuccess{
		{Day: today, Attempts: 2, Failed: 1, SuccessRate: of(0)},
		{
			Service: "checkout", Type: "ParameterTuning", Day: yesterday, Attempts: 5, Completed: 2, Failed: 1, RolledBack: 1,
			SuccessRate: of(0.5), MeanDuration: 25 * time.Minute,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompliancePosture(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	store := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	db.exec("DELETE FROM dgm.constitutional_compliance_logs")
	db.exec(`INSERT INTO dgm.constitutional_compliance_logs (service_name, operation_type, compliance_level, compliance_score, compliance_score_exact, status, assessment_method, review_required, assessed_at, reviewed_at, deleted_at) VALUES
		('checkout', 'change', 'compliant', 0.90, 0.9, 'completed', 'automated', false, '2026-11-01', NULL, NULL),
		('checkout', 'change', 'warning', 0.70, NULL, 'requires_review', 'automated', true, '2026-11-03', NULL, NULL),
		('checkout', 'change', 'exemplary', 1, 1, 'completed', 'manual', true, '2026-11-02', '2026-11-02', '2026-11-05'),
		('checkout', 'change', 'critical_violation', 0, 0, 'failed', 'automated', false, '2026-11-04', NULL, NULL),
		('checkout', 'change', 'minor_violation', 0.5, NULL, 'requires_review', 'automated', true, '2026-10-04', NULL, '2026-11-05'),
		(NULL, 'change', 'major_violation', NULL, NULL, 'completed', 'automated', false, '2026-11-04', NULL, NULL),
		('idle', 'change', 'warning', NULL, NULL, 'in_progress', 'automated', false, '2026-11-04', NULL, NULL)`)
	db.text("SELECT dgm.refresh_analytics()")
	got, err := store.CompliancePosture(testContext(t))
	must(t, err)
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	levels := func(of map[string]int64) map[string]int64 {
		for _, level := range []string{"critical_violation", "major_violation", "minor_violation", "warning", "compliant", "exemplary"} {
			of[level] += 0
		}
		return of
	}
	want := []ServicePosture{
		{Assessments: 1, Levels: levels(map[string]int64{"major_violation": 1}), NewestAssessedAt: day(4), NewestLevel: "major_violation"},
		{
			Service: "checkout", Assessments: 4, MeanScore: of(0.775), LowestScore: of(0.5), NewestScore: of(0.7), OpenReviews: 1,
			Levels:           levels(map[string]int64{"minor_violation": 1, "warning": 1, "compliant": 1, "exemplary": 1}),
			NewestAssessedAt: day(3), NewestLevel: "warning",
		},
		{Service: "idle", Levels: levels(map[string]int64{})},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBanditPerformance(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	store := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	db.exec("DELETE FROM dgm.bandit_states")
	db.exec(`INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls, total_reward, average_reward, deleted_at) VALUES
		('ucb1', 'c/n/p/default', 'keep', 4, 2, 0.5, NULL), ('ucb1', 'c/n/p/default', 'cache', 2, 1.5, 0.75, NULL),
		('ucb1', 'c/n/p/default', 'new', 0, 0, 0, NULL), ('ucb1', 'c/n/p/default', 'gone', 10, 10, 1, now()),
		('ucb1', 'c/n/q/default', 'keep', 0, 0, 0, NULL)`)
	db.exec(`INSERT INTO dgm.bandit_decisions (algorithm_type, context_key, seq, arm_id, eligible_arms, reason, spec_digest, decided_at) VALUES
		('ucb1', 'c/n/p/default', 1, 'cache', '[]', 'x', 'x', '2026-11-01'), ('ucb1', 'c/n/p/default', 2, 'cache', '[]', 'x', 'x', '2026-11-02')`)
	db.text("SELECT dgm.refresh_analytics()")
	got, err := store.BanditPerformance(testContext(t))
	must(t, err)
	want := []ArmPerformance{
		{
			ContextKey: "c/n/p/default", AlgorithmType: "ucb1", ArmID: "cache", Pulls: 2, Decisions: 2, MeanReward: of(0.75), Regret: of(0), BestArmID: "cache", Best: true,
			LastDecidedAt: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC),
		},
		{ContextKey: "c/n/p/default", AlgorithmType: "ucb1", ArmID: "keep", Pulls: 4, MeanReward: of(0.5), Regret: of(1), BestArmID: "cache"},
		{ContextKey: "c/n/p/default", AlgorithmType: "ucb1", ArmID: "new", BestArmID: "cache"},
		{ContextKey: "c/n/q/default", AlgorithmType: "ucb1", ArmID: "keep"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRefreshingAnalyticsWritesNothingWhenNothingChanged(t *testing.T) { // P12
	t.Parallel()
	db, _ := metricsDatabase(t, migratedDatabase(t))
	db.begun(1, "checkout", "ParameterTuning", "2026-11-01", "running", 0)
	db.want("1", "SELECT dgm.refresh_analytics()")
	position := db.text("SELECT refreshed_at FROM dgm.analytics_refreshes")
	db.exec("UPDATE dgm.improvement_workspaces SET description = 'of no concern to the views'")
	db.want("0", "SELECT dgm.refresh_analytics()")
	db.want(position, "SELECT refreshed_at FROM dgm.analytics_refreshes")
	db.exec("DELETE FROM dgm.improvement_workspaces")
	db.want("1", "SELECT dgm.refresh_analytics()")
	db.want(" ", "SELECT service_name || ' ' || improvement_type FROM dgm.mv_improvement_success_daily")
}

// Whoever reads the views is not held up while they are refreshed.
func TestAnalyticsAreReadWhileTheyAreRefreshed(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	db, _ := metricsDatabase(t, url)
	reader := openDatabase(t, url)
	db.begun(1, "checkout", "ParameterTuning", "2026-11-01", "running", 0)
	db.exec("BEGIN")
	db.want("1", "SELECT dgm.refresh_analytics()")
	reader.exec("SET lock_timeout = '1s'")
	reader.want("0", "SELECT count(*) FROM dgm.mv_improvement_success_daily")
	reader.want("0", "SELECT dgm.refresh_analytics()") // another leader: it does not wait
	db.exec("COMMIT")
	reader.want("1", "SELECT count(*) FROM dgm.mv_improvement_success_daily")
}
