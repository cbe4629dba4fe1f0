// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/settings"
)

// populationSQL is what migration 10 runs.
func populationSQL(t testing.TB) string {
	t.Helper()
	files, err := embeddedMigrationFiles()
	must(t, err)
	for _, f := range files {
		if f.Version == 10 {
			return f.Up
		}
	}
	t.Fatal("there is no migration 10")
	return ""
}

// everyRow is all that the populated tables hold, with the transactions that wrote it.
const everyRow = `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
	SELECT xmin::text || t::text AS line FROM dgm.system_configurations t UNION ALL SELECT xmin::text || t::text FROM dgm.known_constitutions t
	UNION ALL SELECT xmin::text || t::text FROM dgm.bandit_states t UNION ALL SELECT tableoid::text || t::text FROM dgm.performance_metrics t
	UNION ALL SELECT xmin::text || t::text FROM dgm.constitutional_compliance_logs t) every`

func TestPopulationIsWhatWasPromised(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	want := map[string]string{
		"constitutional_hash": "cdd01ef066bc6cf2 string readonly", "constitutional_version": "1.0 string readonly", "max_improvement_attempts": "10 integer",
		"safety_threshold": "0.8 float", "constitutional_compliance_threshold": "0.8 float", "bandit_exploration_rate": "0.1 float",
		"conservative_bandit_enabled": "true boolean", "max_concurrent_improvements": "3 integer", "improvement_timeout_minutes": "30 integer",
		"rollback_retention_days": "30 integer", "metrics_aggregation_enabled": "true boolean", "metrics_retention_days": "90 integer",
		"workspace_cleanup_enabled": "true boolean", "workspace_retention_hours": "72 integer",
		"risk_limit": "High string", "freeze": "false boolean",
	}
	for key, row := range want {
		db.want(row, `SELECT concat_ws(' ', value, value_type, CASE WHEN is_readonly THEN 'readonly' END) FROM dgm.system_configurations
			WHERE key = $1 AND is_builtin AND default_value = value AND category <> '' AND description <> '' AND NOT is_sensitive
				AND (validation_rules IS NOT NULL) = (value_type <> 'boolean')`, key)
	}
	db.want(fmt.Sprint(len(want)), "SELECT count(*) FROM dgm.system_configurations")
	db.want("5", "SELECT count(DISTINCT algorithm_type) FROM dgm.bandit_states WHERE context_key = 'default' AND cluster IS NULL")
	db.want("4", `SELECT count(*) FROM dgm.performance_metrics WHERE metadata @> '{"baseline": true}' AND service_name = 'system'`)
	db.want("2", `SELECT count(*) FROM dgm.constitutional_compliance_logs WHERE evidence @> '{"baseline": true}' AND compliance_level = 'compliant'`)
	for _, refused := range []string{
		"UPDATE dgm.system_configurations SET value = '0.79' WHERE key = 'constitutional_compliance_threshold'",
		"UPDATE dgm.system_configurations SET value = '0.49' WHERE key = 'safety_threshold'",
		"UPDATE dgm.system_configurations SET value = '0.51' WHERE key = 'bandit_exploration_rate'",
		"UPDATE dgm.system_configurations SET value = '0123456789abcdef' WHERE key = 'constitutional_hash'",
		"UPDATE dgm.system_configurations SET value = '1001' WHERE key = 'max_improvement_attempts'",
	} {
		db.refused("23514", refused)
	}
}

