// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// nested is a document of so many levels.
func nested(levels int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", levels) + strings.Repeat("]", levels))
}

// In a batch of 500, whatever is wrong with one, it alone fails, and the error
// says which field is at fault.
func TestP3_OneBadObjectOf500FailsAloneAndItsFieldIsNamed(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	c := testConfig(url)
	c.BatchDelay = 50 * time.Millisecond
	ctx, s, db := testContext(t), startReady(t, c), openDatabase(t, url)
	for n, test := range []struct {
		name  string
		spoil func(*Improvement)
		says  []string
	}{
		{"no JSON", func(i *Improvement) { i.Metadata = json.RawMessage(`{not json`) }, []string{"metadata", "JSON"}},
		{"JSON cut off", func(i *Improvement) { i.TestResults = json.RawMessage(`{"a":`) }, []string{"test_results", "JSON"}},
		{"invalid UTF-8 outside of a string", func(i *Improvement) { i.RiskAssessment = json.RawMessage("{\xff}") }, []string{"risk_assessment", "JSON"}},
		{"NUL outside of a string", func(i *Improvement) { i.SafetyChecks = json.RawMessage("{\x00}") }, []string{"safety_checks", "JSON"}},
		{"a number beyond numeric", func(i *Improvement) { i.Configuration = json.RawMessage(`{"n":[1, 1e999999]}`) }, []string{"configuration", "overflows"}},
		{"too deep for JSON", func(i *Improvement) { i.AlgorithmChanges = nested(20_000) }, []string{"algorithm_changes", "depth"}},
		{"score beyond numeric", func(i *Improvement) { i.ComplianceScore = "1e999999" }, []string{"constitutional_compliance_score", "numeric"}},
		{"score too large", func(i *Improvement) { i.ComplianceScore = "1e30" }, []string{"constitutional_compliance_score", "overflow"}},
		{"score above 1", func(i *Improvement) { i.ComplianceScore = "1.01" }, []string{"constitutional_compliance_score"}},
		{"score below 0", func(i *Improvement) { i.ComplianceScore = "-0.01" }, []string{"constitutional_compliance_score"}},
		{"score NaN", func(i *Improvement) { i.ComplianceScore = "NaN" }, []string{"constitutional_compliance_score"}},
		{"score infinite", func(i *Improvement) { i.ComplianceScore = "Infinity" }, []string{"constitutional_compliance_score"}},
		{"score in words", func(i *Improvement) { i.ComplianceScore = "'; DROP TABLE dgm.dgm_archive; --" }, []string{"constitutional_compliance_score", "numeric"}},
		{"unknown archive status", func(i *Improvement) { i.ArchiveStatus = "Completed" }, []string{"dgm_archive", "status"}},
		{"unknown workspace status", func(i *Improvement) { i.WorkspaceStatus = "\u202egnitset" }, []string{"improvement_workspaces", "status"}},
		{"unknown constitution", func(i *Improvement) { i.ConstitutionalHash = strings.Repeat("a", 64) }, []string{"constitutional_hash"}},
		{"constitution too long", func(i *Improvement) { i.ConstitutionalHash = strings.Repeat("a", 65) }, []string{"constitutional_hash"}},
		{"attempt 0", func(i *Improvement) { i.Attempt = 0 }, []string{"attempt"}},
		{"attempt below 0", func(i *Improvement) { i.Attempt = math.MinInt32 }, []string{"attempt"}},
		{"no begin", func(i *Improvement) { i.Timestamp = time.Time{} }, []string{"timestamp"}},
		{"begin beyond time", func(i *Improvement) { i.Timestamp = time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC) }, []string{"timestamp", "9999"}},
		{"end before time", func(i *Improvement) { at := time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC); i.CompletedAt = &at }, []string{"completed_at", "year"}},
		{"its own parent", func(i *Improvement) { i.ParentID = uuid.NullUUID{UUID: i.ImprovementID, Valid: true} }, []string{"parent"}},
		{"a name that fits no index", func(i *Improvement) { i.Name = randomText(1 << 20) }, []string{"index"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			began := time.Now()
			err := mirrorAll(ctx, s.Store, 500, func(i *Improvement) {
				i.ImprovementID = uuid.NewSHA1(i.ImprovementID, []byte(test.name))
				i.Namespace, i.UID = fmt.Sprint("case-", n), i.UID+test.name
				if i.Name == improvement(250).Name {
					test.spoil(i)
				}
			})
			var rowErr *RowError
			if !errors.As(err, &rowErr) {
				t.Fatalf("the answer is %v, want a RowError", err)
			}
			if failed := strings.Count(err.Error(), "\n"); failed > 0 {
				t.Errorf("%d objects failed:\n%v", failed+1, err)
			}
			for _, part := range test.says {
				if !strings.Contains(rowErr.Error(), part) {
					t.Errorf("the error is %q, which does not say %q", rowErr, part)
				}
			}
			if len(rowErr.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(rowErr.Error()))
			}
			db.t = t
			db.want("499/499", `SELECT (SELECT count(*) FROM dgm.dgm_archive WHERE namespace = $1) || '/' || (SELECT count(*) FROM dgm.improvement_workspaces WHERE namespace = $1)`,
				fmt.Sprint("case-", n))
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			must(t, s.Ready())
		})
	}
}

