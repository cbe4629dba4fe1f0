-- name: SnapshotsToPurge :one
SELECT EXISTS (
    SELECT 1 FROM dgm.rollback_snapshots s
    JOIN dgm.dgm_archive a ON a.improvement_id = s.improvement_id
    WHERE s.purged_at IS NULL AND s.created_at < now() - make_interval(secs => @retention_seconds::float8) AND a.cluster = @cluster::text
      AND a.status IN ('completed', 'failed', 'rolled_back'))::boolean AS found;

-- name: PurgeSnapshots :one
SELECT dgm.purge_rollback_snapshots(@cluster::text, make_interval(secs => @retention_seconds::float8), @at_most::integer)::integer AS purged;

-- Ended workspaces whose retention is over. The mirror leaves the mark alone
-- until the improvement takes another step.
-- name: ArchiveWorkspaces :execrows
UPDATE dgm.improvement_workspaces w SET status = 'archived'
WHERE w.id IN (
    SELECT o.id FROM dgm.improvement_workspaces o
    WHERE o.cluster = @cluster::text AND o.status IN ('completed', 'failed')
      AND COALESCE(o.completed_at, o.deleted_at) < now() - make_interval(secs => @retention_seconds::float8)
    ORDER BY o.id LIMIT @at_most::integer FOR UPDATE SKIP LOCKED);

-- name: WorkspacesToArchive :one
SELECT EXISTS (
    SELECT 1 FROM dgm.improvement_workspaces o
    WHERE o.cluster = @cluster::text AND o.status IN ('completed', 'failed')
      AND COALESCE(o.completed_at, o.deleted_at) < now() - make_interval(secs => @retention_seconds::float8))::boolean AS found;
