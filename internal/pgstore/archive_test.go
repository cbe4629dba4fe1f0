// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

const restrictViolation = "23001"

// refused runs statements that the database must refuse with a code, and
// returns its last word.
func (d *observer) refused(code, sql string) *pgconn.PgError {
	d.t.Helper()
	_, err := d.conn.PgConn().Exec(testContext(d.t), sql).ReadAll()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		d.t.Errorf("%s: %v, want it refused with %s", sql, err, code)
		return &pgconn.PgError{}
	}
	return pgErr
}

func TestP11_EndedAttemptsAreFinal(t *testing.T) {
	t.Parallel()
	for _, status := range []string{lifecycle.ArchiveCompleted, lifecycle.ArchiveFailed, lifecycle.ArchiveRolledBack} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			url := newTestDatabase(t)
			s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
			i := improvement(1)
			i.ArchiveStatus = status
			must(t, s.MirrorImprovement(ctx, i))
			const everything = "SELECT string_agg(a::text, '|') FROM dgm.dgm_archive a"
			before := db.text(everything)
			for column, value := range map[string]string{
				"status": "'running'", "id": "gen_random_uuid()", "improvement_id": "gen_random_uuid()", "attempt": "2", "description": "'better'",
				"performance_after": `'{"gain": 9}'`, "metadata": "NULL", "outcome_reason": "'Won'", "created_by": "'mallory'", "name": "'other'",
				"constitutional_compliance_score": "1", "rollback_data": "'{}'", "created_at": "'2020-01-01'", `"timestamp"`: "'2020-01-01'",
				"content_digest": `'\x00'`, "material_digest": "'x'", "cluster": "'other'",
			} {
				for _, role := range []string{"origin", "replica"} {
					err := db.refused(restrictViolation, fmt.Sprintf("SET session_replication_role = %s; UPDATE dgm.dgm_archive SET %s = %s", role, column, value))
					if !strings.Contains(err.Message, strings.Trim(column, `"`)) || !strings.Contains(err.Message, i.ImprovementID.String()) {
						t.Errorf("%s: the error says %q, which does not name the column and the improvement", column, err.Message)
					}
				}
			}
			db.refused(restrictViolation, "DELETE FROM dgm.dgm_archive")
			db.refused(restrictViolation, "TRUNCATE dgm.dgm_archive CASCADE")
			db.refused(restrictViolation, "SET session_replication_role = replica; TRUNCATE dgm.dgm_archive CASCADE")
			db.exec("RESET session_replication_role")
			db.want(before, everything)

			// What follows the object, and a write that changes nothing.
			db.exec("UPDATE dgm.dgm_archive SET uid = 'other', generation = 7, deleted_at = now(), revision = revision + 1")
			db.exec("UPDATE dgm.dgm_archive SET status = status, description = description, metadata = metadata")
			i.UID, i.Generation = "again", 9
			must(t, s.MirrorImprovement(ctx, i))
			db.want("again 9 true", "SELECT uid || ' ' || generation || ' ' || (deleted_at IS NULL) FROM dgm.dgm_archive")
			must(t, s.Tombstone(ctx, KindImprovementWorkspace, i.Namespace, i.Name, ""))
			db.want("true", "SELECT deleted_at IS NOT NULL FROM dgm.dgm_archive")
		})
	}
}

func TestP11_OnlyCompletedBecomesRolledBack(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	i := improvement(1)
	i.ArchiveStatus = lifecycle.ArchiveCompleted
	must(t, s.MirrorImprovement(ctx, i))
	before := db.text("SELECT to_jsonb(a) - ARRAY['status', 'outcome_reason', 'metadata', 'rollback_data', 'content_digest', 'revision', 'updated_at'] FROM dgm.dgm_archive a")
	i.ArchiveStatus, i.OutcomeReason = lifecycle.ArchiveRolledBack, "RolledBackByHand"
	i.Metadata, i.RollbackData = []byte(`{"phase":"RolledBack"}`), []byte(`{"diff":"-60 +5"}`)
	must(t, s.MirrorImprovement(ctx, i))
	db.want(`rolled_back RolledBackByHand {"phase": "RolledBack"} {"diff": "-60 +5"}`,
		"SELECT concat_ws(' ', status, outcome_reason, metadata, rollback_data) FROM dgm.dgm_archive")
	db.want(before, "SELECT to_jsonb(a) - ARRAY['status', 'outcome_reason', 'metadata', 'rollback_data', 'content_digest', 'revision', 'updated_at'] FROM dgm.dgm_archive a")

	// Of another service: no object, and so no digest.
	db.exec("INSERT INTO dgm.dgm_archive (improvement_id, description, status) VALUES (gen_random_uuid(), 'by hand', 'running')")
	db.exec("UPDATE dgm.dgm_archive SET status = 'completed' WHERE cluster IS NULL")
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET status = 'rolled_back', attempt = 2 WHERE cluster IS NULL")
	db.exec("UPDATE dgm.dgm_archive SET status = 'rolled_back', outcome_reason = 'Regression' WHERE cluster IS NULL")
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET status = 'completed' WHERE cluster IS NULL")
}

