-- A terminal row changes no more, but from completed to rolled_back (P11); equal
-- content digests mean that its columns were edited by hand and are put back.
-- name: UpsertArchive :execrows
INSERT INTO dgm.dgm_archive AS t (
    id, improvement_id, parent_improvement_id, attempt, material_digest, "timestamp", description, algorithm_changes,
    performance_before, performance_after, constitutional_compliance_score, constitutional_compliance_score_exact,
    compliance_details, status, outcome_reason, rollback_data, metadata, created_by, content_digest, cluster, namespace,
    name, uid, generation, writer_epoch, revision, constitutional_hash)
SELECT
    r.id, r.improvement_id, NULLIF(r.parent_improvement_id, '')::uuid, r.attempt, NULLIF(r.material_digest, ''),
    r."timestamp", r.description, NULLIF(r.algorithm_changes, '')::jsonb, NULLIF(r.performance_before, '')::jsonb,
    NULLIF(r.performance_after, '')::jsonb, trunc(NULLIF(r.constitutional_compliance_score, '')::numeric, 2),
    NULLIF(r.constitutional_compliance_score, '')::numeric, NULLIF(r.compliance_details, '')::jsonb, r.status,
    NULLIF(r.outcome_reason, ''), NULLIF(r.rollback_data, '')::jsonb, NULLIF(r.metadata, '')::jsonb,
    NULLIF(r.created_by, ''), r.content_digest, r.cluster, r.namespace, r.name, r.uid, r.generation, r.writer_epoch,
    r.revision, COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@improvement_ids::uuid[]) AS improvement_id,
        unnest(@parent_improvement_ids::text[]) AS parent_improvement_id, unnest(@attempts::integer[]) AS attempt,
        unnest(@material_digests::text[]) AS material_digest, unnest(@timestamps::timestamptz[]) AS "timestamp",
        unnest(@descriptions::text[]) AS description, unnest(@algorithm_changes_docs::text[]) AS algorithm_changes,
        unnest(@performance_before_docs::text[]) AS performance_before,
        unnest(@performance_after_docs::text[]) AS performance_after,
        unnest(@constitutional_compliance_scores::text[]) AS constitutional_compliance_score,
        unnest(@compliance_details_docs::text[]) AS compliance_details, unnest(@statuses::text[]) AS status,
        unnest(@outcome_reasons::text[]) AS outcome_reason, unnest(@rollback_data_docs::text[]) AS rollback_data,
        unnest(@metadata_docs::text[]) AS metadata, unnest(@created_bys::text[]) AS created_by,
        unnest(@content_digests::bytea[]) AS content_digest, unnest(@namespaces::text[]) AS namespace,
        unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid, unnest(@generations::bigint[]) AS generation,
        unnest(@revisions::bigint[]) AS revision, unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
ON CONFLICT (improvement_id) DO UPDATE SET
    parent_improvement_id = excluded.parent_improvement_id, attempt = excluded.attempt,
    material_digest = excluded.material_digest, "timestamp" = excluded."timestamp", description = COALESCE(NULLIF(excluded.description, ''), t.description),
    algorithm_changes = COALESCE(excluded.algorithm_changes, t.algorithm_changes), performance_before = excluded.performance_before,
    performance_after = excluded.performance_after,
    constitutional_compliance_score = excluded.constitutional_compliance_score,
    constitutional_compliance_score_exact = excluded.constitutional_compliance_score_exact,
    compliance_details = excluded.compliance_details, status = excluded.status, outcome_reason = excluded.outcome_reason,
    rollback_data = excluded.rollback_data, metadata = excluded.metadata, created_by = excluded.created_by,
    content_digest = excluded.content_digest, cluster = excluded.cluster, namespace = excluded.namespace,
    name = excluded.name, uid = excluded.uid, generation = excluded.generation, writer_epoch = excluded.writer_epoch,
    revision = excluded.revision, constitutional_hash = excluded.constitutional_hash, deleted_at = NULL
WHERE (t.writer_epoch, t.revision) <= (excluded.writer_epoch, excluded.revision)
  AND (t.status NOT IN ('completed', 'failed', 'rolled_back') OR t.content_digest = excluded.content_digest
       OR (t.status = 'completed' AND excluded.status = 'rolled_back'));

