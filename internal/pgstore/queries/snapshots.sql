-- name: InsertSnapshot :execrows
INSERT INTO dgm.rollback_snapshots (improvement_id, revision, writer_epoch, format, sha256, plain_size, key_id, bytes, constitutional_hash)
VALUES (@improvement_id, @revision, @writer_epoch, @format, @sha256, @plain_size, @key_id, @bytes,
    COALESCE(NULLIF(@constitutional_hash::text, ''), dgm.active_constitutional_hash()))
ON CONFLICT (improvement_id) DO NOTHING;

-- name: SnapshotDigest :one
SELECT sha256 FROM dgm.rollback_snapshots WHERE improvement_id = @improvement_id;

-- name: Snapshot :one
SELECT format, sha256, plain_size, key_id, bytes, purged_at FROM dgm.rollback_snapshots WHERE improvement_id = @improvement_id;

-- Of the given improvements, those that have no snapshot.
-- name: WithoutSnapshot :many
SELECT r.improvement_id::uuid AS improvement_id
FROM (SELECT unnest(@improvement_ids::uuid[]) AS improvement_id) r
WHERE NOT EXISTS (SELECT 1 FROM dgm.rollback_snapshots s WHERE s.improvement_id = r.improvement_id);
