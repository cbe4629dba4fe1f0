// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// schema.txt is what the binary expects; UPDATE_GOLDEN=1 writes it anew.
func TestContractOfTheWholeSchema(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	m := openMigrator(t, url, migrationsWith(t, nil))
	_, err := m.Up(testContext(t))
	must(t, err)
	tx, err := m.db.BeginTx(testContext(t), nil)
	must(t, err)
	defer tx.Rollback() //nolint:errcheck // it only reads
	live, err := liveSchema(testContext(t), tx)
	must(t, err)
	var got strings.Builder
	for _, o := range live {
		fmt.Fprintf(&got, "%s\t%s\n", o.object, o.definition)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile("schema.txt", []byte(got.String()), 0o600))
		return
	}
	if diff := cmp.Diff(strings.Split(expectedSchemaText, "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("the schema differs from schema.txt (-want +got); UPDATE_GOLDEN=1 go test ./internal/pgstore -run Contract writes it anew:\n%s", diff)
	}
}

func newSchema(t testing.TB) (*Migrator, *observer) {
	t.Helper()
	url := newTestDatabase(t)
	m := openMigrator(t, url, migrationsWith(t, nil))
	_, err := m.Up(testContext(t))
	must(t, err)
	return m, openDatabase(t, url)
}

func TestDriftIsFoundAndCanBeMended(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ damage, object, actual string }{
		"dropped index":                {"DROP INDEX dgm.idx_workspaces_status_created", "index dgm.idx_workspaces_status_created", ""},
		"other index":                  {"DROP INDEX dgm.idx_workspaces_status_created; CREATE INDEX idx_workspaces_status_created ON dgm.improvement_workspaces (status)", "index dgm.idx_workspaces_status_created", "(status)"},
		"invalid index":                {"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'dgm.dgm_archive_object'::regclass", "index dgm.dgm_archive_object", "INVALID"},
		"index without a part":         {"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'dgm.performance_metrics_improvement'::regclass", "index dgm.performance_metrics_improvement", "INVALID"},
		"dropped constraint":           {"ALTER TABLE dgm.dgm_archive DROP CONSTRAINT dgm_archive_status_check", "constraint dgm.dgm_archive.dgm_archive_status_check", ""},
		"dropped foreign key":          {"ALTER TABLE dgm.improvement_workspaces DROP CONSTRAINT improvement_workspaces_improvement_id_fkey", "constraint dgm.improvement_workspaces.improvement_workspaces_improvement_id_fkey", ""},
		"nullable column":              {"ALTER TABLE dgm.dgm_archive ALTER description DROP NOT NULL", "column dgm.dgm_archive.description", "text"},
		"other type":                   {"ALTER TABLE dgm.writer_fences ALTER holder TYPE varchar(80)", "column dgm.writer_fences.holder", "character varying(80) NOT NULL"},
		"dropped default":              {"ALTER TABLE dgm.dgm_archive ALTER constitutional_hash DROP DEFAULT", "column dgm.dgm_archive.constitutional_hash", "character varying(64) NOT NULL"},
		"dropped column":               {"ALTER TABLE dgm.writer_fences DROP COLUMN acquired_at", "column dgm.writer_fences.acquired_at", ""},
		"disabled trigger":             {"ALTER TABLE dgm.dgm_archive DISABLE TRIGGER protect_row", "trigger dgm.dgm_archive.protect_row", "DISABLED"},
		"trigger not always":           {"ALTER TABLE dgm.dgm_archive ENABLE TRIGGER refuse_delete", "trigger dgm.dgm_archive.refuse_delete", "dgm.refuse_archive_removal()"},
		"dropped trigger":              {"DROP TRIGGER refuse_update ON dgm.rollback_snapshots", "trigger dgm.rollback_snapshots.refuse_update", ""},
		"other function body":          {"CREATE OR REPLACE FUNCTION dgm.refuse_archive_removal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN OLD; END'", "function dgm.refuse_archive_removal()", "body"},
		"function of another's rights": {"ALTER FUNCTION dgm.refuse_archive_removal() SECURITY DEFINER", "function dgm.refuse_archive_removal()", "SECURITY DEFINER"},
		"row level security":           {"ALTER TABLE dgm.dgm_archive ENABLE ROW LEVEL SECURITY", "table dgm.dgm_archive", "row level security"},
		"no default partition":         {"ALTER TABLE dgm.performance_metrics DETACH PARTITION dgm.performance_metrics_default; ALTER TABLE dgm.performance_metrics_default SET SCHEMA public", "table dgm.performance_metrics", "without a default partition"},
		"unlogged table":               {"ALTER TABLE dgm.writer_fences SET UNLOGGED", "table dgm.writer_fences", "unlogged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, db := newSchema(t)
			ctx := testContext(t)
			_, err := db.conn.PgConn().Exec(ctx, test.damage).ReadAll()
			must(t, err)
			drift, err := m.Drift(ctx)
			must(t, err)
			if len(drift.Differences) != 1 || drift.Differences[0].Object != test.object || drift.Differences[0].Missing != (test.actual == "") ||
				!strings.Contains(drift.Differences[0].Actual, test.actual) || len(drift.Extra) != 0 {
				t.Fatalf("after %s the drift is %+v", test.damage, drift)
			}
			if !strings.Contains(drift.Summary(), test.object) {
				t.Errorf("the summary %q does not name %s", drift.Summary(), test.object)
			}
			mend := drift.Differences[0].Mend
			if strings.HasPrefix(mend, "--") {
				return // words for a person
			}
			_, err = db.conn.PgConn().Exec(ctx, mend).ReadAll()
			must(t, err)
			drift, err = m.Drift(ctx)
			must(t, err)
			if drift.Drifted() {
				t.Errorf("after %s the drift is %+v", mend, drift.Differences)
			}
		})
	}
}

