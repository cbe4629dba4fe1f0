-- min-compatible-binary: 5
-- +goose Up
-- How rollups stay exact is in docs/adr/0011-metric-rollups-are-recomputed-by-the-hour.md.
ALTER TABLE dgm.metric_rollups ADD COLUMN histogram_bins integer[], ADD COLUMN histogram_counts bigint[];
COMMENT ON COLUMN dgm.metric_rollups.histogram_bins IS 'Of 1h rows: the occupied bins of the log histogram, ascending; metric_histogram_value says what a bin stands for.';
COMMENT ON COLUMN dgm.metric_rollups.histogram_counts IS 'Number of samples in each of histogram_bins.';
CREATE INDEX metric_rollups_window_start ON dgm.metric_rollups (time_window, window_start);

CREATE TABLE dgm.aggregation_state (
    id smallint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    system_identifier bigint NOT NULL,
    marked_below xid8 NOT NULL,
    rows_not_folded bigint NOT NULL DEFAULT 0,
    passes bigint NOT NULL DEFAULT 0,
    last_pass_at timestamptz NOT NULL,
    last_pass_hours integer NOT NULL,
    last_pass_rows bigint NOT NULL,
    last_pass_seconds numeric NOT NULL,
    rebuilt_at timestamptz NOT NULL
);
COMMENT ON TABLE dgm.aggregation_state IS 'How far performance_metrics is aggregated. One row, written by aggregate_metrics.';
COMMENT ON COLUMN dgm.aggregation_state.id IS 'Always 1.';
COMMENT ON COLUMN dgm.aggregation_state.system_identifier IS 'Server that marked_below belongs to; on another one everything is aggregated anew.';
COMMENT ON COLUMN dgm.aggregation_state.marked_below IS 'Every sample of a transaction below this one is in the rollups, or its hour in aggregation_pending.';
COMMENT ON COLUMN dgm.aggregation_state.rows_not_folded IS 'Samples that came too late (their month had been dropped), or of no usable time (before 1900, after 9999): kept, but in no rollup.';
COMMENT ON COLUMN dgm.aggregation_state.passes IS 'Number of passes that wrote.';
COMMENT ON COLUMN dgm.aggregation_state.last_pass_at IS 'When the last one began.';
COMMENT ON COLUMN dgm.aggregation_state.last_pass_hours IS 'Hours that it computed.';
COMMENT ON COLUMN dgm.aggregation_state.last_pass_rows IS 'Samples that it read.';
COMMENT ON COLUMN dgm.aggregation_state.last_pass_seconds IS 'How long it took, in seconds.';
COMMENT ON COLUMN dgm.aggregation_state.rebuilt_at IS 'When everything was last marked to be aggregated anew.';

CREATE TABLE dgm.aggregation_pending (
    hour_start timestamptz PRIMARY KEY,
    since xid8,
    forced boolean NOT NULL DEFAULT false,
    marked_at timestamptz NOT NULL DEFAULT now(),
    failures integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    last_error text
);
COMMENT ON TABLE dgm.aggregation_pending IS 'Hours whose rollups are to be computed anew, written by aggregate_metrics and rebuild_metric_rollups.';
COMMENT ON COLUMN dgm.aggregation_pending.hour_start IS 'Start of the hour, in UTC.';
COMMENT ON COLUMN dgm.aggregation_pending.since IS 'Only minutes with samples of this transaction or later ones have changed; null: all of them.';
COMMENT ON COLUMN dgm.aggregation_pending.forced IS 'Whether the rollups of the hour are deleted first, since samples may be gone.';
COMMENT ON COLUMN dgm.aggregation_pending.marked_at IS 'When it was first marked.';
COMMENT ON COLUMN dgm.aggregation_pending.failures IS 'How often PostgreSQL refused to aggregate its samples.';
COMMENT ON COLUMN dgm.aggregation_pending.retry_at IS 'When it is tried again; null: at the next pass.';
COMMENT ON COLUMN dgm.aggregation_pending.last_error IS 'Why it was refused.';

