-- name: ActiveConstitution :one
SELECT c.hash::text AS hash, c.version::text AS version FROM dgm.known_constitutions c WHERE c.active;

-- What freezes every cluster, and whose object says so.
-- name: Freeze :one
SELECT COALESCE(c.value, '')::text AS value, COALESCE(c.cluster, '')::text AS cluster, COALESCE(c.name, '')::text AS name, c.updated_at
FROM dgm.system_configurations c WHERE c.key = @key::text AND c.deleted_at IS NULL;

-- name: InsertAssessment :execrows
INSERT INTO dgm.constitutional_compliance_logs (
    id, improvement_id, service_name, operation_type, compliance_level, compliance_score, compliance_score_exact, status,
    constitutional_version, constitutional_hash, violations, recommendations, evidence, assessment_method, assessor_id, review_required,
    assessed_at, cluster, namespace, name, uid, generation, writer_epoch, revision)
SELECT
    @id::uuid, @improvement_id::uuid, @service_name::text, @operation_type::text, @compliance_level::text, trunc(r.score, 2), r.score, @status::text,
    @constitutional_version::text, @constitutional_hash::text, NULLIF(@violations::text, '')::jsonb, NULLIF(@recommendations::text, '')::jsonb,
    NULLIF(@evidence::text, '')::jsonb, 'automated', @assessor_id::text, @review_required::boolean,
    @assessed_at::timestamptz, @cluster::text, @namespace::text, @name::text, @uid::text, @generation::bigint, @writer_epoch::bigint, @revision::bigint
FROM (SELECT CAST(@compliance_score::text AS numeric) AS score) r
ON CONFLICT (id) DO NOTHING;

-- What an attempt's assessments asked for was looked at, or is not asked for any more.
-- name: ReviewAssessments :execrows
UPDATE dgm.constitutional_compliance_logs SET status = 'completed', review_required = false, reviewed_at = @reviewed_at, writer_epoch = @writer_epoch::bigint, revision = @revision::bigint
WHERE improvement_id = @improvement_id::uuid AND cluster = @cluster::text AND status = 'requires_review';

-- Of the given attempts, those that lack a verdict or a test which their objects tell of.
-- name: WithoutRecords :many
SELECT r.improvement_id::uuid AS improvement_id
FROM (SELECT unnest(@improvement_ids::uuid[]) AS improvement_id, unnest(@judged::boolean[]) AS judged, unnest(@tests::integer[]) AS tests) r
WHERE (r.judged AND NOT EXISTS (SELECT 1 FROM dgm.constitutional_compliance_logs l WHERE l.improvement_id = r.improvement_id))
    OR (r.tests > 0 AND r.tests > COALESCE((
        SELECT count(*) FROM dgm.improvement_workspaces w,
            jsonb_object_keys(CASE jsonb_typeof(w.test_results -> 'tests') WHEN 'object' THEN w.test_results -> 'tests' END)
        WHERE w.improvement_id = r.improvement_id), 0));
