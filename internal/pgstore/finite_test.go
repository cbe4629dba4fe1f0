// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// Every numeric column of every table refuses what is no number: it is set to NaN
// and to both infinities in a row that is there.
func TestNoNumberIsNaNOrInfinite(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	db := openDatabase(t, url)
	db.fill()
	db.exec("UPDATE dgm.dgm_archive SET constitutional_compliance_score_exact = 0.5 WHERE status = 'pending'")
	db.exec("INSERT INTO dgm.analytics_refreshes (view_name, refreshed_at, seconds) VALUES ('v', now(), 1) ON CONFLICT DO NOTHING")
	db.text("SELECT dgm.aggregate_metrics(1)")
	rows, err := db.conn.Query(testContext(t), `SELECT c.relname::text AS table, a.attname::text AS column FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
			AND a.atttypid IN ('numeric'::regtype, 'float8'::regtype, 'float4'::regtype) ORDER BY 1, 2`)
	must(t, err)
	type column struct{ Table, Column string }
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	must(t, err)
	if len(columns) < 20 {
		t.Fatalf("only %d numeric columns were found: %v", len(columns), columns)
	}
	for _, c := range columns {
		where := "true"
		if c.Table == "dgm_archive" {
			where = "status = 'pending'"
		}
		if db.text(fmt.Sprintf("SELECT count(*) FROM dgm.%s WHERE %s", c.Table, where)) == "0" {
			t.Errorf("no row of %s to try it with", c.Table)
		}
		for _, value := range []string{"NaN", "Infinity", "-Infinity"} {
			_, err := db.conn.Exec(testContext(t), fmt.Sprintf("UPDATE dgm.%s SET %s = '%s' WHERE %s", c.Table, c.Column, value, where))
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "23514" && pgErr.Code != "22003" { // numeric(3,2) holds no infinity
				t.Errorf("%s.%s = %s: %v, want it refused", c.Table, c.Column, value, err)
			}
		}
	}
}

// A row of before that is no number does not stop the upgrade: it is named, until
// it is mended.
func TestUpgradeWithNumbersThatAreNone(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	_, err := openMigrator(t, pgtest.MigrationURL(url), migrationsUpTo(t, 5)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.fill()
	db.exec("UPDATE dgm.bandit_states SET epsilon = 'NaN', confidence_bound = 'Infinity'")
	m := openMigrator(t, pgtest.MigrationURL(url), migrationsWith(t, nil))
	_, err = m.Up(testContext(t))
	must(t, err)
	db.want("NaN Infinity", "SELECT epsilon || ' ' || confidence_bound FROM dgm.bandit_states WHERE context_key = 'c/ns/p/default'")
	if said := strings.Join(m.Notices(), "\n"); !strings.Contains(said, "ALTER TABLE dgm.bandit_states VALIDATE CONSTRAINT bandit_states_epsilon_finite") {
		t.Errorf("the notices are %q", said)
	}
	drift, err := m.Drift(testContext(t))
	must(t, err)
	if len(drift.Differences) != 2 {
		t.Fatalf("the drift is %+v, want the two constraints", drift.Differences)
	}
	db.exec("UPDATE dgm.bandit_states SET epsilon = NULL, confidence_bound = NULL WHERE epsilon = 'NaN'")
	for _, d := range drift.Differences {
		must(t, db.tryExec(d.Mend))
	}
	drift, err = m.Drift(testContext(t))
	must(t, err)
	if drift.Drifted() {
		t.Errorf("after it was mended the schema differs: %+v", drift.Differences)
	}
}

// Sensitive decimals are judged here as the database judges plain ones.
func TestSensitiveDecimalsAreJudgedAsPlainOnes(t *testing.T) {
	t.Parallel()
	s, _, _ := configurationStore(t)
	for value, good := range map[string]bool{
		"0.5": true, "-0": true, "0e-999": true, "1e-320": true, "0." + strings.Repeat("3", 398): true, "1e308": true,
		"1e400": false, "1e-400": false, "-1E-400": false, "1e99999999999": false, "NaN": false, "Infinity": false, "0x1p4": false,
		strings.Repeat("1", 390): false, strings.Repeat("1", 401): false, "0." + strings.Repeat("3", 100_000): false, "": false,
	} {
		for _, secret := range []bool{false, true} {
			c := configuration(fmt.Sprintf("decimal_%t", secret), value)
			c.Sensitive, c.ValueType = secret, "float"
			_, err := s.ApplyConfiguration(testContext(t), c)
			var row *RowError
			switch {
			case good && err != nil:
				t.Errorf("%s, sensitive %t: %v", cutForTest(value), secret, err)
			case !good && (!errors.As(err, &row) || len(err.Error()) > 800):
				t.Errorf("%s, sensitive %t: %v, want it refused", cutForTest(value), secret, err)
			case !good && secret && len(value) > 3 && strings.Contains(err.Error(), value):
				t.Errorf("the refusal shows the sensitive value: %v", err)
			}
		}
	}
}
