// SPDX-License-Identifier: Apache-2.0

package questions

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

const (
	series   = 20                  // of samples: services with four types each
	span     = 87 * 24 * time.Hour // from the first sample to the last
	services = 50                  // that were ever assessed
	arms     = 10                  // of a context
	open     = 20                  // improvements that are pending, and as many that run
)

// Volume is how many rows of a kind there are. Everything ends at one time.
type Volume struct {
	Samples int
	// Improvements each have a row in dgm_archive and in improvement_workspaces.
	Improvements int
	Assessments  int
	Arms         int
	// Hash is the constitution that all name.
	Hash string

	end time.Time
}

// Ending returns the volume with its newest rows at a time, in full minutes.
func (v Volume) Ending(at time.Time) Volume {
	v.end = at.UTC().Truncate(time.Minute)
	return v
}

// End is before which all rows lie.
func (v Volume) End() time.Time { return v.end }

// Interval is how often each series is measured: 15 s with 10 million samples.
func (v Volume) Interval() time.Duration { return span / time.Duration(v.Samples/series) }

func service(n int) string { return fmt.Sprintf("service-%d", n%services) }

func (v Volume) context(n int) string {
	return fmt.Sprintf("prod/team-%d/policy-%d/default", n*7919%(v.Arms/arms)%50, n*7919%(v.Arms/arms))
}

// window of some measurements of the nth series.
func (v Volume) window(n int, from time.Time, measurements int) []any {
	types := []string{"latency", "throughput", "error_rate", "resource_usage"}
	return []any{fmt.Sprintf("service-%d", n%(series/len(types))), types[n/5%len(types)], from, from.Add(time.Duration(measurements) * v.Interval())}
}

const insertSamples = `
INSERT INTO dgm.performance_metrics (id, metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp", constitutional_hash)
SELECT (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, (ARRAY['request_duration', 'requests', 'errors', 'cpu'])[s % 4 + 1], (ARRAY['latency', 'throughput', 'error_rate', 'resource_usage'])[s % 4 + 1],
	'service', round((50 * exp(random() * random() * 4))::numeric, 3), (ARRAY['ms', '1/s', '1/s', 'cores'])[s % 4 + 1], 'service-' || s / 4,
	jsonb_build_object('pod', 'pod-' || s, 'zone', 'z1'), at, @hash
FROM (
	SELECT i, i % @series AS s, @end::timestamptz - ((@rows::bigint - i - 1) / @series + random()) * @interval::interval AS at
	FROM generate_series(@first::bigint, @last::bigint) AS i
) sample`

// LoadSamples makes the samples from one number to before another. Each series
// is measured once in an interval, in the order of time.
func (v Volume) LoadSamples(ctx context.Context, pool *pgxpool.Pool, from, to int) error {
	return inParts(ctx, from, to, func(ctx context.Context, first, last int) error {
		_, err := pool.Exec(ctx, insertSamples, pgx.NamedArgs{
			"series": series, "rows": v.Samples, "end": v.end, "interval": v.Interval(), "first": first, "last": last, "hash": v.Hash,
		})
		return err
	})
}

// LoadLateSamples makes further ones at times all over those that are there.
func (v Volume) LoadLateSamples(ctx context.Context, pool *pgxpool.Pool, count int) error {
	_, err := pool.Exec(ctx, `
INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp", constitutional_hash)
SELECT 'request_duration', 'latency', 'service', 77, 'ms', 'service-' || i % $1 / 4, jsonb_build_object('pod', 'pod-' || i % $1, 'zone', 'z1'),
	$2::timestamptz - random() * $3::interval, $4
FROM generate_series(1, $5::bigint) AS i`, series, v.end, span, v.Hash, count)
	return err
}

// The newest improvements are pending or run; of the others most were kept. Row
// ids are in the order of time, like UUIDv7; improvement ids are random. A year.
const insertArchive = `
INSERT INTO dgm.dgm_archive (id, improvement_id, attempt, material_digest, "timestamp", description, algorithm_changes, constitutional_compliance_score,
	status, outcome_reason, metadata, created_by, cluster, namespace, name, uid, generation, writer_epoch, revision, constitutional_hash, created_at)
SELECT (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, md5('improvement-' || i)::uuid, 1 + i % 2, 'digest-' || i / 2, at, 'Serve the product list from cache for longer',
	'[{"name": "cache", "type": "Merge"}]', 0.95, s, CASE WHEN s IN ('failed', 'rolled_back') THEN 'MetricRegressed' END, '{"phase": "Completed"}', 'ci',
	'prod', 'team-' || i / 2 % 50, 'improvement-' || i / 2, 'uid-' || i / 2, 1, 1, i, @hash, at
FROM (
	SELECT i, @end::timestamptz - (@rows - i) * (interval '365 days' / @rows::bigint) AS at,
		CASE WHEN i >= @rows - @open THEN 'pending' WHEN i >= @rows - 2 * @open THEN 'running'
			WHEN i * 7919 % 100 < 12 THEN 'failed' WHEN i * 7919 % 100 < 17 THEN 'rolled_back' ELSE 'completed' END AS s
	FROM generate_series(@first::bigint, @last::bigint) AS i
) attempt`

