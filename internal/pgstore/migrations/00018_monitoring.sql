-- min-compatible-binary: 5
-- +goose Up
-- What pg_stat_statements says, in whatever schema it is. It may be installed and removed at any time, and may be
-- older than we know or not loaded: then there is nothing to show. It runs as its caller, who sees the statements
-- of its own role, or those of all roles with pg_read_all_stats.
-- +goose StatementBegin
CREATE FUNCTION dgm.statement_statistics(OUT query_id bigint, OUT statement text, OUT query text, OUT calls bigint,
    OUT total_seconds double precision, OUT mean_seconds double precision, OUT max_seconds double precision, OUT rows_affected bigint,
    OUT blocks_hit bigint, OUT blocks_read bigint, OUT temp_blocks_written bigint, OUT wal_bytes numeric)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    home name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements');
BEGIN
    IF home IS NULL THEN
        RETURN;
    END IF;
    -- Constants are masked once more: pg_stat_statements leaves them in utility statements, and in an entry that was
    -- evicted while its statement ran. From a backslash or a dollar quote on, where a constant ends cannot be told.
    RETURN QUERY EXECUTE format($query$
        SELECT s.queryid, substring(s.query FROM '^-- name: (\w+)'),
            left(btrim(regexp_replace(regexp_replace(regexp_replace(left(s.query, 5000), '^-- name: [^\n]*\n', ''), '(\\|\$([a-zA-Z_]\w*)?\$).*$', '…'),
                $re$'[^']*('|$)|--[^\n]*|/\*([^*]|\*+[^*/])*(\*+/|$)|(?<![\w$."])\d[\w.]*$re$, '?', 'g')), 1000),
            s.calls, s.total / 1000, s.total / 1000 / s.calls, s.slowest / 1000, s.rows, s.hit, s.read, s.temp, s.wal
        FROM (
            SELECT p.queryid, min(p.query) AS query, sum(p.calls)::bigint AS calls, sum(p.total_exec_time) AS total, max(p.max_exec_time) AS slowest,
                sum(p.rows)::bigint AS rows, sum(p.shared_blks_hit)::bigint AS hit, sum(p.shared_blks_read)::bigint AS read,
                sum(p.temp_blks_written)::bigint AS temp, sum(p.wal_bytes) AS wal
            FROM %I.pg_stat_statements p
            WHERE p.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND strpos(p.query, 'dgm') > 0 AND p.query ~ '(^|[^\w$])"?dgm"?\.'
              AND p.query !~* '^\s*(comment|create|alter|drop|grant|revoke|do|set)\M' AND p.calls > 0 AND p.queryid IS NOT NULL
            GROUP BY p.queryid
            ORDER BY sum(p.total_exec_time) DESC, p.queryid
            LIMIT 100
        ) s$query$, home);
EXCEPTION
    WHEN undefined_table OR undefined_column OR undefined_function OR insufficient_privilege OR object_not_in_prerequisite_state OR feature_not_supported THEN
        RETURN;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.statement_statistics() IS 'The hundred statements on the data of schema dgm that took the most time, of pg_stat_statements; nothing where that is not installed, not loaded or not readable.';

CREATE VIEW dgm.v_query_performance AS
SELECT s.query_id, s.statement, s.query, s.calls, s.total_seconds, s.mean_seconds, s.max_seconds, s.rows_affected, s.blocks_hit, s.blocks_read,
    s.temp_blocks_written, s.wal_bytes
FROM dgm.statement_statistics() AS s (query_id, statement, query, calls, total_seconds, mean_seconds, max_seconds, rows_affected, blocks_hit, blocks_read,
    temp_blocks_written, wal_bytes);
COMMENT ON VIEW dgm.v_query_performance IS 'The hundred statements on the data of schema dgm that took the most time; empty without pg_stat_statements. Statements of other roles show with pg_read_all_stats.';
COMMENT ON COLUMN dgm.v_query_performance.query_id IS 'queryid of pg_stat_statements.';
COMMENT ON COLUMN dgm.v_query_performance.statement IS 'Name that the operator gives the statement; null for others.';
COMMENT ON COLUMN dgm.v_query_performance.query IS 'Its text without comments and values, at most 1000 characters.';
COMMENT ON COLUMN dgm.v_query_performance.calls IS 'How often it ran.';
COMMENT ON COLUMN dgm.v_query_performance.total_seconds IS 'Time in it, in seconds.';
COMMENT ON COLUMN dgm.v_query_performance.mean_seconds IS 'Mean time of a run, in seconds.';
COMMENT ON COLUMN dgm.v_query_performance.max_seconds IS 'Longest run, in seconds.';
COMMENT ON COLUMN dgm.v_query_performance.rows_affected IS 'Rows that it returned or changed.';
COMMENT ON COLUMN dgm.v_query_performance.blocks_hit IS 'Blocks found in shared buffers.';
COMMENT ON COLUMN dgm.v_query_performance.blocks_read IS 'Blocks read from outside of them.';
COMMENT ON COLUMN dgm.v_query_performance.temp_blocks_written IS 'Blocks written to temporary files: work_mem was too small.';
COMMENT ON COLUMN dgm.v_query_performance.wal_bytes IS 'Write-ahead log that it made, in bytes.';

-- last_idx_scan is there from PostgreSQL 16 on.
CREATE VIEW dgm.v_index_usage AS
SELECT t.relname::text AS table_name, c.relname::text AS index_name, COALESCE(rt.relname, t.relname)::text AS root_table,
    COALESCE(ri.relname, c.relname)::text AS root_index, s.idx_scan::bigint AS scans, s.idx_tup_read::bigint AS tuples_read, s.idx_tup_fetch::bigint AS rows_fetched,
    pg_relation_size(c.oid)::bigint AS bytes, (to_jsonb(s) ->> 'last_idx_scan')::timestamptz AS last_used,
    i.indisunique AS is_unique, (s.idx_scan = 0 AND NOT i.indisunique) AS is_unused, i.indisvalid AS is_valid
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = 'dgm'
JOIN pg_catalog.pg_stat_all_indexes s ON s.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_class rt ON rt.oid = pg_partition_root(t.oid)
LEFT JOIN pg_catalog.pg_class ri ON ri.oid = pg_partition_root(c.oid)
WHERE c.relkind = 'i';
COMMENT ON VIEW dgm.v_index_usage IS 'Every index of schema dgm that holds anything, so one per partition, and how it is used since statistics were reset.';
COMMENT ON COLUMN dgm.v_index_usage.table_name IS 'Table or partition that it is on.';
COMMENT ON COLUMN dgm.v_index_usage.index_name IS 'Its name.';
COMMENT ON COLUMN dgm.v_index_usage.root_table IS 'The partitioned table that table_name belongs to, or table_name.';
COMMENT ON COLUMN dgm.v_index_usage.root_index IS 'The index of root_table that it is a part of, or index_name.';
COMMENT ON COLUMN dgm.v_index_usage.scans IS 'How often it was used.';
COMMENT ON COLUMN dgm.v_index_usage.tuples_read IS 'Entries that it returned.';
COMMENT ON COLUMN dgm.v_index_usage.rows_fetched IS 'Live rows fetched by plain index scans.';
COMMENT ON COLUMN dgm.v_index_usage.bytes IS 'Its size.';
COMMENT ON COLUMN dgm.v_index_usage.last_used IS 'When it was last used; null before PostgreSQL 16, and when it was not.';
COMMENT ON COLUMN dgm.v_index_usage.is_unique IS 'Whether it enforces a key, and so is needed without being used.';
COMMENT ON COLUMN dgm.v_index_usage.is_unused IS 'Whether it was never used and enforces no key.';
COMMENT ON COLUMN dgm.v_index_usage.is_valid IS 'False when its concurrent build did not finish: nothing uses it, and every write pays for it.';

CREATE VIEW dgm.v_storage AS
SELECT c.relname::text AS table_name, COALESCE(r.relname, c.relname)::text AS root_table,
    (pg_table_size(c.oid) - COALESCE(pg_total_relation_size(NULLIF(c.reltoastrelid, 0)), 0))::bigint AS heap_bytes,
    pg_indexes_size(c.oid)::bigint AS index_bytes,
    COALESCE(pg_total_relation_size(NULLIF(c.reltoastrelid, 0)), 0)::bigint AS toast_bytes,
    s.n_live_tup::bigint AS live_rows, s.n_dead_tup::bigint AS dead_rows, s.n_tup_ins::bigint AS rows_inserted, s.n_tup_upd::bigint AS rows_updated,
    s.n_tup_del::bigint AS rows_deleted, GREATEST(s.last_vacuum, s.last_autovacuum) AS last_vacuumed,
    GREATEST(s.last_analyze, s.last_autoanalyze) AS last_analyzed,
    (SELECT d.stats_reset FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()) AS counted_since
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'dgm'
JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
LEFT JOIN pg_catalog.pg_class r ON r.oid = pg_partition_root(c.oid)
WHERE c.relkind IN ('r', 'm');
COMMENT ON VIEW dgm.v_storage IS 'What each table, partition and materialized view of schema dgm takes on disk, and its rows. How performance_metrics grows by month is in v_partitions.';
COMMENT ON COLUMN dgm.v_storage.table_name IS 'Table, partition or materialized view.';
COMMENT ON COLUMN dgm.v_storage.root_table IS 'The partitioned table that it belongs to, or table_name.';
COMMENT ON COLUMN dgm.v_storage.heap_bytes IS 'Its rows, in bytes, without what is stored out of line.';
COMMENT ON COLUMN dgm.v_storage.index_bytes IS 'Its indexes, in bytes.';
COMMENT ON COLUMN dgm.v_storage.toast_bytes IS 'Large values stored out of line, in bytes.';
COMMENT ON COLUMN dgm.v_storage.live_rows IS 'Estimated live rows.';
COMMENT ON COLUMN dgm.v_storage.dead_rows IS 'Estimated dead rows, which vacuum will remove.';
COMMENT ON COLUMN dgm.v_storage.rows_inserted IS 'Rows inserted since counted_since.';
COMMENT ON COLUMN dgm.v_storage.rows_updated IS 'Rows updated since then.';
COMMENT ON COLUMN dgm.v_storage.rows_deleted IS 'Rows deleted since then.';
COMMENT ON COLUMN dgm.v_storage.last_vacuumed IS 'When it was last vacuumed.';
COMMENT ON COLUMN dgm.v_storage.last_analyzed IS 'When it was last analyzed.';
COMMENT ON COLUMN dgm.v_storage.counted_since IS 'When statistics of the database were last reset; null: never.';

-- Bounds are printed in the zone and style of the session, where a zone may be an abbreviation that means another one.
-- +goose StatementBegin
CREATE FUNCTION dgm.partition_bound(of regclass, side text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'
AS $$
    SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM side || ' \(''([^'']*)''\)')::timestamptz FROM pg_class c WHERE c.oid = of
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.partition_bound(regclass, text) IS 'Bound of a partition by time, side FROM or TO; null when it has none.';

CREATE VIEW dgm.v_partitions AS
SELECT p.table_name, p.partition_name, p.from_time, p.to_time, p.is_default,
    CASE WHEN p.partition_name = 'performance_metrics_default'
        THEN (SELECT count(*) FROM (SELECT 1 FROM dgm.performance_metrics_default LIMIT 100000) counted) ELSE p.estimated_rows END::bigint AS row_count,
    p.bytes, COALESCE(p.table_name = 'performance_metrics' AND p.to_time <= now() - make_interval(days => r.days), false) AS is_expired
FROM (
    SELECT t.relname::text AS table_name, c.relname::text AS partition_name,
        dgm.partition_bound(c.oid, 'FROM') AS from_time, dgm.partition_bound(c.oid, 'TO') AS to_time,
        (pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT') AS is_default, GREATEST(s.n_live_tup, c.reltuples::bigint, 0) AS estimated_rows,
        pg_total_relation_size(c.oid)::bigint AS bytes
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_class t ON t.oid = i.inhparent AND t.relkind = 'p'
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = 'dgm'
    LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
) p
CROSS JOIN (
    SELECT COALESCE((SELECT CASE WHEN c.value ~ '^[0-9]{1,6}$' THEN c.value::integer END
        FROM dgm.system_configurations c WHERE c.key = 'metrics_retention_days' AND c.deleted_at IS NULL), 90) AS days
) r;
COMMENT ON VIEW dgm.v_partitions IS 'Partitions of the tables of schema dgm.';
COMMENT ON COLUMN dgm.v_partitions.table_name IS 'The partitioned table.';
COMMENT ON COLUMN dgm.v_partitions.partition_name IS 'The partition.';
COMMENT ON COLUMN dgm.v_partitions.from_time IS 'First instant that it takes; null for the default one.';
COMMENT ON COLUMN dgm.v_partitions.to_time IS 'First instant that it does not take any more.';
COMMENT ON COLUMN dgm.v_partitions.is_default IS 'Whether it takes what no other one does.';
COMMENT ON COLUMN dgm.v_partitions.row_count IS 'Estimated rows; those of performance_metrics_default are counted, to 100000 at most.';
COMMENT ON COLUMN dgm.v_partitions.bytes IS 'Its size with indexes.';
COMMENT ON COLUMN dgm.v_partitions.is_expired IS 'Whether all of it is older than metrics_retention_days.';

-- A transaction with an id holds back aggregation whichever database it is in; one with a snapshot holds back vacuum
-- in its own. Sessions of other roles show with pg_read_all_stats alone, and can be counted without.
CREATE VIEW dgm.v_long_transactions AS
SELECT t.kind, t.name, t.database, t.role, t.application, t.state, t.waits_for, t.since,
    EXTRACT(epoch FROM now() - t.since)::double precision AS age_seconds, t.xmin_age, t.delays_aggregation
FROM (
    SELECT 'session' AS kind, a.pid::text AS name, a.datname::text AS database, a.usename::text AS role, a.application_name AS application, a.state,
        a.wait_event_type || '/' || a.wait_event AS waits_for, a.xact_start AS since, age(COALESCE(a.backend_xmin, a.backend_xid)) AS xmin_age,
        a.backend_xid IS NOT NULL AS delays_aggregation
    FROM pg_catalog.pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
      AND (a.datname = current_database() OR a.backend_xid IS NOT NULL OR a.backend_type = 'walsender')
    UNION ALL
    -- Named as above: a view that was restored from a dump reads the same then.
    SELECT 'prepared' AS kind, p.gid AS name, p.database::text AS database, p.owner::text AS role, NULL AS application, 'prepared' AS state,
        NULL AS waits_for, p.prepared AS since, age(p.transaction) AS xmin_age, true AS delays_aggregation
    FROM pg_catalog.pg_prepared_xacts p
) t
WHERE t.since < now() - interval '5 seconds';
COMMENT ON VIEW dgm.v_long_transactions IS 'Transactions that have been open for more than five seconds, prepared ones too. They delay vacuum, aggregation or both. What they ran is not shown.';
COMMENT ON COLUMN dgm.v_long_transactions.kind IS 'session, or prepared for one of PREPARE TRANSACTION.';
COMMENT ON COLUMN dgm.v_long_transactions.name IS 'Process id, for pg_terminate_backend, or the name for ROLLBACK PREPARED.';
COMMENT ON COLUMN dgm.v_long_transactions.database IS 'Database that it is in.';
COMMENT ON COLUMN dgm.v_long_transactions.role IS 'Role that runs it.';
COMMENT ON COLUMN dgm.v_long_transactions.application IS 'What its client calls itself.';
COMMENT ON COLUMN dgm.v_long_transactions.state IS 'active, idle in transaction, or prepared.';
COMMENT ON COLUMN dgm.v_long_transactions.waits_for IS 'What it waits for, as type/event of pg_stat_activity.';
COMMENT ON COLUMN dgm.v_long_transactions.since IS 'When it began.';
COMMENT ON COLUMN dgm.v_long_transactions.age_seconds IS 'How long it has been open.';
COMMENT ON COLUMN dgm.v_long_transactions.xmin_age IS 'How many transactions ago the rows are from that it keeps vacuum from removing; null: none.';
COMMENT ON COLUMN dgm.v_long_transactions.delays_aggregation IS 'Whether it has written, so that metrics newer than it wait to be aggregated.';

CREATE VIEW dgm.v_sessions AS
SELECT count(*)::bigint AS sessions, (count(*) FILTER (WHERE a.state = 'active'))::bigint AS active,
    (count(*) FILTER (WHERE a.state LIKE 'idle in transaction%'))::bigint AS idle_in_transaction,
    (count(*) FILTER (WHERE a.wait_event_type = 'Lock'))::bigint AS waiting_for_locks,
    (count(*) FILTER (WHERE a.query = '<insufficient privilege>'))::bigint AS hidden,
    current_setting('max_connections')::bigint AS max_connections
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database();
COMMENT ON VIEW dgm.v_sessions IS 'One row: the sessions of this database.';
COMMENT ON COLUMN dgm.v_sessions.sessions IS 'How many there are.';
COMMENT ON COLUMN dgm.v_sessions.active IS 'Those that run a statement.';
COMMENT ON COLUMN dgm.v_sessions.idle_in_transaction IS 'Those that hold a transaction open and do nothing.';
COMMENT ON COLUMN dgm.v_sessions.waiting_for_locks IS 'Those that wait for a lock.';
COMMENT ON COLUMN dgm.v_sessions.hidden IS 'Those of other roles, whose state the reader may not see, so that they count in none of the others and are missing from v_long_transactions; none with pg_read_all_stats.';
COMMENT ON COLUMN dgm.v_sessions.max_connections IS 'How many sessions the whole server admits.';

-- +goose Down
DROP VIEW dgm.v_sessions;
DROP VIEW dgm.v_long_transactions;
DROP VIEW dgm.v_partitions;
DROP FUNCTION dgm.partition_bound(regclass, text);
DROP VIEW dgm.v_storage;
DROP VIEW dgm.v_index_usage;
DROP VIEW dgm.v_query_performance;
DROP FUNCTION dgm.statement_statistics();
