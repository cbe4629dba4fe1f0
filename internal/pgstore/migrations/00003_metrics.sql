-- min-compatible-binary: 5
-- +goose Up
CREATE TABLE dgm.performance_metrics (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    metric_name text NOT NULL,
    metric_type text NOT NULL CHECK (metric_type IN ('latency', 'throughput', 'error_rate', 'resource_usage', 'constitutional_compliance', 'improvement_success_rate', 'bandit_reward', 'system_health')),
    metric_scope text NOT NULL CHECK (metric_scope IN ('service', 'system', 'improvement', 'experiment')),
    value numeric NOT NULL CHECK (value > '-Infinity' AND value < 'Infinity'),
    unit text,
    service_name text,
    improvement_id uuid,
    experiment_id uuid,
    tags jsonb,
    dimensions jsonb,
    metadata jsonb,
    constitutional_compliance_score numeric(3,2) CHECK (constitutional_compliance_score BETWEEN 0 AND 1),
    timestamp timestamptz NOT NULL DEFAULT now(),
    cluster text,
    namespace text,
    name text,
    uid text,
    generation bigint,
    writer_epoch bigint,
    revision bigint,
    deleted_at timestamptz,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() CHECK (constitutional_hash ~ '^[0-9a-f]{16,64}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("timestamp", id)
) PARTITION BY RANGE ("timestamp");
COMMENT ON TABLE dgm.performance_metrics IS 'Metric samples, one partition per month of timestamp in UTC. History: rows are added, never changed.';
COMMENT ON COLUMN dgm.performance_metrics.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.performance_metrics.metric_name IS 'Name of the metric.';
COMMENT ON COLUMN dgm.performance_metrics.metric_type IS 'What is measured: latency, throughput, error_rate, resource_usage, constitutional_compliance, improvement_success_rate, bandit_reward or system_health.';
COMMENT ON COLUMN dgm.performance_metrics.metric_scope IS 'What it is measured for: service, system, improvement or experiment.';
COMMENT ON COLUMN dgm.performance_metrics.value IS 'The value, finite, in unit.';
COMMENT ON COLUMN dgm.performance_metrics.unit IS 'Unit of value.';
COMMENT ON COLUMN dgm.performance_metrics.service_name IS 'Service that was measured.';
COMMENT ON COLUMN dgm.performance_metrics.improvement_id IS 'Attempt that it belongs to; may arrive before its archive row, so not a foreign key.';
COMMENT ON COLUMN dgm.performance_metrics.experiment_id IS 'Experiment that it belongs to.';
COMMENT ON COLUMN dgm.performance_metrics.tags IS 'Labels of the series.';
COMMENT ON COLUMN dgm.performance_metrics.dimensions IS 'Further labels of the sample.';
COMMENT ON COLUMN dgm.performance_metrics.metadata IS 'Anything else worth keeping.';
COMMENT ON COLUMN dgm.performance_metrics.constitutional_compliance_score IS 'Score at that time, truncated to two digits.';
COMMENT ON COLUMN dgm.performance_metrics.timestamp IS 'When it was measured.';
COMMENT ON COLUMN dgm.performance_metrics.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.performance_metrics.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.performance_metrics.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.performance_metrics.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.performance_metrics.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.performance_metrics.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.performance_metrics.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.performance_metrics.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.performance_metrics.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.performance_metrics.created_at IS 'When the row was inserted.';
CREATE INDEX idx_performance_metrics_composite ON dgm.performance_metrics (service_name, metric_type, "timestamp" DESC);
CREATE INDEX performance_metrics_improvement ON dgm.performance_metrics (improvement_id) WHERE improvement_id IS NOT NULL;
CREATE TABLE dgm.performance_metrics_default PARTITION OF dgm.performance_metrics DEFAULT;
COMMENT ON TABLE dgm.performance_metrics_default IS 'Samples of months that have no partition; ensure_metric_partitions moves them out.';

-- Bounds are UTC with an explicit offset: in a session of another zone a month would begin hours off.
-- +goose StatementBegin
CREATE FUNCTION dgm.ensure_metric_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 6) RETURNS integer
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
REVOKE ALL ON FUNCTION dgm.ensure_metric_partitions(integer, integer) FROM PUBLIC;
SELECT dgm.ensure_metric_partitions();

