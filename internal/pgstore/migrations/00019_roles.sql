-- min-compatible-binary: 5
-- +goose Up
-- Rights are what is listed here, no more: whatever else the two roles had is
-- taken away. Called again after each migration, and when a role has appeared.
-- Rights on a partitioned table are on the parent: a row put straight into a
-- partition would get round the parent's triggers.
-- +goose StatementBegin
CREATE FUNCTION dgm.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- What dgm_service may do besides reading. Left out are the columns that it may not name.
    service_writes constant jsonb := '[
        {"to": "INSERT", "on": "dgm_archive"},
        {"to": "UPDATE", "on": "dgm_archive", "without": ["id", "improvement_id", "created_at"]},
        {"to": "INSERT", "on": "improvement_workspaces"},
        {"to": "UPDATE", "on": "improvement_workspaces", "without": ["id", "improvement_id", "created_at"]},
        {"to": "INSERT", "on": "rollback_snapshots"},
        {"to": "INSERT", "on": "constitutional_compliance_logs"},
        {"to": "UPDATE", "on": "constitutional_compliance_logs", "only": ["status", "review_required", "reviewed_at", "recommendations", "deleted_at", "writer_epoch", "revision"]},
        {"to": "INSERT", "on": "bandit_states"},
        {"to": "UPDATE", "on": "bandit_states", "without": ["id", "created_at"]},
        {"to": "INSERT", "on": "bandit_decisions"},
        {"to": "UPDATE", "on": "bandit_decisions", "without": ["id", "created_at"]},
        {"to": "INSERT", "on": "performance_metrics", "without": ["ingest_xid"]},
        {"to": "INSERT", "on": "metric_batches"},
        {"to": "INSERT", "on": "system_configurations", "without": ["is_builtin"]},
        {"to": "UPDATE", "on": "system_configurations", "without": ["id", "key", "is_builtin", "created_at"]},
        {"to": "INSERT", "on": "writer_fences"},
        {"to": "UPDATE", "on": "writer_fences", "without": ["cluster"]}
    ]';
    -- SECURITY DEFINER functions: nobody may call one unless it is here.
    service_calls constant text[] := ARRAY[
        'dgm.aggregate_metrics(integer)',
        'dgm.configuration_problem_of(text)',
        'dgm.delete_expired_metrics(integer)',
        'dgm.drop_expired_metric_partitions(integer, boolean)',
        'dgm.ensure_metric_partitions(integer, integer)',
        'dgm.metrics_aggregation_due()',
        'dgm.metrics_folded(timestamptz, timestamptz)',
        'dgm.rebuild_metric_rollups(timestamptz, timestamptz)',
        'dgm.refresh_analytics()',
        'dgm.purge_metric_batches(interval, integer)',
        'dgm.purge_rollback_snapshots(text, interval, integer)',
        'dgm.replica_state(text, bigint, uuid)'
    ];
    readonly_calls constant text[] := ARRAY[
        'dgm.configuration_problem_of(text)',
        'dgm.replica_state(text, bigint, uuid)'
    ];
    -- Besides the views v_… and the materialized views.
    readonly_reads constant text[] := ARRAY[
        'metric_aggregations',
        'metric_rollups',
        'performance_metrics',
        'schema_migrations'
    ];
    service constant boolean := to_regrole('dgm_service') IS NOT NULL;
    readonly constant boolean := to_regrole('dgm_readonly') IS NOT NULL;
    thing record;
    role_name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('dgm.grant_roles', 0));
    FOR thing IN SELECT p.oid::regprocedure AS call FROM pg_proc p
        WHERE p.pronamespace = 'dgm'::regnamespace AND p.prosecdef AND pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', thing.call);
    END LOOP;

    FOREACH role_name IN ARRAY ARRAY['dgm_service', 'dgm_readonly'] LOOP
        CONTINUE WHEN to_regrole(role_name) IS NULL;
        EXECUTE format('GRANT USAGE ON SCHEMA dgm TO %I', role_name);
        FOR thing IN SELECT c.oid::regclass AS relation, c.relkind FROM pg_class c
            WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND pg_has_role(c.relowner, 'USAGE')
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', CASE WHEN thing.relkind = 'S' THEN 'SEQUENCE ' ELSE '' END || thing.relation, role_name);
            IF role_name = 'dgm_service' AND thing.relkind <> 'S' THEN
                EXECUTE format('GRANT SELECT ON %s TO dgm_service', thing.relation);
            END IF;
        END LOOP;
        FOR thing IN SELECT p.oid::regprocedure AS call FROM pg_proc p
            WHERE p.pronamespace = 'dgm'::regnamespace AND p.prosecdef AND pg_has_role(p.proowner, 'USAGE')
        LOOP
            EXECUTE format('REVOKE ALL ON ROUTINE %s FROM %I', thing.call, role_name);
        END LOOP;
    END LOOP;

    IF service THEN
        FOR thing IN
            SELECT w.grant ->> 'to' AS privilege, c.oid::regclass AS relation, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
            FROM jsonb_array_elements(service_writes) AS w ("grant")
            JOIN pg_class c ON c.oid = to_regclass('dgm.' || (w.grant ->> 'on'))
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                AND NOT coalesce(w.grant -> 'without' ? a.attname, false) AND coalesce(w.grant -> 'only' ? a.attname, true)
            GROUP BY 1, 2
        LOOP
            EXECUTE format('GRANT %s (%s) ON %s TO dgm_service', thing.privilege, thing.columns, thing.relation);
        END LOOP;
        GRANT SELECT, USAGE, UPDATE ON SEQUENCE dgm.writer_epoch TO dgm_service;
        FOR thing IN SELECT to_regprocedure(f.call) AS call FROM unnest(service_calls) AS f (call) WHERE to_regprocedure(f.call) IS NOT NULL LOOP
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO dgm_service', thing.call);
        END LOOP;
        -- A table to come can be read at once; writing it takes a line above.
        ALTER DEFAULT PRIVILEGES IN SCHEMA dgm GRANT SELECT ON TABLES TO dgm_service;
    END IF;
    IF readonly THEN
        FOR thing IN SELECT c.oid::regclass AS relation FROM pg_class c
            WHERE c.relnamespace = 'dgm'::regnamespace AND pg_has_role(c.relowner, 'USAGE')
                AND (c.relkind = 'm' OR c.relkind = 'v' AND c.relname LIKE 'v\_%' OR c.relname = ANY (readonly_reads))
        LOOP
            EXECUTE format('GRANT SELECT ON %s TO dgm_readonly', thing.relation);
        END LOOP;
        FOR thing IN SELECT to_regprocedure(f.call) AS call FROM unnest(readonly_calls) AS f (call) WHERE to_regprocedure(f.call) IS NOT NULL LOOP
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO dgm_readonly', thing.call);
        END LOOP;
    END IF;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.grant_roles() IS 'Gives dgm_service and dgm_readonly exactly the rights that the schema foresees, where these roles exist. For the owner.';
REVOKE ALL ON FUNCTION dgm.grant_roles() FROM PUBLIC;
SELECT dgm.grant_roles();

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['dgm_service', 'dgm_readonly'] LOOP
        CONTINUE WHEN to_regrole(role_name) IS NULL;
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA dgm REVOKE ALL ON TABLES FROM %I', role_name);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA dgm FROM %I', role_name);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA dgm FROM %I', role_name);
        EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA dgm FROM %I', role_name);
        EXECUTE format('REVOKE ALL ON SCHEMA dgm FROM %I', role_name);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION dgm.grant_roles();
