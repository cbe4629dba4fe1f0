-- What an arm has earned (pulls, rewards, bounds) is not touched.
-- name: UpsertArms :execrows
INSERT INTO dgm.bandit_states AS t (
    id, algorithm_type, context_key, arm_id, epsilon, alpha, beta, safety_threshold, safety_threshold_exact, risk_tolerance,
    risk_tolerance_exact, algorithm_state, exploration_data, cluster, namespace, name, uid, generation, writer_epoch,
    revision, constitutional_hash)
SELECT
    r.id, r.algorithm_type, r.context_key, r.arm_id, NULLIF(r.epsilon, '')::numeric, NULLIF(r.alpha, '')::numeric,
    NULLIF(r.beta, '')::numeric, trunc(NULLIF(r.safety_threshold, '')::numeric, 2), NULLIF(r.safety_threshold, '')::numeric,
    trunc(NULLIF(r.risk_tolerance, '')::numeric, 2), NULLIF(r.risk_tolerance, '')::numeric,
    NULLIF(r.algorithm_state, '')::jsonb, NULLIF(r.exploration_data, '')::jsonb, r.cluster, r.namespace, r.name, r.uid,
    r.generation, r.writer_epoch, r.revision, COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@algorithm_types::text[]) AS algorithm_type, unnest(@context_keys::text[]) AS context_key,
        unnest(@arm_ids::text[]) AS arm_id, unnest(@epsilons::text[]) AS epsilon, unnest(@alphas::text[]) AS alpha,
        unnest(@betas::text[]) AS beta, unnest(@safety_thresholds::text[]) AS safety_threshold,
        unnest(@risk_tolerances::text[]) AS risk_tolerance, unnest(@algorithm_state_docs::text[]) AS algorithm_state,
        unnest(@exploration_data_docs::text[]) AS exploration_data, unnest(@namespaces::text[]) AS namespace,
        unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid, unnest(@generations::bigint[]) AS generation,
        unnest(@revisions::bigint[]) AS revision, unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
ON CONFLICT (algorithm_type, context_key, arm_id) DO UPDATE SET
    epsilon = excluded.epsilon, alpha = excluded.alpha, beta = excluded.beta, safety_threshold = excluded.safety_threshold,
    safety_threshold_exact = excluded.safety_threshold_exact, risk_tolerance = excluded.risk_tolerance,
    risk_tolerance_exact = excluded.risk_tolerance_exact, algorithm_state = excluded.algorithm_state,
    exploration_data = excluded.exploration_data, cluster = excluded.cluster, namespace = excluded.namespace,
    name = excluded.name, uid = excluded.uid, generation = excluded.generation, writer_epoch = excluded.writer_epoch,
    revision = excluded.revision, constitutional_hash = excluded.constitutional_hash, deleted_at = NULL,
    last_updated = now()
WHERE (t.writer_epoch, t.revision) <= (excluded.writer_epoch, excluded.revision);

