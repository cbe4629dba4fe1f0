-- min-compatible-binary: 5
-- +goose Up
-- The time is that of the database alone: a client whose clock is wrong must not drop anything. A plain
-- DETACH takes a millisecond; where it would have to wait for long, it gives way, and is called again later.
-- +goose StatementBegin
CREATE FUNCTION dgm.drop_expired_metric_partitions(retention_days integer, wait_for_aggregation boolean DEFAULT true) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '1s'
AS $$
DECLARE
    expired_before timestamptz;
    old_floor timestamptz;
    expired record;
BEGIN
    IF retention_days IS NULL OR retention_days < 1 THEN
        RAISE EXCEPTION 'samples must be kept for at least 1 day, not %', retention_days USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('dgm.ensure_metric_partitions', 0))
        OR NOT pg_try_advisory_xact_lock(hashtextextended('dgm.aggregate_metrics', 0)) THEN
        RETURN 0;
    END IF;
    expired_before := date_trunc('month', now() - make_interval(days => retention_days));
    SELECT s.floor INTO old_floor FROM dgm.metric_retention_state s;
    SELECT p.* INTO expired FROM (
        SELECT c.oid::regclass AS name, substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$ FROM \('([^']+)'\)$re$)::timestamptz AS from_time,
            substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$ TO \('([^']+)'\)$re$)::timestamptz AS to_time
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'dgm.performance_metrics'::regclass
    ) p WHERE p.to_time <= expired_before ORDER BY p.to_time LIMIT 1;
    IF expired.name IS NULL AND old_floor >= expired_before THEN
        RETURN 0;
    END IF;
    IF expired.name IS NULL THEN -- what is left is in the default partition
        IF NOT wait_for_aggregation OR dgm.metrics_folded(old_floor, expired_before) THEN
            UPDATE dgm.metric_retention_state SET floor = expired_before WHERE floor < expired_before;
        END IF;
        RETURN 0;
    END IF;
    -- Looking for what is not folded must take no time while everybody waits: without the index it would.
    IF wait_for_aggregation AND (EXISTS (SELECT FROM dgm.unfinished_indexes() u WHERE u.parent_index = 'performance_metrics_ingest_xid')
        OR NOT dgm.metrics_folded(expired.from_time, expired.to_time)) THEN
        RETURN 0;
    END IF;
    -- The parent first, as who inserts does. Then again: a late sample may have come.
    LOCK TABLE ONLY dgm.performance_metrics IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', expired.name);
    IF wait_for_aggregation AND NOT dgm.metrics_folded(expired.from_time, expired.to_time) THEN
        RETURN 0;
    END IF;
    EXECUTE format('ALTER TABLE dgm.performance_metrics DETACH PARTITION %s', expired.name);
    EXECUTE format('DROP TABLE %s', expired.name);
    UPDATE dgm.metric_retention_state SET floor = expired.to_time WHERE floor < expired.to_time;
    RETURN 1;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.drop_expired_metric_partitions(integer, boolean) IS 'Drops the oldest partition of performance_metrics if its month ended more than retention_days (at least 1) before the month that is now; returns how many it dropped, 0 or 1. One whose samples are not all in the rollups yet waits, if so wanted. When none is left, the floor of metric_retention_state rises to the first month that is kept.';
REVOKE ALL ON FUNCTION dgm.drop_expired_metric_partitions(integer, boolean) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.delete_expired_metrics(at_most integer DEFAULT 10000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
DECLARE
    deleted integer;
BEGIN
    IF NOT EXISTS (SELECT FROM dgm.performance_metrics_default d WHERE d."timestamp" < (SELECT s.floor FROM dgm.metric_retention_state s)) THEN
        RETURN 0;
    END IF;
    DELETE FROM dgm.performance_metrics_default m USING (
        SELECT d."timestamp", d.id FROM dgm.performance_metrics_default d
        WHERE d."timestamp" < (SELECT s.floor FROM dgm.metric_retention_state s)
        LIMIT at_most FOR UPDATE SKIP LOCKED
    ) expired WHERE m."timestamp" = expired."timestamp" AND m.id = expired.id;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.delete_expired_metrics(integer) IS 'Deletes samples of the default partition that are older than the floor of metric_retention_state, at most as many; returns how many.';
REVOKE ALL ON FUNCTION dgm.delete_expired_metrics(integer) FROM PUBLIC;

-- +goose StatementBegin
CREATE FUNCTION dgm.purge_metric_batches(older_than interval DEFAULT '7 days', at_most integer DEFAULT 10000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
DECLARE
    purged integer;
BEGIN
    IF older_than IS NULL OR older_than < interval '1 hour' THEN
        RAISE EXCEPTION 'batches must be known for at least an hour, not %', older_than USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM dgm.metric_batches b WHERE b.created_at < now() - older_than) THEN
        RETURN 0;
    END IF;
    DELETE FROM dgm.metric_batches m USING (
        SELECT b.batch_id FROM dgm.metric_batches b WHERE b.created_at < now() - older_than LIMIT at_most FOR UPDATE SKIP LOCKED
    ) old WHERE m.batch_id = old.batch_id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    RETURN purged;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.purge_metric_batches(interval, integer) IS 'Forgets batches of samples that are older (at least an hour), at most as many; returns how many. Whoever repeats one after that records it twice.';
REVOKE ALL ON FUNCTION dgm.purge_metric_batches(interval, integer) FROM PUBLIC;

-- +goose Down
DROP FUNCTION dgm.purge_metric_batches(interval, integer);
DROP FUNCTION dgm.delete_expired_metrics(integer);
DROP FUNCTION dgm.drop_expired_metric_partitions(integer, boolean);
