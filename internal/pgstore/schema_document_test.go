// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// docs/schema.md shows the schema as the migrations make it. UPDATE_GOLDEN=1
// writes it anew.
func TestContractSchemaDocument(t *testing.T) {
	t.Parallel()
	db := migrated(t, newTestDatabase(t))
	got := renderSchema(t, db.conn)
	const golden = "../../docs/schema.md"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(golden, []byte(got), 0o644)) //nolint:gosec // a document for everybody
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the schema differs from %s (-want +got): run UPDATE_GOLDEN=1 go test ./internal/pgstore -run Contract\n%s", golden, diff)
	}
}

// looseReferences are those without a foreign key whose column has not the name
// of what it refers to.
var looseReferences = []reference{
	{Parent: "dgm_archive", Child: "dgm_archive", Columns: "parent_improvement_id"},
	{Parent: "bandit_states", Child: "bandit_decisions", Columns: "context_key, arm_id"},
}

type schemaColumn struct {
	Relation, Name, Type, Default, Comment string
	Required, Primary, Unique              bool
}

type schemaRelation struct{ Kind, Name, Comment string }

// reference is from columns of a child to a parent. Enforced: by a foreign key.
type reference struct {
	Parent, Child, Columns string
	Required, One          bool
	Enforced               bool
}

func collect[T any](t *testing.T, conn *pgx.Conn, sql string) []T {
	t.Helper()
	rows, err := conn.Query(context.Background(), sql)
	must(t, err)
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	must(t, err)
	return out
}

const relationsSQL = `SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END, c.relname::text, COALESCE(obj_description(c.oid, 'pg_class'), '')
	FROM pg_class c WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
	ORDER BY c.relname COLLATE "C"`

const columnsSQL = `SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), COALESCE(pg_get_expr(d.adbin, d.adrelid), ''),
		COALESCE(col_description(c.oid, a.attnum), ''), a.attnotnull,
		EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
		EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary AND i.indpred IS NULL AND a.attnum = ANY (i.indkey))
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
	WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
	ORDER BY c.relname COLLATE "C", a.attnum`

const referencesSQL = `SELECT p.relname::text, c.relname::text,
		(SELECT string_agg(a.attname, ', ' ORDER BY k.n) FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum),
		(SELECT bool_and(a.attnotnull) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (f.conkey)),
		EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indkey::text = array_to_string(f.conkey, ' ')), true
	FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_class p ON p.oid = f.confrelid
	WHERE f.connamespace = 'dgm'::regnamespace AND f.contype = 'f' AND f.conparentid = 0
	ORDER BY p.relname COLLATE "C", c.relname COLLATE "C", f.conname COLLATE "C"`

const functionsSQL = `SELECT CASE WHEN p.prosecdef THEN 'owner' ELSE 'caller' END, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)), COALESCE(obj_description(p.oid, 'pg_proc'), '')
	FROM pg_proc p
	WHERE p.pronamespace = 'dgm'::regnamespace AND p.prorettype <> 'trigger'::regtype
	  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
	ORDER BY p.proname COLLATE "C", p.oid`

func renderSchema(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	relations := collect[schemaRelation](t, conn, relationsSQL)
	columns := collect[schemaColumn](t, conn, columnsSQL)
	references := withLoose(t, collect[reference](t, conn, referencesSQL), relations, columns)
	var b strings.Builder
	b.WriteString(`# Schema dgm

<!-- Written by UPDATE_GOLDEN=1 go test ./internal/pgstore -run Contract. Do not edit. -->

Made from a database with every migration applied. Solid lines are foreign keys. Dotted ones are references that no key enforces: what they
name may be missing, or may come later. Only the columns that take part are in the picture; partitions are left out.

` + "```mermaid\nerDiagram\n")
	for _, r := range references {
		fmt.Fprintf(&b, "    %s\n", r.mermaid())
	}
	for _, r := range relations {
		if r.Kind == "table" {
			renderEntity(&b, r.Name, columns, references)
		}
	}
	b.WriteString("```\n")
	for _, kind := range []string{"table", "materialized view", "view"} {
		for _, r := range relations {
			if r.Kind == kind {
				renderRelation(&b, r, columns)
			}
		}
	}
	b.WriteString("\n## Functions\n\n| function | runs with the rights of its | what it does |\n|---|---|---|\n")
	for _, f := range collect[schemaRelation](t, conn, functionsSQL) {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name, f.Kind, cell(f.Comment))
	}
	return b.String()
}

