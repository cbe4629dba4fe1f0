-- name: LockFenceForTaking :one
SELECT cluster_uid, epoch, token, holder FROM dgm.writer_fences WHERE cluster = @cluster FOR UPDATE;

-- The row lock holds off a new leader until this transaction has ended; should
-- this process freeze in the middle of it, the server ends it. The settings last
-- as long as the transaction, and so survive a transaction pooler.
-- A restore from a dump keeps server and timeline, and brings epoch and token
-- back; but it inserts the fence's row anew, which xmin shows, and who truncates a
-- table or makes it anew gives it another file: that is the incarnation.
-- name: LockFence :one
SELECT f.epoch, f.token, i.identity::text AS identity, i.in_recovery::boolean AS in_recovery, i.wal_position::bigint AS wal_position,
    concat_ws('/', f.xmin, pg_relation_filenode(to_regclass('dgm.dgm_archive')), pg_relation_filenode(to_regclass('dgm.improvement_workspaces')),
        pg_relation_filenode(to_regclass('dgm.rollback_snapshots')), pg_relation_filenode(to_regclass('dgm.bandit_states')),
        pg_relation_filenode(to_regclass('dgm.system_configurations')))::text AS incarnation,
    set_config('synchronous_commit', 'on', true)::text AS synchronous_commit,
    set_config('lock_timeout', '2s', true)::text AS lock_timeout,
    set_config('statement_timeout', '30s', true)::text AS statement_timeout,
    set_config('idle_in_transaction_session_timeout', '10s', true)::text AS idle_timeout
FROM dgm.writer_fences f, dgm.server_identity() i WHERE f.cluster = @cluster FOR SHARE OF f;

-- name: CheckFence :one
SELECT f.epoch, f.token, i.identity::text AS identity, i.in_recovery::boolean AS in_recovery, i.wal_position::bigint AS wal_position,
    concat_ws('/', f.xmin, pg_relation_filenode(to_regclass('dgm.dgm_archive')), pg_relation_filenode(to_regclass('dgm.improvement_workspaces')),
        pg_relation_filenode(to_regclass('dgm.rollback_snapshots')), pg_relation_filenode(to_regclass('dgm.bandit_states')),
        pg_relation_filenode(to_regclass('dgm.system_configurations')))::text AS incarnation
FROM dgm.writer_fences f, dgm.server_identity() i WHERE f.cluster = @cluster;

-- The same limits for a transaction that only reads.
-- name: LimitWaiting :exec
SELECT set_config('lock_timeout', '2s', true)::text AS lock_timeout, set_config('statement_timeout', '30s', true)::text AS statement_timeout;

-- name: ServerIdentity :one
SELECT i.identity::text AS identity, i.in_recovery::boolean AS in_recovery, i.wal_position::bigint AS wal_position
FROM dgm.server_identity() i;

-- A restore takes the sequence and the rows back, but not the clock: an epoch is
-- at least its milliseconds, and so above those that were drawn before the restore.
-- name: HighestEpoch :one
SELECT GREATEST(
    (SELECT max(f.epoch) FROM dgm.writer_fences f WHERE f.cluster = @cluster::text),
    (SELECT max(a.writer_epoch) FROM dgm.dgm_archive a WHERE a.cluster = @cluster::text),
    (SELECT max(w.writer_epoch) FROM dgm.improvement_workspaces w WHERE w.cluster = @cluster::text),
    (SELECT max(b.writer_epoch) FROM dgm.bandit_states b WHERE b.cluster = @cluster::text),
    (SELECT max(c.writer_epoch) FROM dgm.system_configurations c WHERE c.cluster = @cluster::text),
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 1)::bigint AS epoch;

-- name: NextEpoch :one
SELECT nextval('dgm.writer_epoch')::bigint AS epoch;

-- name: RaiseEpoch :exec
SELECT setval('dgm.writer_epoch', @epoch::bigint);

-- name: TakeFence :execrows
INSERT INTO dgm.writer_fences AS f (cluster, cluster_uid, epoch, token, holder)
VALUES (@cluster, @cluster_uid, @epoch, @token, @holder)
ON CONFLICT (cluster) DO UPDATE SET cluster_uid = excluded.cluster_uid, epoch = excluded.epoch, token = excluded.token,
    holder = excluded.holder, acquired_at = now()
WHERE f.epoch < excluded.epoch;

-- name: EnsureMetricPartitions :one
SELECT dgm.ensure_metric_partitions()::integer AS made;
