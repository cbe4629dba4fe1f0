-- min-compatible-binary: 5
-- +goose Up
-- A forged attempt must leave room for the next ones. Rows that are there already are not judged.
ALTER TABLE dgm.dgm_archive ADD CONSTRAINT dgm_archive_attempt_bounded CHECK (attempt <= 1000000) NOT VALID;

-- Columns that are added later are final by themselves: the new row is compared
-- with the old one after what may change was made equal. Images are compared,
-- since values may be equal and yet not what was written (1.5 and 1.50).
-- +goose StatementBegin
CREATE FUNCTION dgm.protect_archive_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest dgm.dgm_archive := NEW;
    was_final constant boolean := OLD.status IN ('completed', 'failed', 'rolled_back');
    ends constant boolean := NOT was_final AND NEW.status IN ('completed', 'failed', 'rolled_back');
    rolls_back constant boolean := OLD.status = 'completed' AND NEW.status = 'rolled_back';
    changed text;
BEGIN
    IF (NEW.writer_epoch, NEW.revision) < (OLD.writer_epoch, OLD.revision) THEN
        RAISE EXCEPTION 'dgm.dgm_archive: improvement % was written under epoch %, revision %; a write under epoch %, revision % is older and refused',
            OLD.improvement_id, OLD.writer_epoch, OLD.revision, NEW.writer_epoch, NEW.revision
            USING ERRCODE = 'restrict_violation', SCHEMA = 'dgm', TABLE = 'dgm_archive', COLUMN = 'revision',
                HINT = 'Read the row again. (writer_epoch, revision) only grows.';
    END IF;
    -- The operator sends a new digest with every outcome. An outcome without one
    -- would be somebody else's, and could never be put right again.
    IF (ends OR rolls_back) AND NEW.content_digest = OLD.content_digest THEN
        RAISE EXCEPTION 'dgm.dgm_archive: improvement % is mirrored from a Kubernetes object, which alone decides how it ends; % by hand is refused: annotate the object with dgm.acgs.io/abort or dgm.acgs.io/rollback',
            OLD.improvement_id, NEW.status
            USING ERRCODE = 'restrict_violation', SCHEMA = 'dgm', TABLE = 'dgm_archive', COLUMN = 'status';
    END IF;
    IF NOT was_final THEN
        RETURN NEW;
    END IF;

    rest.uid := OLD.uid;
    rest.generation := OLD.generation;
    rest.deleted_at := OLD.deleted_at;
    rest.writer_epoch := OLD.writer_epoch;
    rest.revision := OLD.revision;
    rest.updated_at := OLD.updated_at;
    IF rolls_back THEN
        rest.status := OLD.status;
        rest.description := OLD.description;
        rest.algorithm_changes := OLD.algorithm_changes;
        rest.performance_before := OLD.performance_before;
        rest.performance_after := OLD.performance_after;
        rest.constitutional_compliance_score := OLD.constitutional_compliance_score;
        rest.constitutional_compliance_score_exact := OLD.constitutional_compliance_score_exact;
        rest.compliance_details := OLD.compliance_details;
        rest.outcome_reason := OLD.outcome_reason;
        rest.rollback_data := OLD.rollback_data;
        rest.metadata := OLD.metadata;
        rest.created_by := OLD.created_by;
        rest.content_digest := OLD.content_digest;
        rest.constitutional_hash := OLD.constitutional_hash;
    END IF;
    IF rest OPERATOR(pg_catalog.*<>) OLD THEN
        SELECT string_agg(n.key, ', ' ORDER BY n.key) INTO changed
        FROM jsonb_each(to_jsonb(rest)) n JOIN jsonb_each(to_jsonb(OLD)) o ON o.key = n.key
        WHERE n.value::text <> o.value::text;
        RAISE EXCEPTION 'dgm.dgm_archive: improvement % is %, which is final: changing % is refused; only completed may become rolled_back',
            OLD.improvement_id, OLD.status, coalesce(changed, 'how its values are stored')
            USING ERRCODE = 'restrict_violation', SCHEMA = 'dgm', TABLE = 'dgm_archive', COLUMN = coalesce(changed, ''),
                HINT = 'Write a new row for a new attempt, with parent_improvement_id naming this one.';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.protect_archive_row() IS 'Trigger: a terminal row of dgm_archive is final, but for completed to rolled_back; no row goes back to an older write.';

