-- min-compatible-binary: 5
-- +goose Up
-- pg_current_xact_id() is stable, so that neither the default nor NOT NULL rewrites or scans a table with
-- rows: all that are there already are given the transaction of this migration.
ALTER TABLE dgm.performance_metrics ADD COLUMN ingest_xid xid8 NOT NULL DEFAULT pg_current_xact_id();
COMMENT ON COLUMN dgm.performance_metrics.ingest_xid IS 'Transaction that put the row where it is: what aggregation has not seen yet is found by it. Rows older than the column have that of its migration.';

-- One sample that cannot be added up, or is too long for the index of rollups, would keep its hour from all of
-- them. These are the limits of every double and of the operator itself; samples that are there already are not judged.
ALTER TABLE dgm.performance_metrics
    ADD CONSTRAINT performance_metrics_value_bounded CHECK (abs(value) < 1e308) NOT VALID,
    ADD CONSTRAINT performance_metrics_names_bounded CHECK (octet_length(metric_name) <= 1024 AND octet_length(service_name) <= 1024) NOT VALID;

CREATE TABLE dgm.metric_batches (
    batch_id uuid PRIMARY KEY,
    cluster text,
    rows integer NOT NULL CHECK (rows > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.metric_batches IS 'Batches of samples that are in performance_metrics: a row is inserted in the transaction of its batch, so that a repetition after an answer that was lost finds it and does nothing. Purged after some days.';
COMMENT ON COLUMN dgm.metric_batches.batch_id IS 'Id that the client gave the batch; the same for each repetition.';
COMMENT ON COLUMN dgm.metric_batches.cluster IS 'Name of the Kubernetes cluster that it came from.';
COMMENT ON COLUMN dgm.metric_batches.rows IS 'Number of samples.';
COMMENT ON COLUMN dgm.metric_batches.created_at IS 'When it was committed, nearly.';
CREATE INDEX metric_batches_created ON dgm.metric_batches (created_at);

CREATE TABLE dgm.metric_retention_state (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    floor timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.metric_retention_state IS 'How far retention of performance_metrics has come; one row.';
COMMENT ON COLUMN dgm.metric_retention_state.id IS 'Always 1.';
COMMENT ON COLUMN dgm.metric_retention_state.floor IS 'Samples older than this may have been dropped: aggregates of windows that begin earlier are never computed again, and no partition is made there. Only grows.';
COMMENT ON COLUMN dgm.metric_retention_state.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.metric_retention_state FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();
INSERT INTO dgm.metric_retention_state DEFAULT VALUES;

-- Months are those of UTC, whatever the zone of the session. Far-off samples stay in the default partition:
-- a clock that runs in the year 9999 must not make partitions up to there.
-- +goose StatementBegin
CREATE FUNCTION dgm.missing_metric_months(months_back integer, months_ahead integer) RETURNS SETOF timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.first_month
    FROM (
        SELECT i, (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC' AS first_month,
            (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i + 1)) AT TIME ZONE 'UTC' AS next_month
        FROM generate_series(LEAST(-months_back, -36), months_ahead) AS i
    ) m
    WHERE to_regclass('dgm.performance_metrics_' || to_char(m.first_month AT TIME ZONE 'UTC', 'YYYYMM')) IS NULL
        AND m.first_month >= (SELECT s.floor FROM dgm.metric_retention_state s)
        AND (m.i >= -months_back OR EXISTS (
            SELECT FROM dgm.performance_metrics_default d WHERE d."timestamp" >= m.first_month AND d."timestamp" < m.next_month))
    ORDER BY m.first_month
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.missing_metric_months(integer, integer) IS 'First instants of the months that want a partition of performance_metrics: from months_back before the current one to months_ahead after it, and of the last three years those that samples in the default partition belong to; none before the floor of metric_retention_state.';
REVOKE ALL ON FUNCTION dgm.missing_metric_months(integer, integer) FROM PUBLIC;

-- Inserts wait while a partition is made: one that had chosen the default partition before would fail once it
-- has been attached (PostgreSQL checks again). Who reads goes on, but for the default partition.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION dgm.ensure_metric_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 6) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
AS $$
DECLARE
    first_month timestamptz;
    lower_bound text;
    upper_bound text;
    partition_name text;
    moved_columns text;
    made integer := 0;
BEGIN
    IF months_back NOT BETWEEN 0 AND 120 OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'partitions are made for 0 to 120 months back and ahead, not % and %', months_back, months_ahead USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM dgm.missing_metric_months(months_back, months_ahead))
        OR NOT pg_try_advisory_xact_lock(hashtextextended('dgm.ensure_metric_partitions', 0)) THEN
        RETURN 0;
    END IF;
    -- ingest_xid is left out: a moved row is new to those whose snapshot is older than its partition.
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO moved_columns FROM pg_attribute
    WHERE attrelid = 'dgm.performance_metrics'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'ingest_xid';
    LOCK TABLE ONLY dgm.performance_metrics IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE dgm.performance_metrics_default IN ACCESS EXCLUSIVE MODE;
    FOR first_month IN SELECT m FROM dgm.missing_metric_months(months_back, months_ahead) AS m LOOP
        lower_bound := to_char(first_month AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00';
        upper_bound := to_char((first_month AT TIME ZONE 'UTC') + interval '1 month', 'YYYY-MM-DD HH24:MI:SS') || '+00';
        partition_name := 'performance_metrics_' || to_char(first_month AT TIME ZONE 'UTC', 'YYYYMM');
        -- The check spares the attach a scan of the new table.
        EXECUTE format('CREATE TABLE dgm.%I (LIKE dgm.performance_metrics INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMPRESSION, '
            'CONSTRAINT bounds CHECK ("timestamp" >= %L AND "timestamp" < %L))', partition_name, lower_bound, upper_bound);
        EXECUTE format('WITH moved AS (DELETE FROM dgm.performance_metrics_default WHERE "timestamp" >= %L AND "timestamp" < %L RETURNING *) '
            'INSERT INTO dgm.%I (%s) SELECT %s FROM moved', lower_bound, upper_bound, partition_name, moved_columns, moved_columns);
        EXECUTE format('ALTER TABLE dgm.performance_metrics ATTACH PARTITION dgm.%I FOR VALUES FROM (%L) TO (%L)',
            partition_name, lower_bound, upper_bound);
        EXECUTE format('ALTER TABLE dgm.%I DROP CONSTRAINT bounds', partition_name);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.ensure_metric_partitions(integer, integer) IS 'Makes the missing partitions of performance_metrics, for at most 120 months back and ahead, and moves their samples out of the default one, all in one transaction; returns how many it made, 0 as well when another session is at it. See missing_metric_months.';

-- +goose StatementBegin
CREATE FUNCTION dgm.compress_json() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    json_column record;
    changed integer := 0;
BEGIN
    FOR json_column IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped
            AND a.atttypid = 'jsonb'::regtype AND a.attcompression <> 'l'
        ORDER BY c.relname, a.attnum
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', json_column.relation, json_column.name);
        changed := changed + 1;
    END LOOP;
    RETURN changed;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    RAISE NOTICE 'this server is built without LZ4: documents stay compressed with pglz';
    RETURN 0;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.compress_json() IS 'For migrations: has large documents (jsonb columns) that are written from now on compressed with LZ4, where the server can; returns how many columns it changed.';
REVOKE ALL ON FUNCTION dgm.compress_json() FROM PUBLIC;
SELECT dgm.compress_json();

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    json_column record;
BEGIN
    FOR json_column IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped AND a.attcompression = 'l'
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION default', json_column.relation, json_column.name);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION dgm.compress_json();
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION dgm.ensure_metric_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 6) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    first_month timestamptz;
    next_month timestamptz;
    partition_name text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('dgm.ensure_metric_partitions', 0));
    FOR i IN -months_back .. months_ahead LOOP
        first_month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        next_month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i + 1)) AT TIME ZONE 'UTC';
        partition_name := 'performance_metrics_' || to_char(first_month AT TIME ZONE 'UTC', 'YYYYMM');
        CONTINUE WHEN to_regclass('dgm.' || partition_name) IS NOT NULL;
        -- No sample may slip into the default partition between its draining and the attach.
        LOCK TABLE dgm.performance_metrics_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE dgm.%I (LIKE dgm.performance_metrics INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition_name);
        EXECUTE format('WITH moved AS (DELETE FROM dgm.performance_metrics_default WHERE "timestamp" >= $1 AND "timestamp" < $2 RETURNING *) INSERT INTO dgm.%I SELECT * FROM moved', partition_name)
            USING first_month, next_month;
        EXECUTE format('ALTER TABLE dgm.performance_metrics ATTACH PARTITION dgm.%I FOR VALUES FROM (%L) TO (%L)', partition_name,
            to_char(first_month AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00', to_char(next_month AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.ensure_metric_partitions(integer, integer) IS 'Makes the missing partitions of performance_metrics around the current month and moves rows there from the default one; returns how many it made.';
DROP FUNCTION dgm.missing_metric_months(integer, integer);
DROP TABLE dgm.metric_retention_state;
DROP TABLE dgm.metric_batches;
ALTER TABLE dgm.performance_metrics
    DROP CONSTRAINT performance_metrics_names_bounded,
    DROP CONSTRAINT performance_metrics_value_bounded,
    DROP COLUMN ingest_xid;
