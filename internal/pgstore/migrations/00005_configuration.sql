-- min-compatible-binary: 5
-- +goose Up
CREATE TABLE dgm.system_configurations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    key text NOT NULL UNIQUE,
    value text,
    value_type text NOT NULL DEFAULT 'string' CHECK (value_type IN ('string', 'integer', 'float', 'boolean', 'json')),
    description text,
    category text,
    is_sensitive boolean NOT NULL DEFAULT false,
    is_readonly boolean NOT NULL DEFAULT false,
    validation_rules jsonb,
    metadata jsonb,
    cluster text,
    namespace text,
    name text,
    uid text,
    generation bigint,
    writer_epoch bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() REFERENCES dgm.known_constitutions (hash),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.system_configurations IS 'Settings shared by the services, one row per key.';
COMMENT ON COLUMN dgm.system_configurations.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.system_configurations.key IS 'Name of the setting.';
COMMENT ON COLUMN dgm.system_configurations.value IS 'Its value, as text; of type value_type.';
COMMENT ON COLUMN dgm.system_configurations.value_type IS 'string, integer, float, boolean or json.';
COMMENT ON COLUMN dgm.system_configurations.description IS 'What it does.';
COMMENT ON COLUMN dgm.system_configurations.category IS 'Group of settings that it belongs to.';
COMMENT ON COLUMN dgm.system_configurations.is_sensitive IS 'Whether its value must not be shown.';
COMMENT ON COLUMN dgm.system_configurations.is_readonly IS 'Whether only the operator may change it.';
COMMENT ON COLUMN dgm.system_configurations.validation_rules IS 'What a value must satisfy.';
COMMENT ON COLUMN dgm.system_configurations.metadata IS 'Anything else worth keeping.';
COMMENT ON COLUMN dgm.system_configurations.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.system_configurations.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.system_configurations.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.system_configurations.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.system_configurations.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.system_configurations.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.system_configurations.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.system_configurations.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.system_configurations.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.system_configurations.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.system_configurations.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.system_configurations FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();

-- +goose Down
DROP TABLE dgm.system_configurations;
