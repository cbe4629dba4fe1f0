// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"fmt"
	"strings"
)

// mend is SQL that puts the object back, or, where data or judgement is
// involved, words for a person that begin with "--".
func mend(d SchemaDifference, files []migrationFile) string {
	kind, name, _ := strings.Cut(d.Object, " ")
	table, child := splitChild(name)
	switch kind {
	case "index":
		return mendIndex(d, name)
	case "constraint":
		if d.Actual == d.Expected+" NOT VALID" {
			return fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s; -- once the rows that break it are mended", table, child)
		}
		return mendNamed(d, fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s;", table, child), fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s;", table, child, d.Expected))
	case "trigger":
		return mendTrigger(d, table, child)
	case "column":
		return mendColumn(d, table, child)
	case "function", "view":
		return mendFromMigration(kind, name, files)
	}
	return "-- compare it with the migrations, and restore what is missing from a backup"
}

// splitChild splits schema.table.child.
func splitChild(name string) (table, child string) {
	if at := strings.LastIndex(name, "."); at >= 0 {
		return name[:at], name[at+1:]
	}
	return name, ""
}

func mendIndex(d SchemaDifference, name string) string {
	sameButInvalid := strings.TrimSuffix(d.Actual, invalidMark) == d.Expected
	switch {
	case sameButInvalid && strings.Contains(d.Expected, " ON ONLY "):
		return "-- partitions lack their part of it: the leader and `manager migrate up` build those that dgm.unfinished_indexes() lists"
	case sameButInvalid:
		return "REINDEX INDEX CONCURRENTLY " + name + ";"
	}
	return mendNamed(d, "DROP INDEX "+name+";", d.Expected+";")
}

const invalidMark = " INVALID"

func mendNamed(d SchemaDifference, drop, create string) string {
	if d.Missing {
		return create
	}
	return drop + " " + create
}

// triggerModes are how a definition ends, and the words that make it so.
var triggerModes = []struct{ suffix, enable string }{
	{" ENABLE ALWAYS", "ENABLE ALWAYS"}, {" ENABLE REPLICA", "ENABLE REPLICA"}, {" DISABLED", "DISABLE"}, {"", "ENABLE"},
}

func mendTrigger(d SchemaDifference, table, name string) string {
	for _, mode := range triggerModes {
		definition, found := strings.CutSuffix(d.Expected, mode.suffix)
		if !found {
			continue
		}
		enable := fmt.Sprintf("ALTER TABLE %s %s TRIGGER %s;", table, mode.enable, name)
		if strings.HasPrefix(d.Actual, definition) {
			return enable
		}
		return mendNamed(d, fmt.Sprintf("DROP TRIGGER %s ON %s;", name, table), definition+"; "+enable)
	}
	return ""
}

// mendColumn mends what can be mended without rewriting values.
func mendColumn(d SchemaDifference, table, column string) string {
	alter := fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s ", table, column)
	want, was := parseColumn(d.Expected), parseColumn(d.Actual)
	switch {
	case d.Missing && (!want.notNull || want.defaultValue != ""):
		return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s; -- what it held is in a backup", table, column, d.Expected)
	case d.Missing || want.kind != was.kind:
		return fmt.Sprintf("-- bring %s back to %q by hand, and what it held from a backup", d.Object, d.Expected)
	}
	var statements []string
	if want.notNull && !was.notNull {
		statements = append(statements, alter+"SET NOT NULL;")
	}
	if !want.notNull && was.notNull {
		statements = append(statements, alter+"DROP NOT NULL;")
	}
	if want.defaultValue != was.defaultValue {
		change := "DROP DEFAULT;"
		if want.defaultValue != "" {
			change = "SET DEFAULT " + want.defaultValue + ";"
		}
		statements = append(statements, alter+change)
	}
	return strings.Join(statements, " ")
}

type columnDefinition struct {
	kind, defaultValue string
	notNull            bool
}

func parseColumn(definition string) columnDefinition {
	rest, defaultValue, _ := strings.Cut(definition, " DEFAULT ")
	kind, notNull := strings.CutSuffix(rest, " NOT NULL")
	if rest == "DEFAULT" {
		kind = ""
	}
	return columnDefinition{kind: kind, defaultValue: defaultValue, notNull: notNull}
}

// mendFromMigration names the newest file that makes the object.
func mendFromMigration(kind, name string, files []migrationFile) string {
	called, _, _ := strings.Cut(name, "(")
	for i := len(files) - 1; i >= 0; i-- {
		if strings.Contains(strings.ToLower(files[i].Up), strings.ToLower(kind+" "+called)) {
			return fmt.Sprintf("-- run the statement again that makes %s %s in migration %s (`CREATE OR REPLACE %s`)", kind, called, files[i].Name, strings.ToUpper(kind))
		}
	}
	return fmt.Sprintf("-- make %s %s again as its migration does", kind, called)
}
