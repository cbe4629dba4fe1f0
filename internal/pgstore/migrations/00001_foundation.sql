-- min-compatible-binary: 5
-- +goose Up
COMMENT ON SCHEMA dgm IS 'System of record of the DGM operator: what was tried, decided, measured and changed. Several clusters may share it.';

CREATE TABLE dgm.known_constitutions (
    hash varchar(64) PRIMARY KEY CHECK (hash ~ '^[0-9a-f]{16,64}$'),
    version text NOT NULL,
    active boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX known_constitutions_one_active ON dgm.known_constitutions (active) WHERE active;
COMMENT ON TABLE dgm.known_constitutions IS 'Constitutions that rows may name in constitutional_hash.';
COMMENT ON COLUMN dgm.known_constitutions.hash IS 'Identifier shared with other services, lower-case hexadecimal.';
COMMENT ON COLUMN dgm.known_constitutions.version IS 'Version under which it was published.';
COMMENT ON COLUMN dgm.known_constitutions.active IS 'Whether new rows without a hash of their own get this one; at most one is.';
COMMENT ON COLUMN dgm.known_constitutions.created_at IS 'When it became known here.';
INSERT INTO dgm.known_constitutions (hash, version, active) VALUES ('cdd01ef066bc6cf2', '1', true);

-- +goose StatementBegin
CREATE FUNCTION dgm.active_constitutional_hash() RETURNS varchar
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT hash FROM dgm.known_constitutions WHERE active $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.active_constitutional_hash() IS 'Hash of the active constitution: the default of every constitutional_hash column.';

-- +goose StatementBegin
CREATE FUNCTION dgm.set_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.set_updated_at() IS 'Trigger: keeps updated_at true, whoever writes.';

CREATE SEQUENCE dgm.writer_epoch;
COMMENT ON SEQUENCE dgm.writer_epoch IS 'Source of writer epochs: each new leader draws a higher one.';

CREATE TABLE dgm.writer_fences (
    cluster text PRIMARY KEY,
    cluster_uid text NOT NULL,
    epoch bigint NOT NULL,
    token uuid NOT NULL,
    holder text NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.writer_fences IS 'Who may write for a cluster. Every write transaction locks this row FOR SHARE and checks epoch and token, so that a deposed leader cannot write.';
COMMENT ON COLUMN dgm.writer_fences.cluster IS 'Cluster name given to the operator.';
COMMENT ON COLUMN dgm.writer_fences.cluster_uid IS 'UID of the namespace kube-system: two clusters cannot use one name.';
COMMENT ON COLUMN dgm.writer_fences.epoch IS 'Epoch of the leader that may write; only grows.';
COMMENT ON COLUMN dgm.writer_fences.token IS 'Random value drawn by that leader.';
COMMENT ON COLUMN dgm.writer_fences.holder IS 'Identity of the replica, for people.';
COMMENT ON COLUMN dgm.writer_fences.acquired_at IS 'When it took the fence.';

-- A changed timeline or system identifier is a failover or a restore, which may
-- have lost commits; a flushed log that got shorter is a restore that kept both.
-- +goose StatementBegin
CREATE FUNCTION dgm.server_identity(OUT identity text, OUT in_recovery boolean, OUT wal_position bigint)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.system_identifier::text || '/' || CASE WHEN r.standby THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
        r.standby,
        CASE WHEN r.standby THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint END
    FROM pg_control_system() c, (SELECT pg_is_in_recovery() AS standby) r
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.server_identity() IS 'Which server and timeline this is, whether it is a standby, and how far its log is.';

-- +goose Down
DROP FUNCTION dgm.server_identity();
DROP TABLE dgm.writer_fences;
DROP SEQUENCE dgm.writer_epoch;
DROP FUNCTION dgm.set_updated_at();
DROP FUNCTION dgm.active_constitutional_hash();
DROP TABLE dgm.known_constitutions;
COMMENT ON SCHEMA dgm IS NULL;
