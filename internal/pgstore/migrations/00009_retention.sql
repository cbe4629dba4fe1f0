-- min-compatible-binary: 5
-- +goose Up
ALTER TABLE dgm.rollback_snapshots ADD COLUMN purged_at timestamptz;
COMMENT ON COLUMN dgm.rollback_snapshots.purged_at IS 'When bytes was emptied, rollback_retention_days after the attempt had ended; sha256 and plain_size stay.';
-- What is to be purged is found without looking at what was.
CREATE INDEX rollback_snapshots_kept ON dgm.rollback_snapshots (created_at) WHERE purged_at IS NULL;

-- A function, since the run-time role may not change snapshots. Only attempts that
-- have ended are purged: an open one may still need its bytes.
-- +goose StatementBegin
CREATE FUNCTION dgm.purge_rollback_snapshots(cluster_name text, retention interval, at_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    purged integer;
BEGIN
    IF retention < interval '1 day' THEN
        RAISE EXCEPTION 'rollback bytes are kept for at least a day, not %', retention USING ERRCODE = 'check_violation';
    END IF;
    PERFORM set_config('dgm.purging', 'on', true);
    WITH ended AS (
        SELECT s.improvement_id
        FROM dgm.rollback_snapshots s
        JOIN dgm.dgm_archive a ON a.improvement_id = s.improvement_id
        LEFT JOIN dgm.improvement_workspaces w ON w.improvement_id = s.improvement_id
        WHERE s.purged_at IS NULL AND s.created_at < now() - retention AND a.cluster = cluster_name
          AND a.status IN ('completed', 'failed', 'rolled_back')
          AND COALESCE(w.completed_at, a.deleted_at, a.updated_at) < now() - retention
          AND COALESCE(w.status, 'archived') IN ('completed', 'failed', 'archived')
        ORDER BY s.created_at
        LIMIT at_most
        FOR UPDATE OF s SKIP LOCKED
    )
    UPDATE dgm.rollback_snapshots s SET bytes = '', purged_at = now() FROM ended e WHERE e.improvement_id = s.improvement_id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    PERFORM set_config('dgm.purging', 'off', true);
    RETURN purged;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.purge_rollback_snapshots(text, interval, integer) IS 'Empties the exact bytes of attempts of a cluster that ended longer ago than the retention, at most so many; returns how many. Digests stay.';
REVOKE ALL ON FUNCTION dgm.purge_rollback_snapshots(text, interval, integer) FROM PUBLIC;

-- +goose Down
DROP FUNCTION dgm.purge_rollback_snapshots(text, interval, integer);
DROP INDEX dgm.rollback_snapshots_kept;
ALTER TABLE dgm.rollback_snapshots DROP COLUMN purged_at;