// withLoose adds the references that no key enforces: columns that are named as
// those of another table's foreign key, and looseReferences.
func withLoose(t *testing.T, enforced []reference, relations []schemaRelation, columns []schemaColumn) []reference {
	t.Helper()
	parents := map[string]string{}
	references := slices.Clone(enforced)
	for _, r := range enforced {
		parents[r.Columns] = r.Parent
	}
	tables := map[string]bool{}
	for _, r := range relations {
		tables[r.Name] = r.Kind == "table"
	}
	for _, c := range columns {
		parent, found := parents[c.Name]
		isEnforced := slices.ContainsFunc(enforced, func(r reference) bool { return r.Child == c.Relation && r.Columns == c.Name })
		if found && tables[c.Relation] && parent != c.Relation && !isEnforced {
			references = append(references, reference{Parent: parent, Child: c.Relation, Columns: c.Name, Required: c.Required})
		}
	}
	for _, r := range looseReferences {
		for name := range strings.SplitSeq(r.Columns, ", ") {
			if !slices.ContainsFunc(columns, func(c schemaColumn) bool { return c.Relation == r.Child && c.Name == name }) || !tables[r.Parent] {
				t.Errorf("looseReferences names %s.%s and %s, which do not all exist", r.Child, name, r.Parent)
			}
		}
		references = append(references, r)
	}
	return references
}

func (r reference) mermaid() string {
	parent, line, child := "|o", "..", "o{"
	if r.Required {
		parent = "||"
	}
	if r.Enforced {
		line = "--"
	}
	if r.One {
		child = "o|"
	}
	return fmt.Sprintf("%s %s%s%s %s : %q", r.Parent, parent, line, child, r.Child, r.Columns)
}

var shortTypes = strings.NewReplacer("timestamp with time zone", "timestamptz", "character varying", "varchar")

var typeParameters = regexp.MustCompile(`\(.*\)`)

func renderEntity(b *strings.Builder, table string, columns []schemaColumn, references []reference) {
	fmt.Fprintf(b, "    %s {\n", table)
	for _, c := range columns {
		if c.Relation != table {
			continue
		}
		var keys []string
		if c.Primary {
			keys = append(keys, "PK")
		}
		for _, r := range references {
			if r.Enforced && r.Child == table && slices.Contains(strings.Split(r.Columns, ", "), c.Name) {
				keys = append(keys, "FK")
			}
		}
		if c.Unique {
			keys = append(keys, "UK")
		}
		loose := slices.ContainsFunc(references, func(r reference) bool {
			return !r.Enforced && r.Child == table && slices.Contains(strings.Split(r.Columns, ", "), c.Name)
		})
		note := ""
		if loose {
			note = ` "no foreign key"`
		}
		if len(keys) > 0 || loose {
			kind := strings.ReplaceAll(typeParameters.ReplaceAllString(shortTypes.Replace(c.Type), ""), " ", "_")
			fmt.Fprintf(b, "        %s\n", strings.Join(strings.Fields(fmt.Sprintf("%s %s %s%s", kind, c.Name, strings.Join(keys, ","), note)), " "))
		}
	}
	b.WriteString("    }\n")
}

func renderRelation(b *strings.Builder, r schemaRelation, columns []schemaColumn) {
	fmt.Fprintf(b, "\n## %s (%s)\n\n%s\n\n| column | type | meaning |\n|---|---|---|\n", r.Name, r.Kind, r.Comment)
	for _, c := range columns {
		if c.Relation != r.Name {
			continue
		}
		kind := shortTypes.Replace(c.Type)
		if c.Required {
			kind += " not null"
		}
		if c.Default != "" {
			kind += " = " + c.Default
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", c.Name, kind, cell(c.Comment))
	}
}

func cell(comment string) string { return strings.ReplaceAll(comment, "|", `\|`) }