-- +goose StatementBegin
CREATE FUNCTION dgm.refuse_archive_removal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'dgm.dgm_archive keeps every row for ever: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'dgm', TABLE = 'dgm_archive',
            HINT = 'A row whose object is gone has deleted_at set; leave it out of a query by that.';
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.refuse_archive_removal() IS 'Trigger: rows of dgm_archive are never removed.';

-- ALWAYS: applying a logical replication stream must not get round them.
CREATE TRIGGER protect_row BEFORE UPDATE ON dgm.dgm_archive FOR EACH ROW EXECUTE FUNCTION dgm.protect_archive_row();
CREATE TRIGGER refuse_delete BEFORE DELETE ON dgm.dgm_archive FOR EACH ROW EXECUTE FUNCTION dgm.refuse_archive_removal();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON dgm.dgm_archive FOR EACH STATEMENT EXECUTE FUNCTION dgm.refuse_archive_removal();
ALTER TABLE dgm.dgm_archive ENABLE ALWAYS TRIGGER protect_row;
ALTER TABLE dgm.dgm_archive ENABLE ALWAYS TRIGGER refuse_delete;
ALTER TABLE dgm.dgm_archive ENABLE ALWAYS TRIGGER refuse_truncate;

-- What retention purges goes through a SECURITY DEFINER function of the table's
-- owner, which sets dgm.purging for its transaction. Anybody can set that, so it
-- counts for the owner alone.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION dgm.refuse_snapshot_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    purging boolean := false;
BEGIN
    IF TG_OP <> 'TRUNCATE' AND coalesce(current_setting('dgm.purging', true), '') = 'on' THEN
        SELECT c.relowner = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user) INTO purging
        FROM pg_class c WHERE c.oid = TG_RELID;
    END IF;
    IF purging AND TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    -- Purged bytes leave their digest behind.
    IF purging AND TG_OP = 'UPDATE' AND length(NEW.bytes) = 0 AND (NEW.improvement_id, NEW.revision, NEW.writer_epoch, NEW.format, NEW.sha256, NEW.plain_size, NEW.created_at)
        = (OLD.improvement_id, OLD.revision, OLD.writer_epoch, OLD.format, OLD.sha256, OLD.plain_size, OLD.created_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'dgm.rollback_snapshots is insert-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation', SCHEMA = 'dgm', TABLE = 'rollback_snapshots',
            HINT = 'Old snapshots are purged after the days that the system configuration rollback_retention_days says.';
END $$;
-- +goose StatementEnd
CREATE TRIGGER refuse_delete BEFORE DELETE ON dgm.rollback_snapshots FOR EACH ROW EXECUTE FUNCTION dgm.refuse_snapshot_change();
COMMENT ON FUNCTION dgm.refuse_snapshot_change() IS 'Trigger: keeps rollback_snapshots insert-only, but for its purge.';
COMMENT ON TABLE dgm.rollback_snapshots IS 'Exact bytes that a rollback puts back, compressed and encrypted. Rows are inserted once, never changed, and purged when they are too old for a rollback.';

-- +goose Down
COMMENT ON TABLE dgm.rollback_snapshots IS 'Exact bytes that a rollback puts back, compressed and encrypted. Rows are inserted once and never updated.';
DROP TRIGGER refuse_delete ON dgm.rollback_snapshots;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION dgm.refuse_snapshot_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'dgm.rollback_snapshots is insert-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.refuse_snapshot_change() IS 'Trigger: what a rollback puts back is never altered.';
DROP TRIGGER refuse_truncate ON dgm.dgm_archive;
DROP TRIGGER refuse_delete ON dgm.dgm_archive;
DROP TRIGGER protect_row ON dgm.dgm_archive;
DROP FUNCTION dgm.refuse_archive_removal();
DROP FUNCTION dgm.protect_archive_row();
ALTER TABLE dgm.dgm_archive DROP CONSTRAINT dgm_archive_attempt_bounded;