-- Policies with arms that UpsertArms would change. Its parameters are those of UpsertArms.
-- name: ChangedArms :many
SELECT DISTINCT r.uid::text AS uid
FROM (
    SELECT @cluster::text AS cluster, @writer_epoch::bigint AS writer_epoch, unnest(@ids::uuid[]) AS id,
        unnest(@algorithm_types::text[]) AS algorithm_type, unnest(@context_keys::text[]) AS context_key,
        unnest(@arm_ids::text[]) AS arm_id, unnest(@epsilons::text[]) AS epsilon, unnest(@alphas::text[]) AS alpha,
        unnest(@betas::text[]) AS beta, unnest(@safety_thresholds::text[]) AS safety_threshold,
        unnest(@risk_tolerances::text[]) AS risk_tolerance, unnest(@algorithm_state_docs::text[]) AS algorithm_state,
        unnest(@exploration_data_docs::text[]) AS exploration_data, unnest(@namespaces::text[]) AS namespace,
        unnest(@names::text[]) AS name, unnest(@uids::text[]) AS uid, unnest(@generations::bigint[]) AS generation,
        unnest(@revisions::bigint[]) AS revision, unnest(@constitutional_hashes::text[]) AS constitutional_hash
) r
LEFT JOIN dgm.bandit_states t ON t.algorithm_type = r.algorithm_type AND t.context_key = r.context_key AND t.arm_id = r.arm_id
WHERE t.id IS NULL OR t.deleted_at IS NOT NULL OR t.uid IS DISTINCT FROM r.uid OR t.writer_epoch > r.writer_epoch
   OR (ROW(t.epsilon, t.alpha, t.beta, t.safety_threshold, t.safety_threshold_exact, t.risk_tolerance, t.risk_tolerance_exact,
        t.algorithm_state, t.exploration_data, t.cluster, t.namespace, t.name, t.generation, t.constitutional_hash)
      IS DISTINCT FROM ROW(NULLIF(r.epsilon, '')::numeric, NULLIF(r.alpha, '')::numeric, NULLIF(r.beta, '')::numeric,
        trunc(NULLIF(r.safety_threshold, '')::numeric, 2), NULLIF(r.safety_threshold, '')::numeric,
        trunc(NULLIF(r.risk_tolerance, '')::numeric, 2), NULLIF(r.risk_tolerance, '')::numeric,
        NULLIF(r.algorithm_state, '')::jsonb, NULLIF(r.exploration_data, '')::jsonb, r.cluster, r.namespace, r.name,
        r.generation, COALESCE(NULLIF(r.constitutional_hash, ''), dgm.active_constitutional_hash())));

-- Policies with live arms that are not among the given ones, be they of another
-- object that bore the name before.
-- name: StrayArms :many
SELECT DISTINCT t.namespace::text AS namespace, t.name::text AS name FROM dgm.bandit_states t
WHERE t.cluster = @cluster::text AND t.deleted_at IS NULL
  AND (t.namespace, t.name) IN (SELECT unnest(@policy_namespaces::text[]), unnest(@policy_names::text[]))
  AND NOT EXISTS (
    SELECT 1
    FROM (SELECT unnest(@uids::text[]) AS uid, unnest(@algorithm_types::text[]) AS algorithm_type,
        unnest(@context_keys::text[]) AS context_key, unnest(@arm_ids::text[]) AS arm_id) r
    WHERE (r.uid, r.algorithm_type, r.context_key, r.arm_id) = (t.uid, t.algorithm_type, t.context_key, t.arm_id));

-- name: TombstoneStrayArms :exec
UPDATE dgm.bandit_states t SET deleted_at = now(), last_updated = now(), writer_epoch = @writer_epoch::bigint, revision = @revision::bigint
WHERE t.cluster = @cluster::text AND t.deleted_at IS NULL
  AND (t.namespace, t.name) IN (SELECT unnest(@policy_namespaces::text[]), unnest(@policy_names::text[]))
  AND (t.writer_epoch, t.revision) <= (@writer_epoch::bigint, @revision::bigint)
  AND NOT EXISTS (
    SELECT 1
    FROM (SELECT unnest(@uids::text[]) AS uid, unnest(@algorithm_types::text[]) AS algorithm_type,
        unnest(@context_keys::text[]) AS context_key, unnest(@arm_ids::text[]) AS arm_id) r
    WHERE (r.uid, r.algorithm_type, r.context_key, r.arm_id) = (t.uid, t.algorithm_type, t.context_key, t.arm_id));

-- Policies whose arms a newer leader wrote.
-- name: NewerArms :many
SELECT DISTINCT t.uid::text AS uid FROM dgm.bandit_states t
WHERE t.uid = ANY (@policy_uids::text[]) AND t.cluster = @cluster::text AND t.writer_epoch > @writer_epoch::bigint;