// Policies as well, and the arm is named.
func TestP3_BadArmIsNamed(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s := testContext(t), startReady(t, testConfig(url))
	for n, test := range []struct {
		name  string
		spoil func(*BanditArm)
		says  []string
	}{
		{"epsilon in words", func(a *BanditArm) { a.Epsilon = "much" }, []string{"epsilon", "arm-7"}},
		{"alpha beyond numeric", func(a *BanditArm) { a.Alpha = "1e999999" }, []string{"alpha", "arm-7"}},
		{"beta infinite", func(a *BanditArm) { a.Beta = "Infinity" }, []string{"beta", "arm-7"}},
		{"safety NaN", func(a *BanditArm) { a.SafetyThreshold = "NaN" }, []string{"safety_threshold"}},
		{"risk above 1", func(a *BanditArm) { a.RiskTolerance = "1.5" }, []string{"risk_tolerance"}},
		{"risk far above 1", func(a *BanditArm) { a.RiskTolerance = "1e30" }, []string{"risk_tolerance", "arm-7"}},
		{"state no JSON", func(a *BanditArm) { a.AlgorithmState = json.RawMessage("{") }, []string{"algorithm_state", "arm-7"}},
		{"exploration beyond numeric", func(a *BanditArm) { a.ExplorationData = json.RawMessage(`1e999999`) }, []string{"exploration_data", "arm-7"}},
		{"unknown algorithm", func(a *BanditArm) { a.AlgorithmType = "UCB1" }, []string{"algorithm_type"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var arms []string
			for arm := range 20 {
				arms = append(arms, fmt.Sprint("arm-", arm))
			}
			bad, good := policy(2*n, arms...), policy(2*n+1, arms...)
			test.spoil(&bad.Arms[7])
			answers := make(chan error, 2)
			go func() { answers <- s.MirrorPolicy(ctx, bad) }()
			go func() { answers <- s.MirrorPolicy(ctx, good) }()
			err := errors.Join(<-answers, <-answers)
			var rowErr *RowError
			if !errors.As(err, &rowErr) {
				t.Fatalf("the answer is %v, want a RowError", err)
			}
			for _, part := range test.says {
				if !strings.Contains(rowErr.Error(), part) {
					t.Errorf("the error is %q, which does not say %q", rowErr, part)
				}
			}
			db := openDatabase(t, url)
			db.want("0", "SELECT count(*) FROM dgm.bandit_states WHERE uid = $1", bad.UID)
			db.want("20", "SELECT count(*) FROM dgm.bandit_states WHERE uid = $1", good.UID)
		})
	}
}

