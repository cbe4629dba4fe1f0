-- Rows of other services may bear our cluster's name: without a uid, or a name, they show no object of ours.
-- name: LiveImprovements :many
SELECT o.namespace::text AS namespace, o.name::text AS name, o.uid::text AS uid FROM (
    SELECT a.namespace, a.name, a.uid FROM dgm.dgm_archive a WHERE a.cluster = @cluster::text AND a.deleted_at IS NULL
    UNION
    SELECT w.namespace, w.name, w.uid FROM dgm.improvement_workspaces w WHERE w.cluster = @cluster::text AND w.deleted_at IS NULL
) o
WHERE o.namespace IS NOT NULL AND o.name IS NOT NULL AND o.uid IS NOT NULL
  AND (o.namespace, o.name, o.uid) > (@after_namespace::text, @after_name::text, @after_uid::text)
ORDER BY o.namespace, o.name, o.uid LIMIT @page_size::integer;

-- name: LivePolicies :many
SELECT DISTINCT b.namespace::text AS namespace, b.name::text AS name, b.uid::text AS uid FROM dgm.bandit_states b
WHERE b.cluster = @cluster::text AND b.deleted_at IS NULL AND b.namespace IS NOT NULL AND b.name IS NOT NULL AND b.uid IS NOT NULL
  AND (b.namespace, b.name, b.uid) > (@after_namespace::text, @after_name::text, @after_uid::text)
ORDER BY 1, 2, 3 LIMIT @page_size::integer;

-- name: NewestAttempts :many
SELECT r.namespace::text AS namespace, r.name::text AS name, a.improvement_id, a.parent_improvement_id, a.attempt,
    COALESCE(a.material_digest, '')::text AS material_digest, COALESCE(a.uid, '')::text AS uid, a.status,
    COALESCE(a.outcome_reason, '')::text AS outcome_reason, a."timestamp", a.deleted_at,
    (SELECT w.completed_at FROM dgm.improvement_workspaces w WHERE w.improvement_id = a.improvement_id)::timestamptz AS completed_at,
    EXISTS (SELECT 1 FROM dgm.rollback_snapshots s WHERE s.improvement_id = a.improvement_id AND s.purged_at IS NULL) AS has_snapshot
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name) r
JOIN LATERAL (
    SELECT n.id FROM dgm.dgm_archive n
    WHERE n.cluster = @cluster::text AND n.namespace = r.namespace AND n.name = r.name
    ORDER BY n.attempt DESC, n."timestamp" DESC LIMIT 1
) newest ON true
JOIN dgm.dgm_archive a ON a.id = newest.id;

-- Deletions with live rows left. keep_uids names the object that lives under the name now, if any.
-- name: PendingTombstonesImprovements :many
SELECT DISTINCT r.namespace::text AS namespace, r.name::text AS name
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@keep_uids::text[]) AS keep_uid) r
WHERE EXISTS (SELECT 1 FROM dgm.dgm_archive t WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
        AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL)
   OR EXISTS (SELECT 1 FROM dgm.improvement_workspaces t WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
        AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL);

-- An attempt whose object vanished before its end has failed; an ended one keeps its outcome (P11).
-- name: TombstoneArchive :many
UPDATE dgm.dgm_archive t SET deleted_at = now(), writer_epoch = @writer_epoch::bigint, revision = @revision::bigint,
    content_digest = CASE WHEN t.status IN ('pending', 'running') THEN NULL ELSE t.content_digest END,
    outcome_reason = CASE WHEN t.status IN ('pending', 'running') THEN 'ObjectDeleted' ELSE t.outcome_reason END,
    status = CASE WHEN t.status IN ('pending', 'running') THEN 'failed' ELSE t.status END
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@keep_uids::text[]) AS keep_uid) r
WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
  AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL
  AND (t.writer_epoch, t.revision) <= (@writer_epoch::bigint, @revision::bigint)
RETURNING COALESCE(t.uid, '')::text AS uid;

-- name: TombstoneWorkspaces :many
UPDATE dgm.improvement_workspaces t SET deleted_at = now(), writer_epoch = @writer_epoch::bigint, revision = @revision::bigint,
    completed_at = CASE WHEN t.status IN ('created', 'active', 'testing', 'validating') THEN now() ELSE t.completed_at END,
    status = CASE WHEN t.status IN ('created', 'active', 'testing', 'validating') THEN 'failed' ELSE t.status END
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@keep_uids::text[]) AS keep_uid) r
WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
  AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL
  AND (t.writer_epoch, t.revision) <= (@writer_epoch::bigint, @revision::bigint)
RETURNING COALESCE(t.uid, '')::text AS uid;

-- name: PendingTombstonesPolicies :many
SELECT DISTINCT r.namespace::text AS namespace, r.name::text AS name
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@keep_uids::text[]) AS keep_uid) r
WHERE EXISTS (SELECT 1 FROM dgm.bandit_states t WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
        AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL);

-- name: TombstonePolicies :many
UPDATE dgm.bandit_states t SET deleted_at = now(), last_updated = now(), writer_epoch = @writer_epoch::bigint, revision = @revision::bigint
FROM (SELECT unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@keep_uids::text[]) AS keep_uid) r
WHERE t.cluster = @cluster::text AND t.namespace = r.namespace AND t.name = r.name
  AND t.uid IS DISTINCT FROM r.keep_uid AND t.deleted_at IS NULL
  AND (t.writer_epoch, t.revision) <= (@writer_epoch::bigint, @revision::bigint)
RETURNING COALESCE(t.uid, '')::text AS uid;
