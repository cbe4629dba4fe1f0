// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// configurations is a database with the whole schema, seen by another service.
func configurations(t testing.TB) *observer {
	t.Helper()
	return openDatabase(t, migratedDatabase(t))
}

// tryExec runs one statement, or several, as they stand.
func (d *observer) tryExec(sql string) error {
	_, err := d.conn.Exec(testContext(d.t), sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// breaks fails the test unless a statement is refused by the named rule, in
// words that hold every part.
func (d *observer) breaks(rule, sql string, parts ...string) {
	d.t.Helper()
	err := d.tryExec(sql)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "23514" || pgErr.ConstraintName != rule {
		d.t.Errorf("%s: %v, want a check violation by %s", cutForTest(sql), err, rule)
		return
	}
	for _, part := range parts {
		if !strings.Contains(pgErr.Message, part) {
			d.t.Errorf("%s: %q does not say %q", cutForTest(sql), pgErr.Message, part)
		}
	}
}

func cutForTest(s string) string { return s[:min(len(s), 200)] }

// builtin makes settings as a migration does.
func (d *observer) builtin() {
	d.t.Helper()
	must(d.t, d.tryExec(`BEGIN; SET LOCAL dgm.migration = 'on';
		DELETE FROM dgm.system_configurations;
		INSERT INTO dgm.system_configurations (key, value, value_type, validation_rules, default_value, is_builtin, is_readonly) VALUES
			('attempts', '10', 'integer', '{"min": 1, "max": 1000}', '10', true, false),
			('share', '0.1', 'float', '{"min": 0, "max": 1}', '0.1', true, false),
			('hash', 'cdd01ef066bc6cf2', 'string', NULL, 'cdd01ef066bc6cf2', true, true);
		UPDATE dgm.known_constitutions SET configuration_rules = '{"share": {"max": 0.5}, "level": {"enum": ["low", "high"]}}' WHERE active;
		COMMIT`))
}

func TestConfigurationTypes(t *testing.T) {
	t.Parallel()
	db := configurations(t)
	for valueType, values := range map[string]struct{ good, bad []string }{
		"integer": {
			[]string{"0", "-3", "007", "9223372036854775807", "-9223372036854775808"},
			[]string{"", " 5", "5 ", "+5", "1.0", "1e3", "9223372036854775808", "-9223372036854775809", strings.Repeat("9", 5000), "NaN", "five", "5'; DROP TABLE dgm.dgm_archive; --"},
		},
		"float": {
			[]string{"0", "-0.5", "1e-3", ".5", "5.", "1.7e308", "0.30000000000000000004"},
			[]string{"", "NaN", "Infinity", "-inf", "1e309", "1e-400", "1,5", "0x10", strings.Repeat("1", 5000)},
		},
		"boolean": {[]string{"true", "false"}, []string{"", "TRUE", "yes", "1", "t", " true"}},
		"json": {
			[]string{"null", "{}", "[1, 2.50]", `"x"`, `{"a": "\u00e9"}`},
			[]string{"", "{", "{'a': 1}", `"\u0000"`, `"\ud800"`, strings.Repeat("[", 100_000), "01"},
		},
		"string": {
			[]string{"", "any", "çök ␛ 🙂", strings.Repeat("x", 1<<20), "'; DROP TABLE dgm.dgm_archive; --", "line\nbreak"},
			[]string{strings.Repeat("x", 1<<20+1)},
		},
	} {
		const insert = "INSERT INTO dgm.system_configurations (key, value, value_type) VALUES ('k', $1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value, value_type = excluded.value_type"
		for _, value := range values.good {
			if _, err := db.conn.Exec(testContext(t), insert, value, valueType); err != nil {
				t.Errorf("%s %q: %v", valueType, cutForTest(value), err)
			}
			db.want("true", "SELECT value = $1 FROM dgm.system_configurations WHERE key = 'k'", value)
		}
		for _, value := range values.bad {
			_, err := db.conn.Exec(testContext(t), insert, value, valueType)
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.ConstraintName != "configuration_type" || !strings.Contains(pgErr.Message, `configuration "k": the value "`) || len(pgErr.Message) > 600 {
				t.Errorf("%s %q: %v, want a refusal by configuration_type that names key and value", valueType, cutForTest(value), err)
			}
		}
	}
	if err := db.tryExec("INSERT INTO dgm.system_configurations (key, value) VALUES ('nul', E'a\\u0000b')"); err == nil || !strings.Contains(err.Error(), "Unicode escape value") {
		t.Errorf("U+0000: %v", err)
	}
}

func TestConfigurationRules(t *testing.T) {
	t.Parallel()
	db := configurations(t)
	set := func(valueType, rules, value string) string {
		return "INSERT INTO dgm.system_configurations (key, value_type, validation_rules, value) VALUES ('k', '" + valueType + "', '" + rules + "', '" + value + `')
			ON CONFLICT (key) DO UPDATE SET value_type = excluded.value_type, validation_rules = excluded.validation_rules, value = excluded.value`
	}
	for _, c := range []struct{ valueType, rules, good, bad, says string }{
		{"integer", `{"min": 1, "max": 10}`, "10", "11", "is more than max 10"},
		{"integer", `{"min": 1}`, "1", "0", "is less than min 1"},
		{"float", `{"min": 0.5}`, "0.5", "0.49999999999999999999", "is less than min 0.5"},
		{"string", `{"enum": ["low", "high"]}`, "low", "Low", `is none of enum ["low", "high"]`},
		{"integer", `{"enum": [1, 2]}`, "02", "3", "is none of enum [1, 2]"},
		{"json", `{"enum": [{"a": 1}]}`, `{"a":1.0}`, `{"a":2}`, "is none of enum"},
		{"string", `{"pattern": "^[a-z]+$"}`, "abc", "ab1", `does not match the pattern "^[a-z]+$"`},
		{"string", `{"pattern": "^\\\\1\\d$"}`, `\12`, "12", "does not match"},
		{"string", `{"maxLength": 2}`, "çö", "abc", "has 3 characters, more than maxLength 2"},
	} {
		must(t, db.tryExec(set(c.valueType, c.rules, c.good)))
		db.breaks("configuration_rules", set(c.valueType, c.rules, c.bad), `configuration "k": the value `, c.says, "by its rules")
		db.breaks("configuration_rules", "UPDATE dgm.system_configurations SET value = '"+c.bad+"' WHERE key = 'k'", c.says)
		db.want(c.good, "SELECT value FROM dgm.system_configurations WHERE key = 'k'")
	}
	for rules, says := range map[string]string{
		`[]`:                       "must be an object",
		`null`:                     "must be an object",
		`{"minimum": 1}`:           `have "minimum"`,
		`{"min": "1"}`:             "need a number",
		`{"min": 2, "max": 1}`:     "min of 2 above the max of 1",
		`{"enum": []}`:             "at least one value",
		`{"enum": "a"}`:            "need a list",
		`{"pattern": "("}`:         "no regular expression",
		`{"pattern": 1}`:           "need a string",
		`{"pattern": "(a*)\\1"}`:   "back reference",
		`{"maxLength": -1}`:        "whole number",
		`{"maxLength": 1.5}`:       "whole number",
		`{"min": 1, "pattern": 1}`: "need a string",
	} {
		db.breaks("configuration_rules", set("integer", rules, "1"), says)
		db.breaks("configuration_rules", `UPDATE dgm.known_constitutions SET configuration_rules = jsonb_build_object('k', '`+rules+`'::jsonb)`, says, "cdd01ef066bc6cf2", `"k"`)
	}
	db.breaks("configuration_rules", set("string", `{"min": 1}`, "x"), "only the types integer and float")
	db.breaks("configuration_rules", `UPDATE dgm.known_constitutions SET configuration_rules = '[]'`, "must be an object")
}

func TestConfigurationObeysTheActiveConstitution(t *testing.T) {
	t.Parallel()
	db := configurations(t)
	db.builtin()
	db.exec("INSERT INTO dgm.known_constitutions (hash, version) VALUES ('aaaaaaaaaaaaaaaa', '2')")
	db.breaks("configuration_constitution", "UPDATE dgm.system_configurations SET value = '0.6' WHERE key = 'share'",
		`configuration "share"`, `the value "0.6" is more than max 0.5`, "by the constitution cdd01ef066bc6cf2")
	db.exec("UPDATE dgm.system_configurations SET value = '0.5' WHERE key = 'share'")
	db.breaks("configuration_constitution", "INSERT INTO dgm.system_configurations (key, value) VALUES ('level', 'middle')", "enum")
	db.exec("INSERT INTO dgm.system_configurations (key, value) VALUES ('level', 'low')")

	// P7: nobody judges, so nothing changes.
	db.exec("UPDATE dgm.known_constitutions SET active = false")
	db.breaks("configuration_constitution", "UPDATE dgm.system_configurations SET value = '0.4' WHERE key = 'share'", "no constitution is active", "make one active")
	db.breaks("configuration_constitution", "INSERT INTO dgm.system_configurations (key, value, constitutional_hash) VALUES ('new', 'x', 'aaaaaaaaaaaaaaaa')", "no constitution is active")
	db.exec("UPDATE dgm.known_constitutions SET active = true WHERE hash = 'aaaaaaaaaaaaaaaa'")
	db.exec("UPDATE dgm.system_configurations SET value = '0.9', constitutional_hash = 'cdd01ef066bc6cf2' WHERE key = 'share'")
	db.want("aaaaaaaaaaaaaaaa", "SELECT constitutional_hash FROM dgm.system_configurations WHERE key = 'share'")
	db.exec("UPDATE dgm.system_configurations SET description = 'not judged', constitutional_hash = 'aaaaaaaaaaaaaaaa' WHERE key = 'level'")
	db.want("cdd01ef066bc6cf2", "SELECT constitutional_hash FROM dgm.system_configurations WHERE key = 'level'")
	// What it holds now is worth nothing under the first constitution any more.
	db.exec("UPDATE dgm.known_constitutions SET active = false")
	db.exec("UPDATE dgm.known_constitutions SET active = true WHERE hash = 'cdd01ef066bc6cf2'")
	db.want("configuration_constitution", "SELECT (dgm.configuration_problem(key, value, value_type, validation_rules)).kind FROM dgm.system_configurations WHERE key = 'share'")
	db.exec("UPDATE dgm.system_configurations SET description = 'may be said all the same' WHERE key = 'share'")
}

func TestConfigurationBuiltInAndReadOnly(t *testing.T) {
	t.Parallel()
	db := configurations(t)
	db.builtin()
	where := func(set, key string) string {
		return "UPDATE dgm.system_configurations SET " + set + " WHERE key = '" + key + "'"
	}
	for _, set := range []string{"value_type = 'string'", "validation_rules = NULL", "validation_rules = '{}'", "is_sensitive = true, value = NULL, default_value = NULL",
		"is_readonly = true", "default_value = '11'", "is_builtin = false"} {
		db.breaks("configuration_builtin", where(set, "attempts"), `configuration "attempts"`, "by a migration")
	}
	db.breaks("configuration_builtin", where("key = 'other'", "attempts"), "insert a row with the new key")
	db.breaks("configuration_builtin", where("deleted_at = now()", "attempts"), `set its value to its default, "10"`)
	db.breaks("configuration_builtin", where("value = NULL", "attempts"), `set its default, "10"`)
	db.breaks("configuration_builtin", "DELETE FROM dgm.system_configurations WHERE key = 'attempts'", `set its value to its default, "10"`)
	db.breaks("configuration_builtin", "TRUNCATE dgm.system_configurations", "not truncated")
	db.breaks("configuration_builtin", "INSERT INTO dgm.system_configurations (key, is_builtin) VALUES ('mine', true)", "is_builtin = false")
	db.breaks("configuration_readonly", where("value = 'aaaaaaaaaaaaaaaa'", "hash"), `configuration "hash"`, "only a migration")
	must(t, db.tryExec(where("value = '20', description = 'mine', category = 'c', metadata = '{}'", "attempts")))
	must(t, db.tryExec("INSERT INTO dgm.system_configurations (key, value) VALUES ('attempts', '30') ON CONFLICT (key) DO UPDATE SET value = excluded.value"))
	db.want("30", "SELECT value FROM dgm.system_configurations WHERE key = 'attempts'")

	db.exec("INSERT INTO dgm.system_configurations (key, value, is_readonly) VALUES ('fixed', 'x', true), ('mine', 'x', false)")
	for _, set := range []string{"value = 'y'", "is_readonly = false", "value_type = 'json'", "deleted_at = now()", "validation_rules = '{}'", "value = NULL, is_sensitive = true"} {
		db.breaks("configuration_readonly", where(set, "fixed"), "only a migration")
	}
	db.breaks("configuration_readonly", "DELETE FROM dgm.system_configurations WHERE key = 'fixed'", "only a migration")
	must(t, db.tryExec("DELETE FROM dgm.system_configurations WHERE key = 'mine'"))
	must(t, db.tryExec("BEGIN; SET LOCAL dgm.migration = 'on'; "+where("value = 'aaaaaaaaaaaaaaaa'", "hash")+"; COMMIT"))
	db.breaks("configuration_readonly", where("value = 'x'", "hash"))

	// The switch alone is not enough: the role must be one that migrates.
	must(t, db.tryExec(`BEGIN; CREATE ROLE configuration_other_service; GRANT USAGE ON SCHEMA dgm TO configuration_other_service;
		GRANT SELECT, INSERT, UPDATE, DELETE ON dgm.system_configurations, dgm.known_constitutions TO configuration_other_service;
		SET LOCAL ROLE configuration_other_service; SET LOCAL dgm.migration = 'on'; SAVEPOINT begun`))
	db.breaks("configuration_readonly", where("value = 'x'", "hash"))
	must(t, db.tryExec("ROLLBACK TO begun; "+where("value = '31'", "attempts")+"; SAVEPOINT begun"))
	db.breaks("configuration_builtin", "DELETE FROM dgm.system_configurations WHERE key = 'attempts'")
	must(t, db.tryExec("ROLLBACK"))
	// Triggers of replication do not let it pass either.
	must(t, db.tryExec("SET session_replication_role = replica"))
	db.breaks("configuration_readonly", where("value = 'x'", "hash"))
	db.breaks("configuration_builtin", "DELETE FROM dgm.system_configurations WHERE key = 'attempts'")
	db.breaks("configuration_rules", where("value = '0'", "attempts"))
}

func TestConfigurationSensitive(t *testing.T) {
	t.Parallel()
	db := configurations(t)
	const secret = "hunter2-very-secret"
	db.exec("INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ('token', true, '\\x00', '1')")
	db.exec("INSERT INTO dgm.system_configurations (key, value) VALUES ('plain', '" + secret + "')")
	for _, sql := range []string{
		"INSERT INTO dgm.system_configurations (key, value, is_sensitive) VALUES ('other', '" + secret + "', true)",
		"INSERT INTO dgm.system_configurations (key, value, is_sensitive, value_type) VALUES ('other', '" + secret + "', true, 'no type')",
		"INSERT INTO dgm.system_configurations (key, default_value, is_sensitive) VALUES ('other', '" + secret + "', true)",
		"INSERT INTO dgm.system_configurations (key, value) VALUES ('token', '" + secret + "') ON CONFLICT (key) DO UPDATE SET value = excluded.value",
		"UPDATE dgm.system_configurations SET value = '" + secret + "' WHERE key = 'token'",
		"UPDATE dgm.system_configurations SET value = '" + secret + "', is_sensitive = false WHERE key = 'token'",
		"UPDATE dgm.system_configurations SET is_sensitive = true WHERE key = 'plain'",
		"UPDATE dgm.system_configurations SET is_sensitive = true, value = NULL, default_value = value WHERE key = 'plain'",
	} {
		db.breaks("configuration_sensitive", sql, "sensitive")
		if err := db.tryExec(sql); err == nil || strings.Contains(errorText(err), secret) {
			t.Errorf("%s: the error holds the value: %s", sql, errorText(err))
		}
	}
	db.breaks("configuration_sensitive", "UPDATE dgm.system_configurations SET value = 'x' WHERE key = 'token'", "SystemConfiguration", "spec.secretKeyRef")
	db.breaks("configuration_sensitive", "UPDATE dgm.system_configurations SET is_sensitive = false, encrypted_value = NULL, key_id = NULL WHERE key = 'token'", "delete it first")
	db.breaks("system_configurations_encrypted", "UPDATE dgm.system_configurations SET key_id = NULL WHERE key = 'token'")
	db.breaks("system_configurations_encrypted", "UPDATE dgm.system_configurations SET encrypted_value = '\\x00', key_id = '1' WHERE key = 'plain'")
	must(t, db.tryExec("UPDATE dgm.system_configurations SET is_sensitive = true, value = NULL WHERE key = 'plain'"))
	// Deleted, it may come back as what it likes.
	must(t, db.tryExec("UPDATE dgm.system_configurations SET deleted_at = now(), encrypted_value = NULL, key_id = NULL WHERE key = 'token'"))
	must(t, db.tryExec("UPDATE dgm.system_configurations SET deleted_at = NULL, is_sensitive = false, value = 'x' WHERE key = 'token'"))
	must(t, db.tryExec("UPDATE dgm.system_configurations SET deleted_at = now() WHERE key = 'token'"))
	db.breaks("configuration_deleted", "UPDATE dgm.system_configurations SET value = 'y' WHERE key = 'token'", "set deleted_at = NULL")
}

// errorText is all that an error of the database says.
func errorText(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return strings.Join([]string{pgErr.Message, pgErr.Detail, pgErr.Hint, pgErr.Where, pgErr.InternalQuery}, "\n")
	}
	return err.Error()
}

// What stood there before the rules did stays until it is changed.
func TestConfigurationRowsOfBeforeTheRules(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	before := migrationsWith(t, nil)
	for name := range before {
		if name >= "00006" {
			delete(before, name)
		}
	}
	_, err := openMigrator(t, url, before).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	db.exec(`INSERT INTO dgm.system_configurations (key, value, value_type, validation_rules, is_sensitive, is_readonly) VALUES
		('old-number', 'many', 'integer', NULL, false, false), ('old-rules', 'x', 'string', '{"regex": "y"}', false, false),
		('old-secret', 'legacy-plain', 'string', NULL, true, false), ('old-fixed', 'x', 'integer', '[]', false, true)`)
	const rows = `SELECT string_agg(concat_ws(' ', key, value, value_type, validation_rules, is_sensitive, is_readonly, updated_at), ', ' ORDER BY key) FROM dgm.system_configurations WHERE key LIKE 'old%'`
	was := db.text(rows)
	_, err = openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db.want(was, rows)
	must(t, db.tryExec("UPDATE dgm.system_configurations SET description = 'said' WHERE key IN ('old-number', 'old-rules', 'old-fixed')"))
	db.breaks("configuration_type", "UPDATE dgm.system_configurations SET value = 'more' WHERE key = 'old-number'")
	db.breaks("configuration_rules", "UPDATE dgm.system_configurations SET value = 'z' WHERE key = 'old-rules'", `"regex"`)
	must(t, db.tryExec("UPDATE dgm.system_configurations SET value = 'y', validation_rules = '{\"pattern\": \"y\"}' WHERE key = 'old-rules'"))
	if err := db.tryExec("UPDATE dgm.system_configurations SET description = 'said' WHERE key = 'old-secret'"); err == nil || strings.Contains(errorText(err), "legacy-plain") {
		t.Errorf("an edit of a sensitive row with a plain value: %v", err)
	}
}
