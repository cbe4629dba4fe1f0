// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/pgtest"
)

func TestMirrorImprovementWritesBothRows(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)

	i := improvement(1)
	must(t, s.MirrorImprovement(ctx, i))
	db.want("pending|checkout|shop|cdd01ef066bc6cf2", `SELECT concat_ws('|', a.status, w.target_service, a.namespace, a.constitutional_hash)
		FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id) WHERE w.name = $1`, i.Name)

	i.ArchiveStatus, i.WorkspaceStatus, i.ComplianceScore = lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted, "0.999"
	must(t, s.MirrorImprovement(ctx, i))
	db.want("completed|completed|0.99|0.999", `SELECT concat_ws('|', a.status, w.status, a.constitutional_compliance_score, a.constitutional_compliance_score_exact)
		FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id)`)
}

func TestP11_TerminalArchiveRowIsFinal(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	const row = `SELECT concat_ws('|', status, description, uid) FROM dgm.dgm_archive`

	i := improvement(1)
	i.ArchiveStatus, i.Description = lifecycle.ArchiveCompleted, "first"
	must(t, s.MirrorImprovement(ctx, i))
	changed := i
	changed.Description, changed.ArchiveStatus = "second", lifecycle.ArchiveRunning
	must(t, s.MirrorImprovement(ctx, changed))
	db.want("completed|first|uid-00001", row)

	adopted := i
	adopted.UID = "uid-of-the-rebuilt-object"
	must(t, s.MirrorImprovement(ctx, adopted))
	db.want("completed|first|uid-of-the-rebuilt-object", row)

	rolledBack := adopted
	rolledBack.ArchiveStatus, rolledBack.OutcomeReason = lifecycle.ArchiveRolledBack, "Command"
	must(t, s.MirrorImprovement(ctx, rolledBack))
	db.want("rolled_back|first|uid-of-the-rebuilt-object", row)
	must(t, s.MirrorImprovement(ctx, i))
	db.want("rolled_back|first|uid-00001", row)
}

func TestMirrorPolicyKeepsWhatArmsEarned(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	const arms = `SELECT string_agg(concat_ws(':', arm_id, total_pulls, safety_threshold, CASE WHEN deleted_at IS NULL THEN 'live' ELSE 'gone' END), ' ' ORDER BY arm_id) FROM dgm.bandit_states WHERE cluster IS NOT NULL`

	must(t, s.MirrorPolicy(ctx, policy(1, "a", "b")))
	db.exec("UPDATE dgm.bandit_states SET total_pulls = 7, total_reward = 3.5 WHERE arm_id = 'a'")
	changed := policy(1, "a", "c")
	changed.Arms[0].SafetyThreshold = "0.859"
	must(t, s.MirrorPolicy(ctx, changed))
	db.want("a:7:0.85:live b:0:0.80:gone c:0:0.80:live", arms)
	must(t, s.MirrorPolicy(ctx, policy(1, "b")))
	db.want("a:7:0.85:gone b:0:0.80:live c:0:0.80:gone", arms)
}

func TestTombstonesAreIdempotentAndSpareTheNewObject(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	const row = `SELECT string_agg(concat_ws(':', a.status, coalesce(a.outcome_reason, ''), w.status, a.deleted_at IS NOT NULL, w.deleted_at IS NOT NULL), ' ' ORDER BY a.attempt)
		FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id)`

	done, running := improvement(1), improvement(2)
	done.ArchiveStatus, done.WorkspaceStatus = lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted
	running.Name, running.UID, running.Attempt, running.ArchiveStatus, running.WorkspaceStatus = done.Name, done.UID, 2, lifecycle.ArchiveRunning, lifecycle.WorkspaceValidating
	must(t, s.MirrorImprovement(ctx, done))
	must(t, s.MirrorImprovement(ctx, running))

	must(t, s.Tombstone(ctx, KindImprovementWorkspace, done.Namespace, done.Name, done.UID))
	db.want("completed::completed:f:f running::validating:f:f", row)
	must(t, s.Tombstone(ctx, KindImprovementWorkspace, done.Namespace, done.Name, ""))
	db.want("completed::completed:t:t failed:ObjectDeleted:failed:t:t", row)

	before := db.text("SELECT max(deleted_at) || '/' || max(revision) || '/' || max(xmin::text) FROM dgm.dgm_archive")
	must(t, s.Tombstone(ctx, KindImprovementWorkspace, done.Namespace, done.Name, ""))
	db.want(before, "SELECT max(deleted_at) || '/' || max(revision) || '/' || max(xmin::text) FROM dgm.dgm_archive")

	must(t, s.MirrorPolicy(ctx, policy(1, "a")))
	must(t, s.Tombstone(ctx, KindBanditPolicy, "shop", "policy-001", ""))
	db.want("true", "SELECT deleted_at IS NOT NULL FROM dgm.bandit_states WHERE cluster IS NOT NULL")
}