func TestDriftLeavesAloneWhatIsOnesOwn(t *testing.T) {
	t.Parallel()
	m, db := newSchema(t)
	ctx := testContext(t)
	drift, err := m.Drift(ctx)
	must(t, err)
	if drift.Drifted() || len(drift.Extra) != 0 || drift.NotJudged != "" || drift.CheckedAt.IsZero() {
		t.Errorf("the drift of a new schema is %+v", drift)
	}
	for _, own := range []string{
		"SELECT dgm.ensure_metric_partitions(20, 20)",
		"CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA dgm",
		"CREATE INDEX of_my_own ON dgm.dgm_archive (created_by)",
		"CREATE VIEW dgm.my_view AS SELECT id FROM dgm.dgm_archive",
		"ALTER TABLE dgm.dgm_archive ADD CONSTRAINT my_rule CHECK (description <> 'x')",
		"GRANT SELECT ON ALL TABLES IN SCHEMA dgm TO pg_monitor",
		"CREATE PUBLICATION mine FOR TABLE dgm.dgm_archive",
	} {
		db.exec(own)
	}
	drift, err = m.Drift(ctx)
	must(t, err)
	want := []string{"column dgm.my_view.id", "constraint dgm.dgm_archive.my_rule", "index dgm.of_my_own", "view dgm.my_view"}
	if drift.Drifted() || !slices.Equal(drift.Extra, want) {
		t.Errorf("the drift is %+v, extra %q, want extra %q alone", drift.Differences, drift.Extra, want)
	}
}

func TestDriftIsNotJudgedAcrossVersions(t *testing.T) {
	t.Parallel()
	m, db := newSchema(t)
	ctx := testContext(t)
	_, err := m.Down(ctx)
	must(t, err)
	drift, err := m.Drift(ctx)
	must(t, err)
	if drift.Drifted() || !strings.Contains(drift.NotJudged, "is pending") {
		t.Errorf("with a migration pending the drift is %+v", drift)
	}
	_, err = m.Up(ctx)
	must(t, err)
	db.exec("INSERT INTO dgm.schema_migrations (version_id, is_applied, name, min_compatible_binary) VALUES (99999, true, '99999_new.sql', 5)")
	db.exec("DROP INDEX dgm.idx_workspaces_status_created")
	drift, err = m.Drift(ctx)
	must(t, err)
	if drift.Drifted() || !strings.Contains(drift.NotJudged, "newer than this operator: it has 99999_new.sql") {
		t.Errorf("with a newer schema the drift is %+v", drift)
	}
}

func TestDriftIsSeenByTheLeader(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	url := server.Database(t)
	if drift := New(testConfig(url)).SchemaDrift(); !drift.CheckedAt.IsZero() {
		t.Errorf("a store that never led says %+v", drift)
	}
	s := startReady(t, testConfig(url))
	eventually(t, "the leader has looked", func() error {
		if s.SchemaDrift().CheckedAt.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
	if drift := s.SchemaDrift(); drift.Drifted() || drift.NotJudged != "" {
		t.Errorf("the leader found %+v", drift)
	}
	openDatabase(t, url).exec("DROP INDEX dgm.idx_workspaces_status_created")
	must(t, s.session.Load().lookForDrift(testContext(t)))
	if drift := s.SchemaDrift(); len(drift.Differences) != 1 {
		t.Errorf("after an index was dropped the leader found %+v", drift)
	}
}
