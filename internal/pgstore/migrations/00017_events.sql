-- min-compatible-binary: 5
-- +goose Up
-- NOTIFY serialises the commits that use it, which few and small writes bear. Values are never told.
-- +goose StatementBegin
CREATE FUNCTION dgm.notify_configuration() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed jsonb;
    event jsonb;
BEGIN
    IF TG_TABLE_NAME = 'known_constitutions' THEN
        SELECT jsonb_agg(DISTINCT r.hash) INTO changed FROM touched r;
    ELSE
        SELECT jsonb_agg(DISTINCT r.key) INTO changed FROM touched r;
    END IF;
    IF changed IS NULL THEN
        RETURN NULL;
    END IF;
    event := jsonb_build_object('v', 1, 'kind', TG_ARGV[0], 'keys', changed, 'at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
    IF octet_length(event::text) > 7900 THEN -- the limit is 8000 bytes; no keys means any
        event := jsonb_set(event, '{keys}', '[]');
    END IF;
    PERFORM pg_notify('dgm_events', event::text);
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.notify_configuration() IS 'Trigger: tells the channel dgm_events which keys were written.';
REVOKE ALL ON FUNCTION dgm.notify_configuration() FROM PUBLIC;
CREATE TRIGGER notify_insert AFTER INSERT ON dgm.system_configurations REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('configuration');
CREATE TRIGGER notify_update AFTER UPDATE ON dgm.system_configurations REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('configuration');
CREATE TRIGGER notify_delete AFTER DELETE ON dgm.system_configurations REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('configuration');
CREATE TRIGGER notify_insert AFTER INSERT ON dgm.known_constitutions REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('constitution');
CREATE TRIGGER notify_update AFTER UPDATE ON dgm.known_constitutions REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('constitution');
CREATE TRIGGER notify_delete AFTER DELETE ON dgm.known_constitutions REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION dgm.notify_configuration('constitution');

-- A replica that has replayed the leader's fence is on the leader's timeline: the token is drawn anew after each
-- failover. It is compared here, so that nobody needs the right to read it.
-- +goose StatementBegin
CREATE FUNCTION dgm.replica_state(of_cluster text, of_epoch bigint, of_token uuid,
    OUT system_identifier text, OUT in_recovery boolean, OUT replayed bigint, OUT same_fence boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.system_identifier::text, pg_is_in_recovery(), COALESCE(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint,
        EXISTS (SELECT 1 FROM dgm.writer_fences f WHERE f.cluster = of_cluster AND f.epoch = of_epoch AND f.token = of_token)
    FROM pg_control_system() c
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.replica_state(text, bigint, uuid) IS 'Asked on a read replica: which server it copies, how far it has replayed, and whether it knows this fence.';
REVOKE ALL ON FUNCTION dgm.replica_state(text, bigint, uuid) FROM PUBLIC;

-- Columns are named, so that one that is added later breaks no subscriber. Left out: what is secret (snapshots,
-- fences, encrypted values) and what has a meaning on this server only (ingest_xid).
-- +goose StatementBegin
CREATE FUNCTION dgm.create_publication() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM pg_publication WHERE pubname = 'dgm_publication') THEN
        RETURN false;
    ELSIF EXISTS (SELECT 1 FROM dgm.system_configurations WHERE is_sensitive AND (value IS NOT NULL OR default_value IS NOT NULL)) THEN
        RAISE EXCEPTION 'a sensitive system configuration is still in plain: the operator encrypts it when it leads'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    CREATE PUBLICATION dgm_publication FOR TABLE
        dgm.dgm_archive (id, improvement_id, parent_improvement_id, attempt, material_digest, "timestamp", description, algorithm_changes,
            performance_before, performance_after, constitutional_compliance_score, constitutional_compliance_score_exact, compliance_details,
            status, outcome_reason, rollback_data, metadata, created_by, cluster, namespace, name, uid, generation, writer_epoch, revision,
            deleted_at, constitutional_hash, created_at, updated_at),
        dgm.improvement_workspaces (id, improvement_id, name, description, status, target_service, improvement_type, priority, source_code,
            configuration, test_results, validation_results, environment_snapshot, dependencies, rollback_plan, safety_checks, risk_assessment,
            compliance_validated, created_by, assigned_to, completed_at, cluster, namespace, uid, generation, writer_epoch, revision,
            deleted_at, constitutional_hash, created_at, updated_at),
        dgm.constitutional_compliance_logs (id, improvement_id, service_name, operation_type, compliance_level, compliance_score,
            compliance_score_exact, status, constitutional_version, violations, recommendations, evidence, assessment_method, assessor_id,
            review_required, assessed_at, reviewed_at, cluster, namespace, name, uid, generation, writer_epoch, revision, deleted_at,
            constitutional_hash, created_at, updated_at),
        dgm.performance_metrics (id, metric_name, metric_type, metric_scope, value, unit, service_name, improvement_id, experiment_id, tags,
            dimensions, metadata, constitutional_compliance_score, "timestamp", cluster, namespace, name, uid, generation, writer_epoch,
            revision, deleted_at, constitutional_hash, created_at),
        dgm.metric_rollups (id, metric_name, metric_type, time_window, window_start, window_end, service_name, tags, tags_hash, count, sum,
            avg, min_value, max_value, p50, p95, p99, percentile_method, constitutional_hash, created_at, updated_at),
        dgm.bandit_states (id, algorithm_type, context_key, arm_id, total_pulls, total_reward, average_reward, confidence_bound, epsilon, alpha,
            beta, safety_threshold, safety_threshold_exact, risk_tolerance, risk_tolerance_exact, algorithm_state, exploration_data,
            last_updated, cluster, namespace, name, uid, generation, writer_epoch, revision, deleted_at, constitutional_hash, created_at, updated_at),
        dgm.bandit_decisions (id, algorithm_type, context_key, seq, arm_id, eligible_arms, propensities, bounds, reason, spec_digest,
            improvement_id, reward, decided_at, resolved_at, cluster, namespace, name, uid, generation, writer_epoch, revision, deleted_at,
            constitutional_hash, created_at, updated_at),
        dgm.system_configurations (id, key, value, value_type, description, category, is_sensitive, is_readonly, is_builtin, default_value,
            validation_rules, metadata, cluster, namespace, name, uid, generation, writer_epoch, revision, deleted_at, constitutional_hash,
            created_at, updated_at),
        dgm.known_constitutions (hash, version, active, created_at)
        WITH (publish_via_partition_root = true);
    RETURN true;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.create_publication() IS 'Makes dgm_publication for logical decoding and returns true; false when there is one. The caller must own the tables and have CREATE on the database.';
REVOKE ALL ON FUNCTION dgm.create_publication() FROM PUBLIC;

-- +goose StatementBegin
DO $$
BEGIN
    PERFORM dgm.create_publication();
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR object_not_in_prerequisite_state THEN
    RAISE NOTICE 'dgm_publication was not made: %. Who may can make it later: SELECT dgm.create_publication()', SQLERRM;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
BEGIN
    DROP PUBLICATION IF EXISTS dgm_publication;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'dgm_publication was left: %', SQLERRM;
END $$;
-- +goose StatementEnd
DROP FUNCTION dgm.create_publication();
DROP FUNCTION dgm.replica_state(text, bigint, uuid);
DROP TRIGGER notify_delete ON dgm.known_constitutions;
DROP TRIGGER notify_update ON dgm.known_constitutions;
DROP TRIGGER notify_insert ON dgm.known_constitutions;
DROP TRIGGER notify_delete ON dgm.system_configurations;
DROP TRIGGER notify_update ON dgm.system_configurations;
DROP TRIGGER notify_insert ON dgm.system_configurations;
DROP FUNCTION dgm.notify_configuration();