// A batch in which every object is bad answers each of them, in a time that
// grows with their number only.
func TestP3_AllOf500AreBad(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	c := testConfig(url)
	c.BatchDelay = 50 * time.Millisecond
	ctx, s := testContext(t), startReady(t, c)
	err := mirrorAll(ctx, s.Store, 500, func(i *Improvement) { i.Metadata = json.RawMessage(`[1e999999]`) })
	if failed := strings.Count(err.Error(), "column metadata"); failed != 500 {
		t.Errorf("%d of 500 objects were told which field: %.300v", failed, err)
	}
	must(t, s.Ready())
	must(t, s.MirrorImprovement(ctx, improvement(1)))
}

// Whatever a string holds, it is stored as text and comes back as it was.
func TestSQLAndOddTextInEveryString(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	for n, text := range []string{
		`'); DROP TABLE dgm.dgm_archive CASCADE; --`, `$$; DELETE FROM dgm.dgm_archive; $$`, `"; COPY x FROM PROGRAM 'id' --`, `{"a",NULL,\"}`, `\x00`, `%s %n ${HOME} $1`,
		"\u202eright to left\u202c", "zero\u200bwidth\u200d\ufeff", "e\u0301 is not \u00e9", "\U000e0041 tag", "\ufffe\uffff", "a\x00b", "\xff\xc0\x80", "␛0", strings.Repeat("👩‍👩‍👧", 1000),
	} {
		i := improvement(n)
		i.Namespace, i.Name, i.UID, i.Description, i.CreatedBy, i.MaterialDigest = text, text, text+"u", text, text, text
		i.OutcomeReason, i.TargetService, i.ImprovementType, i.Priority, i.AssignedTo = text, text, text, text, text
		doc, err := json.Marshal(map[string]any{text: []string{text}})
		must(t, err)
		i.AlgorithmChanges, i.PerformanceBefore, i.PerformanceAfter, i.ComplianceDetails, i.RollbackData, i.Metadata = doc, doc, doc, doc, doc, doc
		i.SourceCode, i.Configuration, i.TestResults, i.ValidationResults, i.EnvironmentSnapshot, i.Dependencies, i.RollbackPlan, i.SafetyChecks, i.RiskAssessment = doc, doc, doc, doc, doc, doc, doc, doc, doc
		must(t, s.MirrorImprovement(ctx, i))
		for _, column := range []string{"a.namespace", "a.name", "a.description", "a.created_by", "a.material_digest", "a.outcome_reason", "w.namespace", "w.name", "w.description",
			"w.target_service", "w.improvement_type", "w.priority", "w.assigned_to"} {
			stored := db.text("SELECT "+column+" FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id) WHERE a.improvement_id = $1", i.ImprovementID)
			if Unescape(stored) != text {
				t.Errorf("%s holds %q, want %q", column, stored, text)
			}
		}
		db.want("15", `SELECT count(*) FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id),
			unnest(ARRAY[a.algorithm_changes, a.performance_before, a.performance_after, a.compliance_details, a.rollback_data, a.metadata, w.source_code, w.configuration,
				w.test_results, w.validation_results, w.environment_snapshot, w.dependencies, w.rollback_plan, w.safety_checks, w.risk_assessment]) doc
			WHERE a.improvement_id = $1 AND doc = a.metadata`, i.ImprovementID)
		p := policy(n, text)
		p.Namespace, p.Name, p.UID, p.Arms[0].ContextKey = text, text, text+"p", text
		must(t, s.MirrorPolicy(ctx, p))
		if stored := db.text("SELECT arm_id FROM dgm.bandit_states WHERE uid = $1", escapeText(p.UID)); Unescape(stored) != text {
			t.Errorf("arm_id holds %q, want %q", stored, text)
		}
		found, err := s.NewestAttempt(ctx, text, text)
		must(t, err)
		if found == nil || found.UID != text+"u" || found.MaterialDigest != text {
			t.Errorf("the newest attempt of %q = %+v", text, found)
		}
	}
}