func TestNewestAttemptAndLiveObjects(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, ctx := startReady(t, testConfig(url)), testContext(t)

	first, second := improvement(1), improvement(2)
	second.Name, second.UID, second.Attempt, second.MaterialDigest = first.Name, first.UID, 2, "other"
	must(t, s.MirrorImprovement(ctx, second))
	must(t, s.MirrorImprovement(ctx, first))
	newest, err := s.NewestAttempt(ctx, first.Namespace, first.Name)
	must(t, err)
	if newest == nil || newest.ImprovementID != second.ImprovementID || newest.MaterialDigest != "other" || newest.HasSnapshot || newest.DeletedAt != nil {
		t.Errorf("newest attempt = %+v, want the second", newest)
	}
	none, err := s.NewestAttempt(ctx, "shop", "nothing")
	must(t, err)
	if none != nil {
		t.Errorf("newest attempt of nothing = %+v, want nil", none)
	}

	must(t, s.MirrorImprovement(ctx, improvement(3)))
	must(t, s.Tombstone(ctx, KindImprovementWorkspace, "shop", first.Name, ""))
	var live []string
	must(t, s.LiveObjects(ctx, KindImprovementWorkspace, func(o Object) error {
		live = append(live, o.Namespace+"/"+o.Name+"/"+o.UID)
		return nil
	}))
	if len(live) != 1 || live[0] != "shop/improvement-00003/uid-00003" {
		t.Errorf("live objects = %v", live)
	}
}

func TestOwnerOfTheDatabaseNeedsNoFurtherRights(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	admin := openDatabase(t, server.URL("postgres"))
	admin.exec("CREATE ROLE plain LOGIN PASSWORD 'plain' NOSUPERUSER NOCREATEDB NOCREATEROLE")
	admin.exec("CREATE DATABASE plain OWNER plain")
	config, err := pgx.ParseConfig(server.URL("plain"))
	must(t, err)
	s := startReady(t, testConfig(strings.Replace(config.ConnString(), pgtest.User+":"+config.Password, "plain:plain", 1)))
	ctx := testContext(t)
	must(t, s.MirrorPolicy(ctx, policy(1, "a")))
	_, err = s.SaveSnapshot(ctx, improvement(1), []byte("before"))
	must(t, err)
	openDatabase(t, server.URL("plain")).want("plain", "SELECT tableowner FROM pg_tables WHERE schemaname = 'dgm' AND tablename = 'dgm_archive'")
}

func TestStoreBeforeLeadingSaysUnavailable(t *testing.T) {
	t.Parallel()
	s := New(testConfig("postgres://nobody:secret@127.0.0.1:1/none"))
	if err := s.MirrorImprovement(testContext(t), improvement(1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("MirrorImprovement = %v, want ErrUnavailable", err)
	}
	if err := s.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ready = %v, want ErrUnavailable", err)
	}
}

// What only improvement_workspaces says is mirrored too, with nothing else changed.
func TestP3_ChangeOfTheWorkspaceAloneIsMirrored(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	i := improvement(1)
	must(t, s.MirrorImprovement(ctx, i))
	i.WorkspaceStatus = lifecycle.WorkspaceActive
	i.TestResults = json.RawMessage(`{"passed":1}`)
	must(t, s.MirrorImprovement(ctx, i))
	db.want(lifecycle.WorkspaceActive+` {"passed": 1}`, "SELECT status || ' ' || test_results FROM dgm.improvement_workspaces")
}
