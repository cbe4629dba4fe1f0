-- mine is false when the batch is in the database already: its commit went well
-- although the answer was lost. Another transaction with the same batch is waited for.
-- name: BeginMetricBatch :one
WITH inserted AS (
    INSERT INTO dgm.metric_batches (batch_id, cluster, rows) VALUES (@batch_id, @cluster, @rows) ON CONFLICT (batch_id) DO NOTHING RETURNING batch_id
)
SELECT EXISTS (SELECT FROM inserted)::boolean AS mine, COALESCE(dgm.active_constitutional_hash(), '')::text AS constitutional_hash;

-- name: CopyMetrics :copyfrom
INSERT INTO dgm.performance_metrics (id, metric_name, metric_type, metric_scope, value, unit, service_name, improvement_id, experiment_id,
    tags, dimensions, metadata, constitutional_compliance_score, "timestamp", cluster, namespace, name, uid, generation, writer_epoch, constitutional_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21);

-- name: RecordedMetrics :many
SELECT m.id FROM dgm.performance_metrics m
JOIN (SELECT unnest(@ids::uuid[]) AS id, unnest(@timestamps::timestamptz[]) AS "timestamp") r ON m."timestamp" = r."timestamp" AND m.id = r.id;

-- name: UnfinishedIndexes :many
SELECT parent_index::text AS parent_index, partition::text AS partition, index_name::text AS index_name, state::text AS state, next_statement::text AS next_statement
FROM dgm.unfinished_indexes();

-- name: WaitForLocks :exec
SELECT set_config('lock_timeout', @timeout::text, false);

-- Moving the samples of a whole month may take longer than most statements may.
-- name: LetPartitionsTakeLonger :exec
SELECT set_config('statement_timeout', '10min', true);

-- name: DropExpiredMetricPartitions :one
SELECT dgm.drop_expired_metric_partitions(@retention_days::integer, @wait_for_aggregation::boolean)::integer AS dropped;

-- name: DeleteExpiredMetrics :one
SELECT dgm.delete_expired_metrics()::integer AS deleted;

-- name: PurgeMetricBatches :one
SELECT dgm.purge_metric_batches()::integer AS purged;