// An outcome by hand could never be put right again, so it is refused.
func TestP11_AMirroredAttemptIsEndedByItsObjectAlone(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	i := improvement(1)
	i.ArchiveStatus = lifecycle.ArchiveRunning
	must(t, s.MirrorImprovement(ctx, i))
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET status = 'completed'")
	i.ArchiveStatus = lifecycle.ArchiveCompleted
	must(t, s.MirrorImprovement(ctx, i))
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET status = 'rolled_back'")
	unfinished := improvement(2)
	must(t, s.MirrorImprovement(ctx, unfinished))
	must(t, s.Tombstone(ctx, KindImprovementWorkspace, unfinished.Namespace, unfinished.Name, ""))
	db.want("completed, failed", "SELECT string_agg(status, ', ' ORDER BY status) FROM dgm.dgm_archive")
}

// Who can switch triggers off can forge a row; then it fails alone and says so.
func TestP11_ForgedRowFailsAloneInItsBatch(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	ended := func(i *Improvement) { i.ArchiveStatus = lifecycle.ArchiveCompleted }
	must(t, mirrorAll(ctx, s.Store, 100, ended))
	db.exec("ALTER TABLE dgm.dgm_archive DISABLE TRIGGER protect_row")
	db.exec("UPDATE dgm.dgm_archive SET description = 'forged' WHERE name = 'improvement-00042'")
	db.exec("ALTER TABLE dgm.dgm_archive ENABLE ALWAYS TRIGGER protect_row")
	s.ForgetAllSynced()
	err := mirrorAll(ctx, s.Store, 100, func(i *Improvement) {
		ended(i)
		i.Generation = 2
	})
	var rowErr *RowError
	if !errors.As(err, &rowErr) || rowErr.Table != "dgm_archive" || !strings.Contains(rowErr.Message, "changing description is refused") {
		t.Errorf("mirroring over a forged row = %v, want a RowError that says what is refused", err)
	}
	db.want("99", "SELECT count(*) FROM dgm.dgm_archive WHERE generation = 2 AND description <> 'forged'")
	db.want("forged", "SELECT description FROM dgm.dgm_archive WHERE generation = 1")
}

func TestP4_RowsNeverGoBackWhoeverWrites(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	db.exec("UPDATE dgm.dgm_archive SET writer_epoch = writer_epoch + 50, revision = 9")
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET revision = 8")
	db.refused(restrictViolation, "UPDATE dgm.dgm_archive SET writer_epoch = writer_epoch - 1, revision = 100")
	db.exec("UPDATE dgm.dgm_archive SET writer_epoch = writer_epoch + 1, revision = 1")
	db.refused("23514", "UPDATE dgm.dgm_archive SET attempt = 2147483647")
}

func TestP1_SnapshotsAreRemovedByTheirPurgeAlone(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	for n := range 2 {
		_, err := s.SaveSnapshot(ctx, improvement(n), fmt.Appendf(nil, "before %d", n))
		must(t, err)
	}
	const role = "not_the_owner"
	db.exec("CREATE ROLE " + role)
	db.exec("GRANT USAGE ON SCHEMA dgm TO " + role)
	db.exec("GRANT ALL ON dgm.rollback_snapshots TO " + role)
	for _, prefix := range []string{"", "SET ROLE " + role + "; ", "SET ROLE " + role + "; SET dgm.purging = 'on'; "} {
		db.refused(restrictViolation, prefix+"DELETE FROM dgm.rollback_snapshots")
		db.refused(restrictViolation, prefix+"UPDATE dgm.rollback_snapshots SET bytes = ''")
		db.refused(restrictViolation, prefix+"TRUNCATE dgm.rollback_snapshots")
		db.exec("RESET ROLE")
	}
	db.refused(restrictViolation, "SET dgm.purging = 'on'; UPDATE dgm.rollback_snapshots SET sha256 = repeat('0', 64), bytes = ''")
	db.refused(restrictViolation, "SET dgm.purging = 'on'; UPDATE dgm.rollback_snapshots SET bytes = 'x'")
	db.refused(restrictViolation, "SET dgm.purging = 'on'; TRUNCATE dgm.rollback_snapshots")
	db.exec("SET ROLE dgm_owner")
	db.exec("SET dgm.purging = 'on'")
	db.exec("UPDATE dgm.rollback_snapshots SET bytes = '' WHERE improvement_id = $1", improvement(0).ImprovementID)
	db.exec("DELETE FROM dgm.rollback_snapshots WHERE improvement_id = $1", improvement(1).ImprovementID)
	db.want("1 0", "SELECT count(*) || ' ' || sum(length(bytes)) FROM dgm.rollback_snapshots")
}