-- The bin of a value v > 0 is ceil(log 1.02 of v) + 40000, that of -v its negative, and 0 that of 0 and of
-- everything closer to it than 1e-300. The middle of a bin is within 1 % of each of its values.
-- +goose StatementBegin
CREATE FUNCTION dgm.metric_histogram_value(bin integer) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN bin = 0 THEN 0 ELSE (sign(bin) * 2 / 2.02 * power(1.02::float8, abs(bin) - 40000))::numeric END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.metric_histogram_value(integer) IS 'The value that a bin of metric_rollups.histogram_bins stands for, within 1 % for magnitudes from 1e-300 to 1e300.';

-- One statement reads the samples of the hours once and writes their 1m, 5m and 1h rollups. A rollup of more
-- samples than there are now is kept: they were dropped with their partition.
-- +goose StatementBegin
CREATE FUNCTION dgm.recompute_metric_hours(hours timestamptz[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    origin CONSTANT timestamptz := '1900-01-01 00:00:00+00';
    active_hash CONSTANT text := dgm.active_constitutional_hash();
    forced_hour timestamptz;
    samples bigint;
BEGIN
    FOR forced_hour IN SELECT p.hour_start FROM dgm.aggregation_pending p WHERE p.hour_start = ANY (hours) AND p.forced LOOP
        DELETE FROM dgm.metric_rollups r
        WHERE r.time_window IN ('1m', '5m', '1h') AND r.window_start >= forced_hour AND r.window_start < forced_hour + interval '1 hour';
    END LOOP;

    -- The order makes the sorts below find their input sorted.
    WITH raw AS MATERIALIZED (
        SELECT m.metric_name, m.metric_type, m.service_name, m.tags::text COLLATE "C" AS tags,
            hashtextextended(m.metric_name, hashtextextended(COALESCE(m.service_name, ''), hashtextextended(COALESCE(m.tags::text, ''), 0))) AS series,
            date_bin('1 minute', m."timestamp", origin) AS minute, p.hour_start AS hour, m.value,
            CASE WHEN abs(m.value) < 1e-300 THEN 0
                WHEN abs(m.value) > 1e300 THEN sign(m.value)::integer * 75000
                ELSE sign(m.value)::integer * (40000 + ceil(ln(abs(m.value::float8)) / ln(1.02::float8))::integer) END AS bin,
            p.since IS NULL OR m.ingest_xid >= p.since AS fresh
        FROM dgm.aggregation_pending p
        CROSS JOIN LATERAL ( -- OFFSET 0: hour by hour by the index of its partition, whatever the planner makes of it
            SELECT s.* FROM dgm.performance_metrics s
            WHERE s."timestamp" >= p.hour_start AND s."timestamp" < p.hour_start + interval '1 hour' OFFSET 0
        ) m
        WHERE p.hour_start = ANY (hours)
        ORDER BY series, minute, value
    ), touched AS MATERIALIZED (
        SELECT DISTINCT r.series, r.minute, r.hour FROM raw r WHERE r.fresh
    ), exact AS (
        SELECT '1m' AS time_window, r.minute AS window_start, r.minute + interval '1 minute' AS window_end,
            r.metric_name, r.metric_type, r.service_name, r.tags, count(*) AS n, sum(r.value) AS total, min(r.value) AS low, max(r.value) AS high,
            percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY r.value) AS p
        FROM raw r WHERE (r.series, r.minute) IN (SELECT t.series, t.minute FROM touched t)
        GROUP BY r.series, r.minute, r.metric_name, r.metric_type, r.service_name, r.tags
        UNION ALL
        SELECT '5m', date_bin('5 minutes', r.minute, origin), date_bin('5 minutes', r.minute, origin) + interval '5 minutes',
            r.metric_name, r.metric_type, r.service_name, r.tags, count(*), sum(r.value), min(r.value), max(r.value),
            percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY r.value)
        FROM raw r WHERE (r.series, date_bin('5 minutes', r.minute, origin)) IN (SELECT t.series, date_bin('5 minutes', t.minute, origin) FROM touched t)
        GROUP BY r.series, date_bin('5 minutes', r.minute, origin), r.metric_name, r.metric_type, r.service_name, r.tags
    ), bins AS (
        SELECT r.series, r.hour, r.metric_name, r.metric_type, r.service_name, r.tags, r.bin,
            count(*) AS n, sum(r.value) AS total, min(r.value) AS low, max(r.value) AS high
        FROM raw r WHERE (r.series, r.hour) IN (SELECT t.series, t.hour FROM touched t)
        GROUP BY r.series, r.hour, r.bin, r.metric_name, r.metric_type, r.service_name, r.tags
    ), ranked AS (
        SELECT b.*, sum(b.n) OVER (series ORDER BY b.bin) AS up_to, sum(b.n) OVER (series) AS of_all
        FROM bins b
        WINDOW series AS (PARTITION BY b.series, b.hour, b.metric_name, b.metric_type, b.service_name, b.tags)
    ), hourly AS (
        SELECT r.hour, r.metric_name, r.metric_type, r.service_name, r.tags, sum(r.n)::bigint AS n, sum(r.total) AS total, min(r.low) AS low, max(r.high) AS high,
            array_agg(r.bin ORDER BY r.bin) AS bins, array_agg(r.n ORDER BY r.bin) AS counts,
            min(r.bin) FILTER (WHERE r.up_to >= ceil(0.5::float8 * r.of_all::float8)) AS bin50, min(r.bin) FILTER (WHERE r.up_to >= ceil(0.95::float8 * r.of_all::float8)) AS bin95,
            min(r.bin) FILTER (WHERE r.up_to >= ceil(0.99::float8 * r.of_all::float8)) AS bin99
        FROM ranked r
        GROUP BY r.series, r.hour, r.metric_name, r.metric_type, r.service_name, r.tags
    ), computed AS (
        SELECT e.time_window, e.window_start, e.window_end, e.metric_name, e.metric_type, e.service_name, e.tags, e.n, e.total, e.low, e.high,
            e.p[1] AS p50, e.p[2] AS p95, e.p[3] AS p99, 'exact' AS method, NULL::integer[] AS bins, NULL::bigint[] AS counts
        FROM exact e
        UNION ALL
        SELECT '1h', h.hour, h.hour + interval '1 hour', h.metric_name, h.metric_type, h.service_name, h.tags, h.n, h.total, h.low, h.high,
            LEAST(h.high, GREATEST(h.low, dgm.metric_histogram_value(h.bin50))), LEAST(h.high, GREATEST(h.low, dgm.metric_histogram_value(h.bin95))),
            LEAST(h.high, GREATEST(h.low, dgm.metric_histogram_value(h.bin99))), 'log histogram 1.02', h.bins, h.counts
        FROM hourly h
    ), written AS (
        INSERT INTO dgm.metric_rollups AS t (metric_name, metric_type, time_window, window_start, window_end, service_name, tags, tags_hash,
            count, sum, avg, min_value, max_value, p50, p95, p99, percentile_method, histogram_bins, histogram_counts, constitutional_hash)
        SELECT c.metric_name, c.metric_type, c.time_window, c.window_start, c.window_end, c.service_name, c.tags::jsonb, COALESCE(md5(c.tags), ''),
            c.n, c.total, c.total / c.n, c.low, c.high, c.p50, c.p95, c.p99, c.method, c.bins, c.counts, active_hash
        FROM computed c
        ON CONFLICT ON CONSTRAINT metric_rollups_series DO UPDATE SET
            count = excluded.count, sum = excluded.sum, avg = excluded.avg, min_value = excluded.min_value, max_value = excluded.max_value,
            p50 = excluded.p50, p95 = excluded.p95, p99 = excluded.p99, percentile_method = excluded.percentile_method,
            histogram_bins = excluded.histogram_bins, histogram_counts = excluded.histogram_counts
        WHERE excluded.count >= t.count
        RETURNING 1
    )
    SELECT count(*) INTO samples FROM raw;
    RETURN samples;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.recompute_metric_hours(timestamptz[]) IS 'For aggregate_metrics: computes the 1m, 5m and 1h rollups of marked hours from their samples; returns how many it read.';
