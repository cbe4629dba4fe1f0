// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

func assessment(i Improvement) Assessment {
	return Assessment{
		Object: i.Object, ID: uuid.NewSHA1(i.ImprovementID, []byte("verdict")), ImprovementID: i.ImprovementID, ServiceName: i.TargetService,
		OperationType: "improvement", Level: "warning", Score: "0.859", Status: AssessmentRequiresReview, Version: "1.0", Hash: "cdd01ef066bc6cf2",
		Violations: json.RawMessage(`[{"principle":"transparency","message":"\u0000"}]`), Evidence: json.RawMessage(`{"planDigest":"d"}`),
		AssessorID: "dgm-operator", AssessedAt: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
	}
}

func TestP3_AVerdictIsStoredOnce(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	i := improvement(1)
	a := assessment(i)
	var refused *RowError
	if err := s.SaveAssessment(ctx, a); !errors.As(err, &refused) {
		t.Errorf("a verdict on nothing: %v", err)
	}
	must(t, s.MirrorImprovement(ctx, i))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := s.SaveAssessment(ctx, a); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	later := a
	later.AssessedAt = later.AssessedAt.Add(time.Hour)
	must(t, s.SaveAssessment(ctx, later))
	other := a
	other.ID, other.Score = uuid.NewSHA1(i.ImprovementID, []byte("another verdict")), "1"
	must(t, s.SaveAssessment(ctx, other))
	const own = "FROM dgm.constitutional_compliance_logs WHERE improvement_id IS NOT NULL"
	db.want("2", "SELECT count(*) "+own)
	db.want("improvement warning 0.85 0.859 requires_review 1.0 t checkout test shop automated 12", `SELECT concat_ws(' ', operation_type, compliance_level, compliance_score, compliance_score_exact,
		status, constitutional_version, review_required, service_name, cluster, namespace, assessment_method, extract(hour FROM assessed_at AT TIME ZONE 'UTC')) `+own+" AND compliance_score < 1")

	at := time.Date(2026, 7, 2, 12, 0, 0, 0, time.UTC)
	must(t, s.ReviewAssessments(ctx, i.ImprovementID, &at))
	must(t, s.ReviewAssessments(ctx, i.ImprovementID, nil))
	db.want("2", "SELECT count(*) "+own+" AND status = 'completed' AND reviewed_at = '2026-07-02 12:00Z'")
	other.ID = uuid.NewSHA1(i.ImprovementID, []byte("a third verdict"))
	must(t, s.SaveAssessment(ctx, other))
	must(t, s.ReviewAssessments(ctx, i.ImprovementID, nil))
	db.want("1", "SELECT count(*) "+own+" AND status = 'completed' AND NOT review_required AND reviewed_at IS NULL")
}

func TestP3_LostRecordsAreFound(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	whole, lost, untold := improvement(1), improvement(2), improvement(3)
	whole.TestResults = json.RawMessage(`{"tests": {"a": {}, "b": {}}}`)
	for _, i := range []Improvement{whole, lost, untold} {
		must(t, s.MirrorImprovement(ctx, i))
	}
	must(t, s.SaveAssessment(ctx, assessment(whole)))
	for _, test := range []struct {
		name string
		told []Recorded
		want []uuid.UUID
	}{
		{"nothing was told", nil, nil},
		{"all is there", []Recorded{{whole.ImprovementID, true, 2}, {untold.ImprovementID, false, 0}}, nil},
		{"the verdict", []Recorded{{whole.ImprovementID, true, 1}, {lost.ImprovementID, true, 0}}, []uuid.UUID{lost.ImprovementID}},
		{"all tests", []Recorded{{lost.ImprovementID, false, 1}}, []uuid.UUID{lost.ImprovementID}},
		{"one test of three", []Recorded{{whole.ImprovementID, true, 3}}, []uuid.UUID{whole.ImprovementID}},
		{"rows and all", []Recorded{{uuid.Max, false, 1}}, []uuid.UUID{uuid.Max}},
	} {
		if got, err := s.WithoutRecords(ctx, test.told); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", test.name, got, err, test.want)
		}
	}
	db.exec(`UPDATE dgm.improvement_workspaces SET test_results = '{"tests": "by hand"}' WHERE improvement_id = $1`, whole.ImprovementID)
	if got, err := s.WithoutRecords(ctx, []Recorded{{whole.ImprovementID, true, 2}}); err != nil || len(got) != 1 {
		t.Errorf("edited by hand: %v, %v", got, err)
	}
}

func TestAdoptingKeepsThatItWasValidated(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	i := improvement(1)
	ended := i.Timestamp.Add(time.Hour)
	i.ComplianceValidated, i.CompletedAt, i.WorkspaceStatus = true, &ended, "completed"
	must(t, s.MirrorImprovement(ctx, i))
	adopted := i
	adopted.UID, adopted.ComplianceValidated = "uid-of-the-rebuilt-object", false
	must(t, s.MirrorImprovement(ctx, adopted))
	db.want("t uid-of-the-rebuilt-object", "SELECT concat_ws(' ', compliance_validated, uid) FROM dgm.improvement_workspaces")
	revision := db.text("SELECT revision FROM dgm.improvement_workspaces")
	s.ForgetAllSynced()
	must(t, s.MirrorImprovement(ctx, adopted)) // P12: it is compared, and is the same
	db.want(revision, "SELECT revision FROM dgm.improvement_workspaces")
	later := ended.Add(time.Hour)
	adopted.CompletedAt, adopted.WorkspaceStatus = &later, "failed"
	must(t, s.MirrorImprovement(ctx, adopted))
	db.want("false", "SELECT compliance_validated FROM dgm.improvement_workspaces")
}

func TestFreezeAndConstitutionAreReadPastTheMemory(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	by, err := s.Frozen(ctx)
	if err != nil || by != "" {
		t.Errorf("frozen by %q, %v", by, err)
	}
	db.exec("UPDATE dgm.system_configurations SET value = 'true' WHERE key = 'freeze'")
	if by, err = s.Frozen(ctx); err != nil || !strings.Contains(by, "the row freeze of dgm.system_configurations, since 2") {
		t.Errorf("frozen by %q, %v", by, err)
	}
	must2 := func(_ AppliedConfiguration, err error) { must(t, err) }
	must2(s.ApplyConfiguration(ctx, Configuration{Object: Object{Name: "freeze-all", UID: "u", Generation: 1}, Key: "freeze", Value: "true"}))
	if by, err = s.Frozen(ctx); err != nil || !strings.Contains(by, "the SystemConfiguration freeze-all of cluster test, since 2") {
		t.Errorf("frozen by %q, %v", by, err)
	}
	if c, err := s.ActiveConstitution(ctx); err != nil || c.Hash != "cdd01ef066bc6cf2" {
		t.Errorf("%+v, %v", c, err)
	}
	db.exec("UPDATE dgm.known_constitutions SET active = false")
	if c, err := s.ActiveConstitution(ctx); err == nil {
		t.Errorf("no constitution is active, and the answer is %+v", c)
	}
}

func TestRiskLimitIsBoundedByTheConstitution(t *testing.T) {
	t.Parallel()
	db := openDatabase(t, migratedDatabase(t))
	db.exec("UPDATE dgm.system_configurations SET value = 'Low' WHERE key = 'risk_limit'")
	for _, value := range []string{"Critical", "high"} {
		if _, err := db.conn.Exec(testContext(t), "UPDATE dgm.system_configurations SET value = $1 WHERE key = 'risk_limit'", value); err == nil {
			t.Errorf("%s is accepted", value)
		}
	}
}
