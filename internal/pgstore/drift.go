// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

//go:embed liveschema.sql
var liveSchemaSQL string

// expectedSchemaText is what liveSchemaSQL yields after all migrations, as lines
// of object, tab, definition.
//
//go:embed schema.txt
var expectedSchemaText string

// driftInterval is how often the leader looks for drift.
const driftInterval = 10 * time.Minute

// SchemaDrift is how the live schema differs from the one that this binary's
// migrations make.
type SchemaDrift struct {
	// CheckedAt is when it was looked at; zero means not yet.
	CheckedAt time.Time
	// NotJudged says why nothing is said, when migrations are pending or the
	// database has those of a newer operator.
	NotJudged string
	// Differences are objects that are missing or not as they were made.
	Differences []SchemaDifference
	// Extra are objects that no migration made, such as indexes of one's own;
	// they are no drift.
	Extra []string
}

// SchemaDifference is one object that is not as the migrations made it.
type SchemaDifference struct {
	// Object is kind and name: "index dgm.idx_workspaces_status_created".
	Object string
	// Expected and Actual are definitions; Actual is empty when it is missing.
	Expected, Actual string
	// Missing tells an object that is not there from one with an empty definition.
	Missing bool
	// Mend is SQL that puts the object back, or words for a person that begin
	// with "--".
	Mend string
}

// Drifted reports whether anything is missing or changed.
func (d SchemaDrift) Drifted() bool { return len(d.Differences) > 0 }

// Summary is one line for a condition: the same words as long as the drift is
// the same; empty when there is none.
func (d SchemaDrift) Summary() string {
	if !d.Drifted() {
		return ""
	}
	const shown = 5
	said := make([]string, 0, shown)
	for _, difference := range d.Differences[:min(shown, len(d.Differences))] {
		said = append(said, difference.what())
	}
	if more := len(d.Differences) - shown; more > 0 {
		said = append(said, fmt.Sprintf("and %d more", more))
	}
	return "the live schema is not what the migrations made: " + strings.Join(said, "; ") + " (`manager migrate status` says how to mend it)"
}

func (d SchemaDifference) what() string {
	if d.Missing {
		return d.Object + " is missing"
	}
	return d.Object + " was changed"
}

// schemaObject is one line of a schema.
type schemaObject struct{ object, definition string }

func parseSchema(text string) []schemaObject {
	var out []schemaObject
	for line := range strings.Lines(text) {
		object, definition, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		out = append(out, schemaObject{object, definition})
	}
	return out
}

// diffSchema compares two schemas, in the order of what is expected.
func diffSchema(expected, live []schemaObject) (differences []SchemaDifference, extra []string) {
	actual := make(map[string]string, len(live))
	for _, o := range live {
		actual[o.object] = o.definition
	}
	for _, want := range expected {
		definition, found := actual[want.object]
		if !found || definition != want.definition {
			differences = append(differences, SchemaDifference{Object: want.object, Expected: want.definition, Actual: definition, Missing: !found})
		}
		delete(actual, want.object)
	}
	for _, o := range live {
		if _, left := actual[o.object]; left {
			extra = append(extra, o.object)
		}
	}
	return differences, extra
}

// readDrift compares the live schema with that of files. It only reads.
func readDrift(ctx context.Context, db *sql.DB, files []migrationFile) (SchemaDrift, error) {
	drift := SchemaDrift{CheckedAt: time.Now()}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return drift, fmt.Errorf("read the live schema: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	applied, err := readApplied(ctx, tx)
	if err != nil {
		return drift, err
	}
	if drift.NotJudged = notJudged(applied, files); drift.NotJudged != "" {
		return drift, nil
	}
	live, err := liveSchema(ctx, tx)
	if err != nil {
		return drift, fmt.Errorf("read the live schema: %w", err)
	}
	drift.Differences, drift.Extra = diffSchema(parseSchema(expectedSchemaText), live)
	for i := range drift.Differences {
		drift.Differences[i].Mend = mend(drift.Differences[i], files)
	}
	return drift, nil
}

// notJudged is why a schema with these migrations cannot be compared with that
// of files; empty when it can.
func notJudged(applied map[int64]appliedMigration, files []migrationFile) string {
	known := 0
	for _, f := range files {
		if _, found := applied[f.Version]; !found {
			return fmt.Sprintf("migration %s is pending", f.Name)
		}
		known++
	}
	if newer := sortedByVersion(applied); len(newer) > known {
		return fmt.Sprintf("the schema is newer than this operator: it has %s", newer[len(newer)-1].name)
	}
	return ""
}

func liveSchema(ctx context.Context, tx *sql.Tx) ([]schemaObject, error) {
	// Definitions leave out what is on the search path.
	if _, err := tx.ExecContext(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, liveSchemaSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err is checked
	var out []schemaObject
	for rows.Next() {
		var o schemaObject
		if err := rows.Scan(&o.object, &o.definition); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

// Drift compares the live schema with what the migrations make. It changes nothing.
func (m *Migrator) Drift(ctx context.Context) (SchemaDrift, error) {
	return readDrift(ctx, m.db, m.files)
}

// SchemaDrift is the drift that this leader last found. CheckedAt is zero while
// this replica has not looked.
func (s *Store) SchemaDrift() SchemaDrift {
	if found := s.drift.Load(); found != nil {
		return *found
	}
	return SchemaDrift{}
}

// lookForDrift is the leader's chore.
func (s *session) lookForDrift(ctx context.Context) error {
	files, err := embeddedMigrationFiles()
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(s.pool)
	defer db.Close() //nolint:errcheck // the pool stays
	found, err := readDrift(ctx, db, files)
	if err != nil {
		return err
	}
	before := s.store.SchemaDrift()
	if found.Summary() != before.Summary() {
		s.store.config.Log.Info("Schema drift", "drifted", found.Drifted(), "summary", found.Summary())
	}
	s.store.drift.Store(&found)
	if found.Summary() != before.Summary() || before.CheckedAt.IsZero() {
		s.store.configurationMayHaveChanged(nil) // their objects say how the schema is
	}
	return nil
}