-- Rows that UpsertArchive or TouchFinalArchive would change. Its parameters are those of UpsertArchive.
-- name: ChangedArchive :many
SELECT r.improvement_id::uuid AS improvement_id
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@improvement_ids::uuid[]) AS improvement_id,
        unnest(@parent_improvement_ids::text[]) AS parent_improvement_id, unnest(@attempts::integer[]) AS attempt,
        unnest(@material_digests::text[]) AS material_digest, unnest(@timestamps::timestamptz[]) AS "timestamp",
        unnest(@descriptions::text[]) AS description, unnest(@algorithm_changes_docs::text[]) AS algorithm_changes,
        unnest(@performance_before_docs::text[]) AS performance_before,
        unnest(@performance_after_docs::text[]) AS performance_after,
        unnest(@constitutional_compliance_scores::text[]) AS constitutional_compliance_score,
        unnest(@compliance_details_docs::text[]) AS compliance_details, unnest(@statuses::text[]) AS status,
        unnest(@outcome_reasons::text[]) AS outcome_reason, unnest(@rollback_data_docs::text[]) AS rollback_data,
        unnest(@metadata_docs::text[]) AS metadata, unnest(@created_bys::text[]) AS created_by,
        unnest(@content_digests::bytea[]) AS content_digest, unnest(@namespaces::text[]) AS namespace,
        unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid, unnest(@generations::bigint[]) AS generation,
        unnest(@revisions::bigint[]) AS revision, unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
LEFT JOIN dgm.dgm_archive t ON t.improvement_id = r.improvement_id
WHERE t.id IS NULL OR t.deleted_at IS NOT NULL OR t.uid IS DISTINCT FROM r.uid OR t.generation IS DISTINCT FROM r.generation
   OR t.writer_epoch > r.writer_epoch
   OR ((t.status NOT IN ('completed', 'failed', 'rolled_back') OR t.content_digest = r.content_digest
       OR (t.status = 'completed' AND r.status = 'rolled_back'))
      AND ROW(t.parent_improvement_id, t.attempt, t.material_digest, t."timestamp", t.description, t.algorithm_changes,
        t.performance_before, t.performance_after, t.constitutional_compliance_score, t.constitutional_compliance_score_exact,
        t.compliance_details, t.status, t.outcome_reason, t.rollback_data, t.metadata, t.created_by, t.cluster, t.namespace,
        t.name, t.generation, t.constitutional_hash)
      IS DISTINCT FROM ROW(NULLIF(r.parent_improvement_id, '')::uuid, r.attempt, NULLIF(r.material_digest, ''), r."timestamp",
        COALESCE(NULLIF(r.description, ''), t.description),
        COALESCE(NULLIF(r.algorithm_changes, '')::jsonb, t.algorithm_changes), NULLIF(r.performance_before, '')::jsonb, NULLIF(r.performance_after, '')::jsonb,
        trunc(NULLIF(r.constitutional_compliance_score, '')::numeric, 2), NULLIF(r.constitutional_compliance_score, '')::numeric,
        NULLIF(r.compliance_details, '')::jsonb, r.status, NULLIF(r.outcome_reason, ''), NULLIF(r.rollback_data, '')::jsonb,
        NULLIF(r.metadata, '')::jsonb, NULLIF(r.created_by, ''), r.cluster, r.namespace, r.name, r.generation,
        COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())));

-- A terminal row follows its object all the same: who it is, its generation, and that it lives.
-- name: TouchFinalArchive :exec
UPDATE dgm.dgm_archive t SET uid = r.uid, generation = r.generation, deleted_at = NULL, writer_epoch = @writer_epoch::bigint, revision = r.revision
FROM (SELECT unnest(@improvement_ids::uuid[]) AS improvement_id, unnest(@uids::text[]) AS uid, unnest(@generations::bigint[]) AS generation,
    unnest(@revisions::bigint[]) AS revision) r
WHERE t.improvement_id = r.improvement_id
  AND (t.uid IS DISTINCT FROM r.uid OR t.generation IS DISTINCT FROM r.generation OR t.deleted_at IS NOT NULL)
  AND (t.writer_epoch, t.revision) <= (@writer_epoch::bigint, r.revision);

-- Rows of a newer leader are left as they are. What was recorded once (what is to
-- change, results, the environment, the rollback plan) stays when a later write does
-- not bring it again. Archived stays until the improvement ends anew, and so does
-- that it was validated: who adopts an outcome does not know.
-- name: UpsertWorkspaces :execrows
INSERT INTO dgm.improvement_workspaces AS t (
    id, improvement_id, description, status, target_service, improvement_type, priority, source_code, configuration,
    test_results, validation_results, environment_snapshot, dependencies, rollback_plan, safety_checks, risk_assessment,
    compliance_validated, created_by, assigned_to, completed_at, cluster, namespace, name, uid, generation, writer_epoch,
    revision, constitutional_hash)
