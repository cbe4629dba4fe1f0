// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The schema is a contract with other services: testdata/contract.txt changes
// only by additions. UPDATE_GOLDEN=1 writes it anew.
func TestContractOfTablesAndIndexes(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	got := db.text(`SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") || E'\n' FROM (
		SELECT format('%s.%s %s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' not null' ELSE '' END) AS line
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL
		SELECT regexp_replace(indexdef, '^CREATE (UNIQUE )?INDEX (\S+) ON (ONLY )?', 'index \2 \1on ') FROM pg_indexes WHERE schemaname = 'dgm'
			AND tablename !~ '_[0-9]{6}$|_default$'
		UNION ALL
		SELECT format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
		WHERE connamespace = 'dgm'::regnamespace AND contype IN ('c', 'f') AND conparentid = 0 AND conrelid::regclass::text !~ '_[0-9]{6}$|_default$'
	) lines`)
	const golden = "testdata/contract.txt"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(golden, []byte(got), 0o600))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the schema differs from %s (-want +got):\n%s", golden, diff)
	}
}

func TestContractNames(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	db := openDatabase(t, url)
	for _, table := range []string{"dgm_archive", "performance_metrics", "constitutional_compliance_logs", "bandit_states", "bandit_decisions",
		"improvement_workspaces", "system_configurations"} {
		db.want("11", `SELECT count(*) FROM pg_attribute WHERE attrelid = ('dgm.' || $1::text)::regclass
			AND attname IN ('id', 'constitutional_hash', 'created_at', 'cluster', 'namespace', 'name', 'uid', 'generation', 'writer_epoch', 'revision', 'deleted_at')`, table)
	}
	for index, definition := range map[string]string{
		"idx_dgm_archive_status_timestamp":  `(status, "timestamp" DESC)`,
		"idx_performance_metrics_composite": `(service_name, metric_type, "timestamp" DESC)`,
		"idx_compliance_logs_service_level": "(service_name, compliance_level, assessed_at DESC)",
		"idx_bandit_states_context_arm":     "(context_key, arm_id, last_updated DESC)",
		"idx_workspaces_status_created":     "(status, created_at DESC)",
	} {
		db.want("true", "SELECT indexdef LIKE '%' || $2::text FROM pg_indexes WHERE schemaname = 'dgm' AND indexname = $1", index, definition)
	}
	db.want("0", `SELECT count(*) FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
		AND (obj_description(c.oid) IS NULL OR col_description(c.oid, a.attnum) IS NULL)`)
}

func TestContractDefaultsAndChecks(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	_, err := openMigrator(t, url, migrationsWith(t, nil)).Up(testContext(t))
	must(t, err)
	ctx, db := testContext(t), openDatabase(t, url)
	// What another service sends, with no column of the operator's own.
	db.exec(`INSERT INTO dgm.dgm_archive (improvement_id, description, status) VALUES ('00000000-0000-0000-0000-000000000001', 'by hand', 'pending')`)
	db.want("cdd01ef066bc6cf2", "SELECT constitutional_hash FROM dgm.dgm_archive")
	db.exec(`INSERT INTO dgm.metric_rollups (metric_name, metric_type, time_window, window_start, window_end, count, sum, avg, p95)
		VALUES ('m', 'latency', '1m', '2026-07-01', '2026-07-01 00:01', 3, 6, 2, 3)`)
	db.want("avg=2 count=3 p95=3 sum=6", "SELECT string_agg(aggregation_type || '=' || value, ' ' ORDER BY aggregation_type) FROM dgm.metric_aggregations")
	for _, refused := range []string{
		`UPDATE dgm.dgm_archive SET status = 'done'`,
		`UPDATE dgm.dgm_archive SET constitutional_compliance_score = 1.01`,
		`UPDATE dgm.dgm_archive SET constitutional_compliance_score = 'NaN'`,
		`UPDATE dgm.dgm_archive SET constitutional_hash = '0123456789abcdef'`,
		`UPDATE dgm.dgm_archive SET description = NULL`,
		`INSERT INTO dgm.improvement_workspaces (improvement_id, name, status) VALUES (gen_random_uuid(), 'no archive row', 'created')`,
		`INSERT INTO dgm.improvement_workspaces (improvement_id, name, status) VALUES ('00000000-0000-0000-0000-000000000001', 'n', 'Created')`,
		`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('m', 'latency', 'service', 'NaN')`,
		`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('m', 'latency', 'service', 'Infinity')`,
		`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('m', 'speed', 'service', 1)`,
		`INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id) VALUES ('UCB1', 'c', 'a')`,
		`INSERT INTO dgm.system_configurations (key, value_type) VALUES ('k', 'text')`,
		`INSERT INTO dgm.constitutional_compliance_logs (operation_type, compliance_level, status, assessment_method) VALUES ('o', 'fine', 'completed', 'manual')`,
	} {
		if _, err := db.conn.Exec(ctx, refused); err == nil {
			t.Errorf("%s was accepted", refused)
		}
	}
}