// Documents of 1 MiB and of thousands of levels are stored, or refused by name.
func TestLargeAndDeepDocuments(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	for n, doc := range []json.RawMessage{
		nested(5_000), nested(9_900), json.RawMessage(`"` + strings.Repeat(`\u0000`, 1<<20/6) + `"`), json.RawMessage(`"` + strings.Repeat("␛", 1<<20/3) + `"`),
		json.RawMessage(`[` + strings.Repeat(`"\ud800",`, 1<<20/9) + `0]`), json.RawMessage(`[` + strings.Repeat(`0,`, 1<<19) + `0]`),
		json.RawMessage(`{"k":` + strings.Repeat("9", 100_000) + `}`),
	} {
		i := improvement(n)
		i.Configuration = doc
		must(t, s.MirrorImprovement(ctx, i))
		db.want("true", "SELECT configuration IS NOT NULL FROM dgm.improvement_workspaces WHERE improvement_id = $1", i.ImprovementID)
	}
	// Compared after a restart, all are recognised.
	before := db.text("SELECT sum(revision) FROM dgm.improvement_workspaces")
	again := startReady(t, testConfig(url))
	i := improvement(1)
	i.Configuration = nested(9_900)
	must(t, again.MirrorImprovement(ctx, i))
	db.want(before, "SELECT sum(revision) FROM dgm.improvement_workspaces")
}

// Sixty-four objects of 3 MiB fit no single message well: they go in several.
func TestManyLargeObjectsAtOnce(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	c := testConfig(url)
	c.BatchDelay = 50 * time.Millisecond
	ctx, s := testContext(t), startReady(t, c)
	doc := json.RawMessage(`"` + randomText(3<<20) + `"`)
	must(t, mirrorAll(ctx, s.Store, 64, func(i *Improvement) { i.Configuration = doc }))
	db := openDatabase(t, url)
	db.want("64", "SELECT count(*) FROM dgm.improvement_workspaces WHERE length(configuration #>> '{}') = $1", 3<<20)
	db.want("true", "SELECT count(DISTINCT xmin::text) > 4 FROM dgm.improvement_workspaces")
}

// Clocks that are years off are taken at their word.
func TestClockSkewIsStoredAsItIs(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	for n, at := range []time.Time{
		time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(1582, 10, 15, 0, 0, 0, 0, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC), time.Unix(0, 0).UTC(),
		time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), time.Date(2026, 3, 29, 2, 30, 0, 0, time.FixedZone("odd", 14*3600+1)),
	} {
		i := improvement(n)
		i.Timestamp, i.CompletedAt = at, &at
		must(t, s.MirrorImprovement(ctx, i))
		found, err := s.NewestAttempt(ctx, i.Namespace, i.Name)
		must(t, err)
		if !found.Timestamp.Equal(at.Truncate(time.Microsecond)) || !found.CompletedAt.Equal(at.Truncate(time.Microsecond)) {
			t.Errorf("%v came back as %v and %v", at, found.Timestamp, found.CompletedAt)
		}
	}
	// A time by hand that no calendar has does not keep others from being found.
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status, "timestamp", cluster, namespace, name)
		VALUES (gen_random_uuid(), 'd', 'pending', 'infinity', 'test', 'shop', 'endless'), (gen_random_uuid(), 'd', 'pending', '4713-01-01 BC', 'test', 'shop', 'ancient'),
			(gen_random_uuid(), 'd', 'pending', '294276-12-31', 'test', 'shop', 'far')`)
	for _, name := range []string{"endless", "ancient", "far", improvement(0).Name} {
		found, err := s.NewestAttempt(ctx, "shop", name)
		if err != nil || found == nil {
			t.Errorf("NewestAttempt of %s = %+v, %v", name, found, err)
		}
	}
}

// Escaping takes time in proportion to the length: 8 MiB of what must be escaped
// would take hours otherwise.
func TestEscapingIsLinear(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	began := time.Now()
	for _, unit := range []string{"\x00", "\xff", "␛", "a"} {
		text := strings.Repeat(unit, size/len(unit))
		if got := Unescape(escapeText(text)); got != text {
			t.Errorf("%q repeated came back otherwise", unit)
		}
	}
	for _, unit := range []string{`\u0000`, `\ud800`, `\ud83d\ude42`, `\\`, "␛", `\u241b`} {
		escapeJSON([]byte(`"` + strings.Repeat(unit, size/len(unit)) + `"`))
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	} else {
		t.Logf("it took %v", took)
	}
}