SELECT
    r.id, r.improvement_id, NULLIF(r.description, ''), r.status, NULLIF(r.target_service, ''),
    NULLIF(r.improvement_type, ''), NULLIF(r.priority, ''), NULLIF(r.source_code, '')::jsonb,
    NULLIF(r.configuration, '')::jsonb, NULLIF(r.test_results, '')::jsonb, NULLIF(r.validation_results, '')::jsonb,
    NULLIF(r.environment_snapshot, '')::jsonb, NULLIF(r.dependencies, '')::jsonb, NULLIF(r.rollback_plan, '')::jsonb,
    NULLIF(r.safety_checks, '')::jsonb, NULLIF(r.risk_assessment, '')::jsonb, r.compliance_validated,
    NULLIF(r.created_by, ''), NULLIF(r.assigned_to, ''), r.completed_at, r.cluster, r.namespace, r.name, r.uid, r.generation,
    r.writer_epoch, r.revision, COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@improvement_ids::uuid[]) AS improvement_id, unnest(@descriptions::text[]) AS description,
        unnest(@statuses::text[]) AS status, unnest(@target_services::text[]) AS target_service,
        unnest(@improvement_types::text[]) AS improvement_type, unnest(@prioritys::text[]) AS priority,
        unnest(@source_code_docs::text[]) AS source_code, unnest(@configuration_docs::text[]) AS configuration,
        unnest(@test_results_docs::text[]) AS test_results,
        unnest(@validation_results_docs::text[]) AS validation_results,
        unnest(@environment_snapshot_docs::text[]) AS environment_snapshot,
        unnest(@dependencies_docs::text[]) AS dependencies, unnest(@rollback_plan_docs::text[]) AS rollback_plan,
        unnest(@safety_checks_docs::text[]) AS safety_checks, unnest(@risk_assessment_docs::text[]) AS risk_assessment,
        unnest(@compliance_validated::boolean[]) AS compliance_validated, unnest(@created_bys::text[]) AS created_by,
        unnest(@assigned_tos::text[]) AS assigned_to, unnest(@completed_ats::timestamptz[]) AS completed_at,
        unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid,
        unnest(@generations::bigint[]) AS generation, unnest(@revisions::bigint[]) AS revision,
        unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
ON CONFLICT (improvement_id) DO UPDATE SET
    description = COALESCE(excluded.description, t.description),
    status = CASE WHEN t.status = 'archived' AND excluded.status IN ('completed', 'failed') AND excluded.completed_at IS NOT DISTINCT FROM t.completed_at THEN t.status ELSE excluded.status END,
    target_service = COALESCE(excluded.target_service, t.target_service),
    improvement_type = COALESCE(excluded.improvement_type, t.improvement_type), priority = excluded.priority, source_code = excluded.source_code,
    configuration = COALESCE(excluded.configuration, t.configuration), test_results = COALESCE(excluded.test_results, t.test_results),
    validation_results = COALESCE(excluded.validation_results, t.validation_results), environment_snapshot = COALESCE(excluded.environment_snapshot, t.environment_snapshot),
    dependencies = excluded.dependencies, rollback_plan = COALESCE(excluded.rollback_plan, t.rollback_plan), safety_checks = COALESCE(excluded.safety_checks, t.safety_checks),
    risk_assessment = COALESCE(excluded.risk_assessment, t.risk_assessment), 
    compliance_validated = excluded.compliance_validated OR (t.compliance_validated AND excluded.completed_at IS NOT NULL AND excluded.completed_at IS NOT DISTINCT FROM t.completed_at),
    created_by = excluded.created_by, assigned_to = excluded.assigned_to, completed_at = excluded.completed_at,
    cluster = excluded.cluster, namespace = excluded.namespace, name = excluded.name, uid = excluded.uid,
    generation = excluded.generation, writer_epoch = excluded.writer_epoch, revision = excluded.revision,
    constitutional_hash = excluded.constitutional_hash, deleted_at = NULL
WHERE (t.writer_epoch, t.revision) <= (excluded.writer_epoch, excluded.revision);