// Workspaces that ended are archived after three days.
const insertWorkspaces = `
INSERT INTO dgm.improvement_workspaces (id, improvement_id, name, description, status, target_service, improvement_type, priority, configuration,
	compliance_validated, created_by, completed_at, cluster, namespace, uid, generation, writer_epoch, revision, constitutional_hash, created_at)
SELECT (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, md5('improvement-' || i)::uuid, 'improvement-' || i / 2, 'Serve the product list from cache for longer', s, 'service-' || i % @services,
	'ConfigurationUpdate', 'Medium', '{"changes": [{"name": "cache", "type": "Merge"}]}', true, 'ci', CASE WHEN i < @rows - 100 THEN at + interval '5 minutes' END,
	'prod', 'team-' || i / 2 % 50, 'uid-' || i / 2, 1, 1, i, @hash, at
FROM (
	SELECT i, @end::timestamptz - (@rows - i) * (interval '365 days' / @rows::bigint) AS at,
		CASE WHEN i >= @rows - 100 THEN 'validating' WHEN i < @rows * 362 / 365 THEN 'archived' WHEN i * 7919 % 100 < 17 THEN 'failed' ELSE 'completed' END AS s
	FROM generate_series(@first::bigint, @last::bigint) AS i
) attempt`

const insertAssessments = `
INSERT INTO dgm.constitutional_compliance_logs (id, improvement_id, service_name, operation_type, compliance_level, compliance_score, status,
	constitutional_version, violations, assessment_method, assessor_id, assessed_at, cluster, namespace, name, constitutional_hash, created_at)
SELECT (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, md5('improvement-' || i % @improvements)::uuid, 'service-' || i % @services, 'configuration-update',
	CASE WHEN h < 1 THEN 'critical_violation' WHEN h < 4 THEN 'major_violation' WHEN h < 10 THEN 'minor_violation' WHEN h < 20 THEN 'warning' WHEN h < 90 THEN 'compliant' ELSE 'exemplary' END,
	0.9, 'completed', '1.0', CASE WHEN h < 10 THEN '[{"principle": "safety"}]'::jsonb END, 'automated', 'dgm-operator', at, 'prod', 'team-1', 'improvement', @hash, at
FROM (
	SELECT i, (i / @services) * 7919 % 100 AS h, @end::timestamptz - (@rows - i) * (interval '365 days' / @rows::bigint) AS at
	FROM generate_series(@first::bigint, @last::bigint) AS i
) assessment`

const insertArms = `
INSERT INTO dgm.bandit_states (id, algorithm_type, context_key, arm_id, total_pulls, total_reward, average_reward, safety_threshold, algorithm_state,
	last_updated, cluster, namespace, name, uid, generation, writer_epoch, revision, constitutional_hash, created_at)
SELECT (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, 'conservative_bandit', 'prod/team-' || p % 50 || '/policy-' || p || '/default', 'arm-' || i % @arms, i % 97, i % 97 * 0.5, 0.5, 0.8, '{"bound": 0.1}',
	@end::timestamptz - random() * interval '30 days', 'prod', 'team-' || p % 50, 'policy-' || p, 'policy-' || p, 1, 1, i, @hash, @end::timestamptz - interval '90 days'
FROM (SELECT i, i / @arms AS p FROM generate_series(@first::bigint, @last::bigint) AS i) arm`

// Load makes all rows but the samples, by a superuser. Every trigger that is not
// about foreign keys is as it is; these hold by the way the rows are made.
// Indexes are those that there were, built anew.
func (v Volume) Load(ctx context.Context, pool *pgxpool.Pool) error {
	for _, t := range []struct {
		name, insert string
		rows         int
	}{
		{"dgm_archive", insertArchive, v.Improvements}, {"improvement_workspaces", insertWorkspaces, v.Improvements},
		{"constitutional_compliance_logs", insertAssessments, v.Assessments}, {"bandit_states", insertArms, v.Arms},
	} {
		err := withoutIndexes(ctx, pool, t.name, func() error { return v.loadTable(ctx, pool, t.insert, t.rows) })
		if err != nil {
			return fmt.Errorf("load %s: %w", t.name, err)
		}
	}
	return nil
}

func (v Volume) loadTable(ctx context.Context, pool *pgxpool.Pool, insert string, rows int) error {
	return inParts(ctx, 0, rows, func(ctx context.Context, first, last int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, insert, pgx.NamedArgs{
				"first": first, "last": last, "rows": int64(rows), "end": v.end, "hash": v.Hash, "open": int64(open),
				"services": int64(services), "arms": int64(arms), "improvements": int64(v.Improvements),
			})
			return err
		})
	})
}

// withoutIndexes drops the indexes of a table that no constraint needs, and
// makes them again afterwards: building one is faster than filling it.
func withoutIndexes(ctx context.Context, pool *pgxpool.Pool, table string, load func() error) error {
	rows, err := pool.Query(ctx, `SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index i
		WHERE i.indrelid = ('dgm.' || $1::text)::regclass AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid) ORDER BY 1`, table)
	if err != nil {
		return err
	}
	type index struct{ Name, Definition string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return err
	}
	for _, i := range indexes {
		if _, err := pool.Exec(ctx, "DROP INDEX "+i.Name); err != nil {
			return err
		}
	}
	if err := load(); err != nil {
		return err
	}
	for _, i := range indexes {
		if _, err := pool.Exec(ctx, i.Definition); err != nil {
			return err
		}
	}
	return nil
}

// loaders insert at the same time, partSize rows in each transaction.
const loaders, partSize = 2, 500_000

func inParts(ctx context.Context, from, to int, insert func(ctx context.Context, first, last int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for ; from < to; from += partSize {
		first, last := from, min(from+partSize, to)-1
		group.Go(func() error { return insert(ctx, first, last) })
	}
	return group.Wait()
}