REVOKE ALL ON FUNCTION dgm.recompute_metric_hours(timestamptz[]) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.recompute_metric_days(hours timestamptz[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET work_mem = '64MB' SET jit = off SET enable_seqscan = off
AS $$
DECLARE
    origin CONSTANT timestamptz := '1900-01-01 00:00:00+00';
    active_hash CONSTANT text := dgm.active_constitutional_hash();
    forced_days CONSTANT timestamptz[] := ARRAY(
        SELECT DISTINCT date_bin('1 day', p.hour_start, origin) FROM dgm.aggregation_pending p WHERE p.hour_start = ANY (hours) AND p.forced);
BEGIN
    DELETE FROM dgm.metric_rollups r WHERE r.time_window = '1d' AND r.window_start = ANY (forced_days);

    WITH days AS (
        SELECT DISTINCT date_bin('1 day', h, origin) AS day FROM unnest(hours) AS h
    ), touched AS MATERIALIZED (
        SELECT row_number() OVER () AS series, s.*
        FROM (
            SELECT DISTINCT d.day, r.metric_name, r.metric_type, r.service_name, r.tags_hash
            FROM days d
            JOIN dgm.metric_rollups r ON r.time_window = '1h' AND r.window_start >= d.day AND r.window_start < d.day + interval '1 day'
            WHERE (r.updated_at = now() AND r.window_start = ANY (hours)) OR d.day = ANY (forced_days)
        ) s
    ), hourly AS MATERIALIZED (
        SELECT t.series, r.tags, r.count, r.sum, r.min_value, r.max_value, r.histogram_bins, r.histogram_counts
        FROM days d
        JOIN dgm.metric_rollups r ON r.time_window = '1h' AND r.window_start >= d.day AND r.window_start < d.day + interval '1 day'
        JOIN touched t ON t.day = d.day AND t.metric_name = r.metric_name AND t.metric_type = r.metric_type AND t.tags_hash = r.tags_hash
            AND t.service_name IS NOT DISTINCT FROM r.service_name
    ), totals AS (
        SELECT h.series, (array_agg(h.tags))[1] AS tags, sum(h.count)::bigint AS n, sum(h.sum) AS total, min(h.min_value) AS low, max(h.max_value) AS high
        FROM hourly h GROUP BY h.series
    ), bins AS (
        SELECT h.series, b.bin, sum(b.n) AS n
        FROM hourly h, LATERAL unnest(h.histogram_bins, h.histogram_counts) AS b (bin, n)
        GROUP BY h.series, b.bin
    ), ranked AS (
        SELECT b.series, b.bin, sum(b.n) OVER (PARTITION BY b.series ORDER BY b.bin) AS up_to, sum(b.n) OVER (PARTITION BY b.series) AS of_all
        FROM bins b
    ), percentiles AS (
        SELECT r.series, dgm.metric_histogram_value(min(r.bin) FILTER (WHERE r.up_to >= ceil(0.5::float8 * r.of_all::float8))) AS p50,
            dgm.metric_histogram_value(min(r.bin) FILTER (WHERE r.up_to >= ceil(0.95::float8 * r.of_all::float8))) AS p95,
            dgm.metric_histogram_value(min(r.bin) FILTER (WHERE r.up_to >= ceil(0.99::float8 * r.of_all::float8))) AS p99
        FROM ranked r GROUP BY r.series
    )
    INSERT INTO dgm.metric_rollups AS t (metric_name, metric_type, time_window, window_start, window_end, service_name, tags, tags_hash,
        count, sum, avg, min_value, max_value, p50, p95, p99, percentile_method, constitutional_hash)
    SELECT s.metric_name, s.metric_type, '1d', s.day, s.day + interval '24 hours', s.service_name, c.tags, s.tags_hash,
        c.n, c.total, c.total / c.n, c.low, c.high, LEAST(c.high, GREATEST(c.low, p.p50)), LEAST(c.high, GREATEST(c.low, p.p95)),
        LEAST(c.high, GREATEST(c.low, p.p99)), 'log histogram 1.02, merged', active_hash
    FROM touched s JOIN totals c ON c.series = s.series JOIN percentiles p ON p.series = s.series
    ON CONFLICT ON CONSTRAINT metric_rollups_series DO UPDATE SET
        count = excluded.count, sum = excluded.sum, avg = excluded.avg, min_value = excluded.min_value, max_value = excluded.max_value,
        p50 = excluded.p50, p95 = excluded.p95, p99 = excluded.p99, percentile_method = excluded.percentile_method
    WHERE excluded.count >= t.count;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.recompute_metric_days(timestamptz[]) IS 'For aggregate_metrics: merges the 1d rollups of the days of these hours from the 1h ones, for the series that this transaction changed.';
REVOKE ALL ON FUNCTION dgm.recompute_metric_days(timestamptz[]) FROM PUBLIC;

-- Hops from hour to hour by the index, so that it costs what there are hours, not samples.
-- +goose StatementBegin
CREATE FUNCTION dgm.mark_metric_hours(from_time timestamptz, to_time timestamptz, force boolean) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    origin CONSTANT timestamptz := '1900-01-01 00:00:00+00';
    lowest timestamptz := GREATEST(from_time, origin, (SELECT s.floor FROM dgm.metric_retention_state s));
    beyond timestamptz := LEAST(to_time, '10000-01-01 00:00:00+00');
    found_at timestamptz;
    marked integer := 0;
BEGIN
    LOOP
        SELECT m."timestamp" INTO found_at FROM dgm.performance_metrics m
        WHERE m."timestamp" >= lowest AND m."timestamp" < beyond ORDER BY m."timestamp" LIMIT 1;
        EXIT WHEN NOT FOUND;
        INSERT INTO dgm.aggregation_pending AS p (hour_start, forced) VALUES (date_bin('1 hour', found_at, origin), force)
        ON CONFLICT (hour_start) DO UPDATE SET since = NULL, forced = p.forced OR excluded.forced, retry_at = NULL;
        marked := marked + 1;
        lowest := date_bin('1 hour', found_at, origin) + interval '1 hour';
    END LOOP;
    RETURN marked;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.mark_metric_hours(timestamptz, timestamptz, boolean) IS 'For aggregate_metrics and rebuild_metric_rollups: marks every hour of that time that has samples; returns how many.';
REVOKE ALL ON FUNCTION dgm.mark_metric_hours(timestamptz, timestamptz, boolean) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.metrics_aggregation_due() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT EXISTS (
            SELECT FROM dgm.aggregation_state s, pg_control_system() c
            WHERE s.system_identifier = c.system_identifier AND s.marked_below <= pg_snapshot_xmin(pg_current_snapshot()))
        OR EXISTS (SELECT FROM dgm.aggregation_pending p WHERE p.retry_at IS NULL OR p.retry_at <= now())
        OR EXISTS (
            SELECT FROM dgm.performance_metrics m
            WHERE (m.ingest_xid::text)::bigint >= (SELECT (s.marked_below::text)::bigint FROM dgm.aggregation_state s)
                AND (m.ingest_xid::text)::bigint < (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.metrics_aggregation_due() IS 'Whether aggregate_metrics would find something to do. Reads only.';
REVOKE ALL ON FUNCTION dgm.metrics_aggregation_due() FROM PUBLIC;

-- Every transaction below the snapshot's xmin has ended, and whoever looks later sees what it committed.
-- So the samples of transactions from marked_below up to xmin are new, all of them are there, and none can
-- be added behind; those of longer transactions wait for a later pass. The lock comes first and each
-- statement has a snapshot of its own, so that it sees what the pass before has committed: REPEATABLE READ
-- would look at the time before the lock.
-- +goose StatementBegin
CREATE FUNCTION dgm.aggregate_metrics(max_hours integer, OUT busy boolean, OUT hours integer, OUT samples bigint, OUT pending_hours bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
    origin CONSTANT timestamptz := '1900-01-01 00:00:00+00';
    began CONSTANT timestamptz := clock_timestamp();
    server CONSTANT bigint := (SELECT c.system_identifier FROM pg_control_system() c);
    state dgm.aggregation_state;
    beyond xid8;
    lowest timestamptz;
    marked_hours timestamptz[];
    refused timestamptz[] := '{}';
    late bigint := 0;
    reason text;
BEGIN
    busy := false; hours := 0; samples := 0; pending_hours := 0;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'dgm.aggregate_metrics works in READ COMMITTED, not in %: begin the transaction with ISOLATION LEVEL READ COMMITTED', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('dgm.aggregate_metrics', 0)) THEN
        busy := true;
        RETURN;
    END IF;
    -- No partition comes or goes between looking at the floor and reading the samples.
    LOCK TABLE dgm.performance_metrics IN ACCESS SHARE MODE;
    IF NOT dgm.metrics_aggregation_due() THEN
        RETURN;
    END IF;
    SELECT GREATEST(r.floor, origin) INTO lowest FROM dgm.metric_retention_state r;
    beyond := pg_snapshot_xmin(pg_current_snapshot());
    SELECT * INTO state FROM dgm.aggregation_state;
    IF state.id IS NULL OR state.system_identifier <> server OR state.marked_below > beyond THEN
        PERFORM dgm.mark_metric_hours('-infinity', 'infinity', false);
        SELECT count(*) INTO late FROM dgm.performance_metrics m WHERE m."timestamp" < lowest OR m."timestamp" >= '10000-01-01 00:00:00+00';
        state.rows_not_folded := 0;
        state.rebuilt_at := began;
    ELSE
        WITH fresh AS ( -- the hour is null where none can be computed
            SELECT CASE WHEN m."timestamp" >= lowest AND m."timestamp" < '10000-01-01 00:00:00+00' THEN date_bin('1 hour', m."timestamp", origin) END AS hour, count(*) AS n
            FROM dgm.performance_metrics m
            WHERE (m.ingest_xid::text)::bigint >= (state.marked_below::text)::bigint AND (m.ingest_xid::text)::bigint < (beyond::text)::bigint
            GROUP BY 1
        ), marked AS (
            INSERT INTO dgm.aggregation_pending AS p (hour_start, since)
            SELECT f.hour, state.marked_below FROM fresh f WHERE f.hour IS NOT NULL
            ON CONFLICT (hour_start) DO NOTHING
        )
        SELECT COALESCE(sum(f.n), 0) INTO late FROM fresh f WHERE f.hour IS NULL;
    END IF;

    DELETE FROM dgm.aggregation_pending p WHERE p.hour_start < lowest;
    marked_hours := ARRAY(SELECT p.hour_start FROM dgm.aggregation_pending p WHERE p.retry_at IS NULL OR p.retry_at <= now()
        ORDER BY p.hour_start > now() + interval '1 day', p.hour_start DESC LIMIT max_hours); -- wrong clocks come last
    BEGIN
        samples := dgm.recompute_metric_hours(marked_hours);
        PERFORM dgm.recompute_metric_days(marked_hours);
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
        samples := 0;
        FOR i IN 1 .. cardinality(marked_hours) LOOP
            BEGIN
                samples := samples + dgm.recompute_metric_hours(marked_hours[i:i]);
                PERFORM dgm.recompute_metric_days(marked_hours[i:i]);
            EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                reason := SQLERRM;
                refused := refused || marked_hours[i];
                UPDATE dgm.aggregation_pending p SET failures = p.failures + 1, retry_at = now() + interval '1 hour', last_error = left(reason, 1000)
                WHERE p.hour_start = marked_hours[i];
            END;
        END LOOP;
    END;
    DELETE FROM dgm.aggregation_pending p WHERE p.hour_start = ANY (marked_hours) AND p.hour_start <> ALL (refused);
    hours := cardinality(marked_hours) - cardinality(refused);
    SELECT count(*) INTO pending_hours FROM dgm.aggregation_pending p WHERE p.retry_at IS NULL OR p.retry_at <= now();

    INSERT INTO dgm.aggregation_state AS s (system_identifier, marked_below, rows_not_folded, passes, last_pass_at, last_pass_hours, last_pass_rows, last_pass_seconds, rebuilt_at)
    VALUES (server, beyond, COALESCE(state.rows_not_folded, 0) + late, 1, began, hours, samples, extract(epoch FROM clock_timestamp() - began), COALESCE(state.rebuilt_at, began))
    ON CONFLICT (id) DO UPDATE SET system_identifier = excluded.system_identifier, marked_below = excluded.marked_below,
        rows_not_folded = excluded.rows_not_folded, passes = s.passes + 1, last_pass_at = excluded.last_pass_at, last_pass_hours = excluded.last_pass_hours,
        last_pass_rows = excluded.last_pass_rows, last_pass_seconds = excluded.last_pass_seconds, rebuilt_at = excluded.rebuilt_at;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.aggregate_metrics(integer) IS 'One pass: marks the hours that have new samples and computes the rollups of at most max_hours marked ones, the newest first. busy: another session is at it. hours, samples: what was computed and read; pending_hours: how many are left. Writes nothing when nothing is new.';
REVOKE ALL ON FUNCTION dgm.aggregate_metrics(integer) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.rebuild_metric_rollups(from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT 'infinity') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '60s'
AS $$
DECLARE
    lowest timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('dgm.aggregate_metrics', 0));
    SELECT GREATEST(from_time, s.floor) INTO lowest FROM dgm.metric_retention_state s;
    PERFORM dgm.mark_metric_hours(from_time, to_time, true);
    -- Hours that have rollups but no samples any more.
    INSERT INTO dgm.aggregation_pending AS p (hour_start, forced)
    SELECT DISTINCT r.window_start, true FROM dgm.metric_rollups r
    WHERE r.time_window = '1h' AND r.window_end > lowest AND r.window_start >= (SELECT s.floor FROM dgm.metric_retention_state s) AND r.window_start < to_time
    ON CONFLICT (hour_start) DO UPDATE SET since = NULL, forced = true, retry_at = NULL;
    UPDATE dgm.aggregation_pending p SET since = NULL, forced = true, retry_at = NULL -- refused ones
    WHERE p.hour_start + interval '1 hour' > lowest AND p.hour_start < to_time AND p.retry_at IS NOT NULL;
    RETURN (SELECT count(*) FROM dgm.aggregation_pending p WHERE p.forced AND p.hour_start + interval '1 hour' > lowest AND p.hour_start < to_time);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.rebuild_metric_rollups(timestamptz, timestamptz) IS 'Has the rollups of that time computed anew from the samples that there are, by the next passes; for samples that were deleted or changed by hand. Months that retention has dropped are left alone. Returns how many hours are marked.';
REVOKE ALL ON FUNCTION dgm.rebuild_metric_rollups(timestamptz, timestamptz) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.metrics_folded(from_time timestamptz, to_time timestamptz) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
            SELECT FROM dgm.aggregation_state s, pg_control_system() c
            WHERE s.system_identifier = c.system_identifier AND s.marked_below <= pg_snapshot_xmin(pg_current_snapshot()))
        AND NOT EXISTS (SELECT FROM dgm.aggregation_pending p WHERE p.hour_start >= from_time AND p.hour_start < to_time)
        AND NOT EXISTS (
            SELECT FROM dgm.performance_metrics m
            WHERE m."timestamp" >= from_time AND m."timestamp" < to_time
                AND (m.ingest_xid::text)::bigint >= (SELECT (s.marked_below::text)::bigint FROM dgm.aggregation_state s))
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.metrics_folded(timestamptz, timestamptz) IS 'Whether every visible sample from from_time until before to_time is in the rollups, so that it may be dropped. Both are to be full hours.';
REVOKE ALL ON FUNCTION dgm.metrics_folded(timestamptz, timestamptz) FROM PUBLIC;

CREATE VIEW dgm.v_metric_aggregation AS
SELECT s.last_pass_at, s.last_pass_hours, s.last_pass_rows, s.last_pass_seconds, s.passes, s.rebuilt_at, s.rows_not_folded,
    (SELECT count(*) FROM dgm.aggregation_pending p WHERE p.failures = 0) AS pending_hours,
    (SELECT count(*) FROM dgm.aggregation_pending p WHERE p.failures > 0) AS refused_hours,
    (SELECT p.last_error FROM dgm.aggregation_pending p WHERE p.failures > 0 ORDER BY p.hour_start DESC LIMIT 1) AS refused_because,
    GREATEST(0, extract(epoch FROM now() - LEAST(waiting.created_at, (SELECT min(p.marked_at) FROM dgm.aggregation_pending p))))::double precision AS lag_seconds,
    COALESCE(waiting.ingest_xid >= pg_snapshot_xmin(pg_current_snapshot()), false) AS held_back_by_transaction
FROM dgm.aggregation_state s
LEFT JOIN LATERAL (
    SELECT m.created_at, m.ingest_xid FROM dgm.performance_metrics m
    WHERE (m.ingest_xid::text)::bigint >= (s.marked_below::text)::bigint ORDER BY (m.ingest_xid::text)::bigint LIMIT 1
) waiting ON true;
COMMENT ON VIEW dgm.v_metric_aggregation IS 'How the aggregation of performance_metrics stands; no row before the first pass.';
COMMENT ON COLUMN dgm.v_metric_aggregation.last_pass_at IS 'When the last pass that wrote began.';
COMMENT ON COLUMN dgm.v_metric_aggregation.last_pass_hours IS 'Hours that it computed.';
COMMENT ON COLUMN dgm.v_metric_aggregation.last_pass_rows IS 'Samples that it read.';
COMMENT ON COLUMN dgm.v_metric_aggregation.last_pass_seconds IS 'How long it took, in seconds.';
COMMENT ON COLUMN dgm.v_metric_aggregation.passes IS 'Number of passes that wrote.';
COMMENT ON COLUMN dgm.v_metric_aggregation.rebuilt_at IS 'When everything was last marked to be aggregated anew.';
COMMENT ON COLUMN dgm.v_metric_aggregation.rows_not_folded IS 'Samples that came after their month had been dropped, or of no usable time: in no rollup.';
COMMENT ON COLUMN dgm.v_metric_aggregation.pending_hours IS 'Hours that are marked to be computed.';
COMMENT ON COLUMN dgm.v_metric_aggregation.refused_hours IS 'Hours whose samples PostgreSQL refused to aggregate, such as an overflowing sum; tried again every hour.';
COMMENT ON COLUMN dgm.v_metric_aggregation.refused_because IS 'Why it refused the newest of them.';
COMMENT ON COLUMN dgm.v_metric_aggregation.lag_seconds IS 'For how long the oldest sample that is in no rollup yet has been there; 0 when there is none.';
COMMENT ON COLUMN dgm.v_metric_aggregation.held_back_by_transaction IS 'Whether that one waits for the end of a transaction that runs since before it was committed.';

-- +goose Down
DROP VIEW dgm.v_metric_aggregation;
DROP FUNCTION dgm.metrics_folded(timestamptz, timestamptz);
DROP FUNCTION dgm.rebuild_metric_rollups(timestamptz, timestamptz);
DROP FUNCTION dgm.aggregate_metrics(integer);
DROP FUNCTION dgm.metrics_aggregation_due();
DROP FUNCTION dgm.mark_metric_hours(timestamptz, timestamptz, boolean);
DROP FUNCTION dgm.recompute_metric_days(timestamptz[]);
DROP FUNCTION dgm.recompute_metric_hours(timestamptz[]);
DROP FUNCTION dgm.metric_histogram_value(integer);
DROP TABLE dgm.aggregation_pending;
DROP TABLE dgm.aggregation_state;
DROP INDEX dgm.metric_rollups_window_start;
ALTER TABLE dgm.metric_rollups DROP COLUMN histogram_counts, DROP COLUMN histogram_bins;