// The operator's own defaults and ranges are those of the rows.
func TestPopulationIsWhatTheOperatorAssumes(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	rows, err := db.conn.Query(testContext(t), `SELECT key, value, coalesce(validation_rules ->> 'min', ''), coalesce(validation_rules ->> 'max', '')
		FROM dgm.system_configurations WHERE key = ANY ($1)`, settings.Keys())
	must(t, err)
	type limits struct{ Key, Value, Low, High string }
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[limits])
	must(t, err)
	if len(found) != len(settings.Keys()) {
		t.Errorf("%d of the keys %q have a row", len(found), settings.Keys())
	}
	values := map[string]string{}
	for _, f := range found {
		values[f.Key] = f.Value
		if f.Low == "" {
			continue
		}
		for value, usable := range map[string]bool{f.Low: true, f.High: true, f.High + "0": false, "-1": false} {
			if _, problems := settings.Apply(settings.Default(), map[string]string{f.Key: value}); usable != (len(problems) == 0) {
				t.Errorf("%s = %s: the operator says %v, the row's rules allow it: %t", f.Key, value, problems, usable)
			}
		}
	}
	if applied, problems := settings.Apply(settings.Settings{}, values); len(problems) > 0 || applied != settings.Default() {
		t.Errorf("the rows make %+v (%v), the operator assumes %+v", applied, problems, settings.Default())
	}
}

func TestPopulationTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	_, db := newSchema(t)
	db.exec("UPDATE dgm.system_configurations SET value = '7' WHERE key = 'max_improvement_attempts'")
	db.exec("UPDATE dgm.bandit_states SET total_pulls = 3 WHERE algorithm_type = 'ucb1'")
	db.exec(`UPDATE dgm.known_constitutions SET configuration_rules = '{"safety_threshold": {"min": 0.6}, "constitutional_compliance_threshold": {"min": 0.8}, "bandit_exploration_rate": {"max": 0.5}}'`)
	before := db.text(everyRow)
	for range 2 {
		_, err := db.conn.PgConn().Exec(testContext(t), "BEGIN; "+populationSQL(t)+"; COMMIT").ReadAll()
		must(t, err)
	}
	db.want(before, everyRow)
}

func TestPopulationKeepsWhatSomebodyHasSet(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	dir := migrationsWith(t, nil)
	for name := range dir {
		if name >= "00010" {
			delete(dir, name)
		}
	}
	_, err := openMigrator(t, url, dir).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.exec("INSERT INTO dgm.system_configurations (key, value, description) VALUES ('max_improvement_attempts', '5000', 'mine'), ('safety_threshold', NULL, NULL), ('of_my_own', 'x', 'y')")
	db.exec("INSERT INTO dgm.system_configurations (key, value, deleted_at) VALUES ('metrics_retention_days', '7', now())")
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ('rollback_retention_days', true, '\x01', 'k')`)
	// As it was before values were encrypted.
	db.exec("ALTER TABLE dgm.system_configurations DISABLE TRIGGER check_value")
	db.exec("ALTER TABLE dgm.system_configurations DROP CONSTRAINT system_configurations_sensitive")
	db.exec("INSERT INTO dgm.system_configurations (key, value, is_sensitive) VALUES ('workspace_retention_hours', '24', true)")
	db.exec("ALTER TABLE dgm.system_configurations ADD CONSTRAINT system_configurations_sensitive CHECK (NOT is_sensitive OR (value IS NULL AND default_value IS NULL)) NOT VALID")
	db.exec("ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_value")
	db.exec("INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls) VALUES ('ucb1', 'default', 'baseline', 12)")
	_, err = openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db.want(strings.Join([]string{
		"max_improvement_attempts=5000 integer 10 mine t", "metrics_retention_days=90 integer 90 t", "of_my_own=x string y f",
		"rollback_retention_days= integer t", "safety_threshold=0.8 float 0.8 t", "workspace_retention_hours=24 integer 72 t",
	}, "\n"), `SELECT string_agg(concat_ws(' ', key || '=' || coalesce(value, ''), value_type, default_value, CASE WHEN description IN ('mine', 'y') THEN description END, is_builtin), E'\n' ORDER BY key)
		FROM dgm.system_configurations WHERE key IN ('max_improvement_attempts', 'safety_threshold', 'of_my_own', 'metrics_retention_days', 'rollback_retention_days', 'workspace_retention_hours')`)
	db.want(`\x01`, "SELECT encrypted_value FROM dgm.system_configurations WHERE key = 'rollback_retention_days' AND is_sensitive AND deleted_at IS NULL")
	db.want("12", "SELECT total_pulls FROM dgm.bandit_states WHERE algorithm_type = 'ucb1' AND context_key = 'default'")
}
