-- What migrating itself needs; run under the migration lock before anything else.
CREATE TABLE IF NOT EXISTS dgm.schema_migrations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_id bigint NOT NULL UNIQUE,
    is_applied boolean NOT NULL,
    tstamp timestamptz NOT NULL DEFAULT now(),
    name text,
    sha256 text,
    min_compatible_binary bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE dgm.schema_migrations IS 'Migrations that are applied here, with what their files held.';
COMMENT ON COLUMN dgm.schema_migrations.id IS 'Order in which they were applied.';
COMMENT ON COLUMN dgm.schema_migrations.version_id IS 'Number of the migration.';
COMMENT ON COLUMN dgm.schema_migrations.is_applied IS 'Always true.';
COMMENT ON COLUMN dgm.schema_migrations.tstamp IS 'When it was applied.';
COMMENT ON COLUMN dgm.schema_migrations.name IS 'Name of its file.';
COMMENT ON COLUMN dgm.schema_migrations.sha256 IS 'SHA-256 of its file as it was applied.';
COMMENT ON COLUMN dgm.schema_migrations.min_compatible_binary IS 'Lowest schema version that a binary must know to work with this schema.';
INSERT INTO dgm.schema_migrations (version_id, is_applied) VALUES (0, true) ON CONFLICT (version_id) DO NOTHING;