CREATE TABLE dgm.metric_rollups (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    metric_name text NOT NULL,
    metric_type text NOT NULL CHECK (metric_type IN ('latency', 'throughput', 'error_rate', 'resource_usage', 'constitutional_compliance', 'improvement_success_rate', 'bandit_reward', 'system_health')),
    time_window text NOT NULL CHECK (time_window IN ('1m', '5m', '1h', '1d')),
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    service_name text,
    tags jsonb,
    tags_hash text NOT NULL DEFAULT '',
    count bigint NOT NULL CHECK (count >= 0),
    sum numeric,
    avg numeric,
    min_value numeric,
    max_value numeric,
    p50 numeric,
    p95 numeric,
    p99 numeric,
    percentile_method text,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() CHECK (constitutional_hash ~ '^[0-9a-f]{16,64}$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT metric_rollups_series UNIQUE NULLS NOT DISTINCT (metric_name, metric_type, time_window, window_start, service_name, tags_hash),
    CONSTRAINT metric_rollups_window CHECK (window_end > window_start)
);
COMMENT ON TABLE dgm.metric_rollups IS 'Aggregates of performance_metrics, one wide row per series and window; read them through metric_aggregations.';
COMMENT ON COLUMN dgm.metric_rollups.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.metric_rollups.metric_name IS 'Name of the metric.';
COMMENT ON COLUMN dgm.metric_rollups.metric_type IS 'As in performance_metrics.';
COMMENT ON COLUMN dgm.metric_rollups.time_window IS 'Length of the window: 1m, 5m, 1h or 1d.';
COMMENT ON COLUMN dgm.metric_rollups.window_start IS 'Start of the window, inclusive.';
COMMENT ON COLUMN dgm.metric_rollups.window_end IS 'End of the window, exclusive.';
COMMENT ON COLUMN dgm.metric_rollups.service_name IS 'Service that was measured.';
COMMENT ON COLUMN dgm.metric_rollups.tags IS 'Labels of the series.';
COMMENT ON COLUMN dgm.metric_rollups.tags_hash IS 'Hash of tags, for the key.';
COMMENT ON COLUMN dgm.metric_rollups.count IS 'Number of samples.';
COMMENT ON COLUMN dgm.metric_rollups.sum IS 'Sum of the values.';
COMMENT ON COLUMN dgm.metric_rollups.avg IS 'Mean.';
COMMENT ON COLUMN dgm.metric_rollups.min_value IS 'Smallest value.';
COMMENT ON COLUMN dgm.metric_rollups.max_value IS 'Largest value.';
COMMENT ON COLUMN dgm.metric_rollups.p50 IS 'Median.';
COMMENT ON COLUMN dgm.metric_rollups.p95 IS '95th percentile.';
COMMENT ON COLUMN dgm.metric_rollups.p99 IS '99th percentile.';
COMMENT ON COLUMN dgm.metric_rollups.percentile_method IS 'How the percentiles were computed.';
COMMENT ON COLUMN dgm.metric_rollups.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.metric_rollups.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.metric_rollups.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.metric_rollups FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();

CREATE VIEW dgm.metric_aggregations AS
SELECT a.id, a.metric_name, a.metric_type, a.aggregation_type, a.time_window, a.value, a.count, a.min_value, a.max_value,
    a.service_name, a.tags, a.window_start, a.window_end, a.constitutional_hash, a.created_at, a.updated_at
FROM (
    SELECT r.*,
        unnest(ARRAY['avg', 'sum', 'min', 'max', 'count', 'p50', 'p95', 'p99']) AS aggregation_type,
        unnest(ARRAY[r.avg, r.sum, r.min_value, r.max_value, r.count::numeric, r.p50, r.p95, r.p99]) AS value
    FROM dgm.metric_rollups r
) a
WHERE a.value IS NOT NULL;
COMMENT ON VIEW dgm.metric_aggregations IS 'Aggregates of performance_metrics, one row per aggregation type, window and series.';
COMMENT ON COLUMN dgm.metric_aggregations.id IS 'Id of the rollup row; the aggregation types of a window share it.';
COMMENT ON COLUMN dgm.metric_aggregations.metric_name IS 'Name of the metric.';
COMMENT ON COLUMN dgm.metric_aggregations.metric_type IS 'As in performance_metrics.';
COMMENT ON COLUMN dgm.metric_aggregations.aggregation_type IS 'avg, sum, min, max, count, p50, p95 or p99.';
COMMENT ON COLUMN dgm.metric_aggregations.time_window IS 'Length of the window: 1m, 5m, 1h or 1d.';
COMMENT ON COLUMN dgm.metric_aggregations.value IS 'The aggregate.';
COMMENT ON COLUMN dgm.metric_aggregations.count IS 'Number of samples.';
COMMENT ON COLUMN dgm.metric_aggregations.min_value IS 'Smallest value.';
COMMENT ON COLUMN dgm.metric_aggregations.max_value IS 'Largest value.';
COMMENT ON COLUMN dgm.metric_aggregations.service_name IS 'Service that was measured.';
COMMENT ON COLUMN dgm.metric_aggregations.tags IS 'Labels of the series.';
COMMENT ON COLUMN dgm.metric_aggregations.window_start IS 'Start of the window, inclusive.';
COMMENT ON COLUMN dgm.metric_aggregations.window_end IS 'End of the window, exclusive.';
COMMENT ON COLUMN dgm.metric_aggregations.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.metric_aggregations.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.metric_aggregations.updated_at IS 'When the row last changed.';

-- +goose Down
DROP VIEW dgm.metric_aggregations;
DROP TABLE dgm.metric_rollups;
DROP FUNCTION dgm.ensure_metric_partitions(integer, integer);
DROP TABLE dgm.performance_metrics;
