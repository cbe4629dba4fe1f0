-- name: LimitMonitoring :exec
SELECT set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '5s', true);

-- name: SlowestStatements :many
SELECT s.query_id::bigint AS query_id, COALESCE(s.statement, '')::text AS statement, s.calls::bigint AS calls, s.total_seconds::double precision AS total_seconds,
    s.mean_seconds::double precision AS mean_seconds, s.rows_affected::bigint AS rows_affected
FROM dgm.v_query_performance s
ORDER BY s.total_seconds DESC, s.query_id
LIMIT @most;

-- Indexes of partitions are added up.
-- name: IndexUsage :many
SELECT v.root_table::text AS table_name, v.root_index::text AS index_name, sum(v.scans)::bigint AS scans, sum(v.tuples_read)::bigint AS tuples_read,
    sum(v.bytes)::bigint AS bytes, bool_and(v.is_unused)::boolean AS unused, COALESCE(bool_and(v.is_valid), true)::boolean AS valid,
    COALESCE(EXTRACT(epoch FROM max(v.last_used)), 0)::double precision AS last_used
FROM dgm.v_index_usage v
GROUP BY v.root_table, v.root_index
ORDER BY sum(v.bytes) DESC, v.root_index
LIMIT @most;

-- Partitions are added up.
-- name: Storage :many
SELECT v.root_table::text AS table_name, sum(v.heap_bytes)::bigint AS heap_bytes, sum(v.index_bytes)::bigint AS index_bytes, sum(v.toast_bytes)::bigint AS toast_bytes,
    sum(v.live_rows)::bigint AS live_rows, sum(v.dead_rows)::bigint AS dead_rows, sum(v.rows_inserted)::bigint AS rows_inserted
FROM dgm.v_storage v
GROUP BY v.root_table
ORDER BY sum(v.heap_bytes + v.index_bytes + v.toast_bytes) DESC, v.root_table
LIMIT @most;

-- name: Partitions :many
SELECT p.partition_name::text AS partition_name, p.is_default::boolean AS is_default, p.is_expired::boolean AS is_expired, p.row_count::bigint AS row_count, p.bytes::bigint AS bytes
FROM dgm.v_partitions p
WHERE p.table_name = 'performance_metrics'
ORDER BY p.is_default DESC, p.from_time DESC;

-- How many of the months that follow the current one have a partition, without a gap; -1 when the current one has none.
-- name: MonthsAhead :one
SELECT (min(k.ahead) - 1)::integer AS months
FROM generate_series(0, 1200) AS k(ahead)
WHERE NOT EXISTS (
    SELECT FROM dgm.v_partitions p
    WHERE p.table_name = 'performance_metrics' AND NOT p.is_default
      AND p.from_time <= (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => k.ahead)) AT TIME ZONE 'UTC'
      AND p.to_time > (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => k.ahead)) AT TIME ZONE 'UTC');

-- name: LongTransactions :one
SELECT count(*)::bigint AS open, COALESCE(max(t.age_seconds), 0)::double precision AS longest, COALESCE(max(t.age_seconds) FILTER (WHERE t.delays_aggregation), 0)::double precision AS longest_writing,
    COALESCE(max(t.xmin_age), 0)::bigint AS xmin_age
FROM dgm.v_long_transactions t;

-- name: Sessions :one
SELECT s.sessions, s.active, s.idle_in_transaction, s.waiting_for_locks, s.hidden, s.max_connections FROM dgm.v_sessions s;

-- name: SnapshotsByKey :many
SELECT s.key_id, count(*)::bigint AS snapshots
FROM dgm.rollback_snapshots s
WHERE s.purged_at IS NULL
GROUP BY s.key_id
ORDER BY count(*) DESC, s.key_id
LIMIT @most;

-- name: AggregationStanding :many
SELECT v.lag_seconds::double precision AS lag_seconds, v.held_back_by_transaction::boolean AS held_back, v.pending_hours::bigint AS pending_hours,
    v.refused_hours::bigint AS refused_hours, v.rows_not_folded::bigint AS rows_not_folded, v.passes::bigint AS passes,
    COALESCE(v.last_pass_seconds, 0)::double precision AS last_pass_seconds, COALESCE(EXTRACT(epoch FROM v.last_pass_at), 0)::double precision AS last_pass_at
FROM dgm.v_metric_aggregation v;

-- Of the improvements that metrics name and the archive does not know, a thousand.
-- name: UnmatchedMetrics :one
SELECT count(*)::bigint AS improvements, COALESCE(sum(u.samples), 0)::bigint AS samples
FROM (SELECT v.samples FROM dgm.v_unmatched_metrics v LIMIT 1000) u;