-- Rows that UpsertWorkspaces would change. Its parameters are those of UpsertWorkspaces.
-- name: ChangedWorkspaces :many
SELECT r.improvement_id::uuid AS improvement_id
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@improvement_ids::uuid[]) AS improvement_id, unnest(@descriptions::text[]) AS description,
        unnest(@statuses::text[]) AS status, unnest(@target_services::text[]) AS target_service,
        unnest(@improvement_types::text[]) AS improvement_type, unnest(@prioritys::text[]) AS priority,
        unnest(@source_code_docs::text[]) AS source_code, unnest(@configuration_docs::text[]) AS configuration,
        unnest(@test_results_docs::text[]) AS test_results,
        unnest(@validation_results_docs::text[]) AS validation_results,
        unnest(@environment_snapshot_docs::text[]) AS environment_snapshot,
        unnest(@dependencies_docs::text[]) AS dependencies, unnest(@rollback_plan_docs::text[]) AS rollback_plan,
        unnest(@safety_checks_docs::text[]) AS safety_checks, unnest(@risk_assessment_docs::text[]) AS risk_assessment,
        unnest(@compliance_validated::boolean[]) AS compliance_validated, unnest(@created_bys::text[]) AS created_by,
        unnest(@assigned_tos::text[]) AS assigned_to, unnest(@completed_ats::timestamptz[]) AS completed_at,
        unnest(@namespaces::text[]) AS namespace, unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid,
        unnest(@generations::bigint[]) AS generation, unnest(@revisions::bigint[]) AS revision,
        unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
LEFT JOIN dgm.improvement_workspaces t ON t.improvement_id = r.improvement_id
WHERE t.id IS NULL OR t.deleted_at IS NOT NULL OR t.uid IS DISTINCT FROM r.uid OR t.writer_epoch > r.writer_epoch
   OR (ROW(t.description, t.status, t.target_service, t.improvement_type, t.priority, t.source_code, t.configuration,
        t.test_results, t.validation_results, t.environment_snapshot, t.dependencies, t.rollback_plan, t.safety_checks,
        t.risk_assessment, t.compliance_validated, t.created_by, t.assigned_to, t.completed_at, t.cluster, t.namespace, t.name,
        t.generation, t.constitutional_hash)
      IS DISTINCT FROM ROW(COALESCE(NULLIF(r.description, ''), t.description),
        CASE WHEN t.status = 'archived' AND r.status IN ('completed', 'failed') AND r.completed_at IS NOT DISTINCT FROM t.completed_at THEN t.status ELSE r.status END,
        COALESCE(NULLIF(r.target_service, ''), t.target_service), COALESCE(NULLIF(r.improvement_type, ''), t.improvement_type),
        NULLIF(r.priority, ''), NULLIF(r.source_code, '')::jsonb, COALESCE(NULLIF(r.configuration, '')::jsonb, t.configuration),
        COALESCE(NULLIF(r.test_results, '')::jsonb, t.test_results), COALESCE(NULLIF(r.validation_results, '')::jsonb, t.validation_results), COALESCE(NULLIF(r.environment_snapshot, '')::jsonb, t.environment_snapshot),
        NULLIF(r.dependencies, '')::jsonb, COALESCE(NULLIF(r.rollback_plan, '')::jsonb, t.rollback_plan), COALESCE(NULLIF(r.safety_checks, '')::jsonb, t.safety_checks),
        COALESCE(NULLIF(r.risk_assessment, '')::jsonb, t.risk_assessment),
        r.compliance_validated OR (t.compliance_validated AND r.completed_at IS NOT NULL AND r.completed_at IS NOT DISTINCT FROM t.completed_at), NULLIF(r.created_by, ''), NULLIF(r.assigned_to, ''),
        r.completed_at, r.cluster, r.namespace, r.name, r.generation,
        COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())));

-- Rows that a newer leader wrote, and which were therefore not changed.
-- name: NewerImprovements :many
SELECT a.improvement_id FROM dgm.dgm_archive a
WHERE a.improvement_id = ANY (@improvement_ids::uuid[]) AND a.writer_epoch > @writer_epoch::bigint
UNION
SELECT w.improvement_id FROM dgm.improvement_workspaces w
WHERE w.improvement_id = ANY (@improvement_ids::uuid[]) AND w.writer_epoch > @writer_epoch::bigint;

-- name: ExistingImprovements :many
SELECT a.improvement_id FROM dgm.dgm_archive a WHERE a.improvement_id = ANY (@improvement_ids::uuid[]);

-- Whether a document can be read, for who wants to know which one cannot.
-- name: ReadDocument :one
SELECT (NULLIF(@doc::text, '')::jsonb IS NOT NULL)::boolean AS readable;
