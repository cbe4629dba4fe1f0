-- min-compatible-binary: 5
-- +goose Up
CREATE TABLE dgm.dgm_archive (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    improvement_id uuid NOT NULL UNIQUE,
    parent_improvement_id uuid,
    attempt integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    material_digest text,
    timestamp timestamptz NOT NULL DEFAULT now(),
    description text NOT NULL,
    algorithm_changes jsonb,
    performance_before jsonb,
    performance_after jsonb,
    constitutional_compliance_score numeric(3,2) CHECK (constitutional_compliance_score BETWEEN 0 AND 1),
    constitutional_compliance_score_exact numeric,
    compliance_details jsonb,
    status text NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'rolled_back')),
    outcome_reason text,
    rollback_data jsonb,
    metadata jsonb,
    created_by text,
    content_digest bytea,
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
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dgm_archive_parent_differs CHECK (parent_improvement_id <> improvement_id)
);
COMMENT ON TABLE dgm.dgm_archive IS 'One row per attempt of an improvement: what was tried and how it ended. A terminal status (completed, failed, rolled_back) is final, but for completed to rolled_back.';
COMMENT ON COLUMN dgm.dgm_archive.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.dgm_archive.improvement_id IS 'Identity of the attempt: UUIDv5 of cluster, namespace, name, material digest and attempt.';
COMMENT ON COLUMN dgm.dgm_archive.parent_improvement_id IS 'The attempt or improvement that this one follows.';
COMMENT ON COLUMN dgm.dgm_archive.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN dgm.dgm_archive.material_digest IS 'Digest of the fields that make the improvement what it is.';
COMMENT ON COLUMN dgm.dgm_archive.timestamp IS 'When the attempt began.';
COMMENT ON COLUMN dgm.dgm_archive.description IS 'What the improvement is for.';
COMMENT ON COLUMN dgm.dgm_archive.algorithm_changes IS 'The declared changes.';
COMMENT ON COLUMN dgm.dgm_archive.performance_before IS 'Metrics before the change.';
COMMENT ON COLUMN dgm.dgm_archive.performance_after IS 'Metrics after the change.';
COMMENT ON COLUMN dgm.dgm_archive.constitutional_compliance_score IS 'Score against the constitution, truncated to two digits, never rounded up.';
COMMENT ON COLUMN dgm.dgm_archive.constitutional_compliance_score_exact IS 'The score with all its digits.';
COMMENT ON COLUMN dgm.dgm_archive.compliance_details IS 'How the score came about.';
COMMENT ON COLUMN dgm.dgm_archive.status IS 'pending, running, completed, failed or rolled_back.';
COMMENT ON COLUMN dgm.dgm_archive.outcome_reason IS 'Why it ended as it did, one word; ObjectDeleted when its object vanished before its end.';
COMMENT ON COLUMN dgm.dgm_archive.rollback_data IS 'Readable, redacted form of what a rollback puts back; the exact bytes are in rollback_snapshots.';
COMMENT ON COLUMN dgm.dgm_archive.metadata IS 'Anything else worth keeping.';
COMMENT ON COLUMN dgm.dgm_archive.created_by IS 'Who asked for it.';
COMMENT ON COLUMN dgm.dgm_archive.content_digest IS 'Digest of what the operator wrote, by which it tells a hand edit of a final row from a change of its object.';
COMMENT ON COLUMN dgm.dgm_archive.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.dgm_archive.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.dgm_archive.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.dgm_archive.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.dgm_archive.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.dgm_archive.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.dgm_archive.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.dgm_archive.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.dgm_archive.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.dgm_archive.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.dgm_archive.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.dgm_archive FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();
CREATE INDEX idx_dgm_archive_status_timestamp ON dgm.dgm_archive (status, "timestamp" DESC);
CREATE INDEX dgm_archive_object ON dgm.dgm_archive (cluster, namespace, name, attempt DESC);

CREATE TABLE dgm.improvement_workspaces (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    improvement_id uuid NOT NULL UNIQUE REFERENCES dgm.dgm_archive (improvement_id),
    name text NOT NULL,
    description text,
    status text NOT NULL CHECK (status IN ('created', 'active', 'testing', 'validating', 'completed', 'failed', 'archived')),
    target_service text,
    improvement_type text,
    priority text,
    source_code jsonb,
    configuration jsonb,
    test_results jsonb,
    validation_results jsonb,
    environment_snapshot jsonb,
    dependencies jsonb,
    rollback_plan jsonb,
    safety_checks jsonb,
    risk_assessment jsonb,
    compliance_validated boolean NOT NULL DEFAULT false,
    created_by text,
    assigned_to text,
    completed_at timestamptz,
    cluster text,
    namespace text,
    uid text,
    generation bigint,
    writer_epoch bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    deleted_at timestamptz,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() REFERENCES dgm.known_constitutions (hash),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.improvement_workspaces IS 'One row per attempt of an ImprovementWorkspace: its specification and where it stands.';
COMMENT ON COLUMN dgm.improvement_workspaces.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.improvement_workspaces.improvement_id IS 'The attempt, as in dgm_archive.';
COMMENT ON COLUMN dgm.improvement_workspaces.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.improvement_workspaces.description IS 'What the improvement is for.';
COMMENT ON COLUMN dgm.improvement_workspaces.status IS 'created, active, testing, validating, completed, failed or archived.';
COMMENT ON COLUMN dgm.improvement_workspaces.target_service IS 'Service that is improved.';
COMMENT ON COLUMN dgm.improvement_workspaces.improvement_type IS 'Kind of the improvement, as in spec.type.';
COMMENT ON COLUMN dgm.improvement_workspaces.priority IS 'Priority, as in spec.priority.';
COMMENT ON COLUMN dgm.improvement_workspaces.source_code IS 'Where the change comes from.';
COMMENT ON COLUMN dgm.improvement_workspaces.configuration IS 'The changes as they were declared.';
COMMENT ON COLUMN dgm.improvement_workspaces.test_results IS 'Outcome of the tests.';
COMMENT ON COLUMN dgm.improvement_workspaces.validation_results IS 'Outcome of the validation.';
COMMENT ON COLUMN dgm.improvement_workspaces.environment_snapshot IS 'Digests of what was captured before the change.';
COMMENT ON COLUMN dgm.improvement_workspaces.dependencies IS 'What it depends on.';
COMMENT ON COLUMN dgm.improvement_workspaces.rollback_plan IS 'How it is undone.';
COMMENT ON COLUMN dgm.improvement_workspaces.safety_checks IS 'Safety checks and their outcome.';
COMMENT ON COLUMN dgm.improvement_workspaces.risk_assessment IS 'Declared and assessed risk.';
COMMENT ON COLUMN dgm.improvement_workspaces.compliance_validated IS 'Whether it passed the constitution.';
COMMENT ON COLUMN dgm.improvement_workspaces.created_by IS 'Who asked for it.';
COMMENT ON COLUMN dgm.improvement_workspaces.assigned_to IS 'Who looks after it.';
COMMENT ON COLUMN dgm.improvement_workspaces.completed_at IS 'When it ended.';
COMMENT ON COLUMN dgm.improvement_workspaces.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.improvement_workspaces.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.improvement_workspaces.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.improvement_workspaces.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.improvement_workspaces.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.improvement_workspaces.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.improvement_workspaces.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.improvement_workspaces.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.improvement_workspaces.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.improvement_workspaces.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.improvement_workspaces FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();
CREATE INDEX idx_workspaces_status_created ON dgm.improvement_workspaces (status, created_at DESC);
CREATE INDEX improvement_workspaces_object ON dgm.improvement_workspaces (cluster, namespace, name);

CREATE TABLE dgm.rollback_snapshots (
    improvement_id uuid PRIMARY KEY REFERENCES dgm.dgm_archive (improvement_id),
    revision bigint NOT NULL,
    writer_epoch bigint NOT NULL,
    format text NOT NULL,
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    plain_size bigint NOT NULL CHECK (plain_size >= 0),
    key_id text NOT NULL,
    bytes bytea NOT NULL,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() REFERENCES dgm.known_constitutions (hash),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.rollback_snapshots IS 'Exact bytes that a rollback puts back, compressed and encrypted. Rows are inserted once and never updated.';
COMMENT ON COLUMN dgm.rollback_snapshots.improvement_id IS 'The attempt whose pre-change state this is.';
COMMENT ON COLUMN dgm.rollback_snapshots.revision IS 'Counter of the leader that wrote the row.';
COMMENT ON COLUMN dgm.rollback_snapshots.writer_epoch IS 'Epoch of that leader.';
COMMENT ON COLUMN dgm.rollback_snapshots.format IS 'How bytes are made: v1 is Zstandard, then Tink AEAD with the sixteen bytes of improvement_id as associated data.';
COMMENT ON COLUMN dgm.rollback_snapshots.sha256 IS 'SHA-256 of the canonical plain bytes.';
COMMENT ON COLUMN dgm.rollback_snapshots.plain_size IS 'Length of the plain bytes.';
COMMENT ON COLUMN dgm.rollback_snapshots.key_id IS 'Key of the keyset that encrypted it.';
COMMENT ON COLUMN dgm.rollback_snapshots.bytes IS 'The encrypted bytes.';
COMMENT ON COLUMN dgm.rollback_snapshots.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.rollback_snapshots.created_at IS 'When the row was inserted.';
ALTER TABLE dgm.rollback_snapshots ALTER COLUMN bytes SET STORAGE EXTERNAL;
-- +goose StatementBegin
CREATE FUNCTION dgm.refuse_snapshot_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'dgm.rollback_snapshots is insert-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.refuse_snapshot_change() IS 'Trigger: what a rollback puts back is never altered.';
CREATE TRIGGER refuse_update BEFORE UPDATE ON dgm.rollback_snapshots FOR EACH ROW EXECUTE FUNCTION dgm.refuse_snapshot_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON dgm.rollback_snapshots FOR EACH STATEMENT EXECUTE FUNCTION dgm.refuse_snapshot_change();

CREATE TABLE dgm.constitutional_compliance_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    improvement_id uuid REFERENCES dgm.dgm_archive (improvement_id),
    service_name text,
    operation_type text NOT NULL,
    compliance_level text NOT NULL CHECK (compliance_level IN ('critical_violation', 'major_violation', 'minor_violation', 'warning', 'compliant', 'exemplary')),
    compliance_score numeric(3,2) CHECK (compliance_score BETWEEN 0 AND 1),
    compliance_score_exact numeric,
    status text NOT NULL CHECK (status IN ('pending', 'in_progress', 'completed', 'failed', 'requires_review')),
    constitutional_version text,
    violations jsonb,
    recommendations jsonb,
    evidence jsonb,
    assessment_method text NOT NULL CHECK (assessment_method IN ('manual', 'automated', 'hybrid')),
    assessor_id text,
    review_required boolean NOT NULL DEFAULT false,
    assessed_at timestamptz NOT NULL DEFAULT now(),
    reviewed_at timestamptz,
    cluster text,
    namespace text,
    name text,
    uid text,
    generation bigint,
    writer_epoch bigint,
    revision bigint,
    deleted_at timestamptz,
    constitutional_hash varchar(64) NOT NULL DEFAULT dgm.active_constitutional_hash() REFERENCES dgm.known_constitutions (hash),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE dgm.constitutional_compliance_logs IS 'Every assessment of an operation against the constitution. History: rows are added, only the review fields change.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.improvement_id IS 'The attempt that was assessed.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.service_name IS 'Service that the operation concerns.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.operation_type IS 'What was assessed.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.compliance_level IS 'critical_violation, major_violation, minor_violation, warning, compliant or exemplary.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.compliance_score IS 'Score, truncated to two digits, never rounded up.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.compliance_score_exact IS 'The score with all its digits.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.status IS 'pending, in_progress, completed, failed or requires_review.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.constitutional_version IS 'Version of the constitution.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.violations IS 'Principles that were violated.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.recommendations IS 'What would mend it.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.evidence IS 'What the verdict rests on.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.assessment_method IS 'manual, automated or hybrid.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.assessor_id IS 'Who or what assessed.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.review_required IS 'Whether a person must look at it.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.assessed_at IS 'When it was assessed.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.reviewed_at IS 'When a person looked at it.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.constitutional_compliance_logs.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.constitutional_compliance_logs FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();
CREATE INDEX idx_compliance_logs_service_level ON dgm.constitutional_compliance_logs (service_name, compliance_level, assessed_at DESC);
CREATE INDEX constitutional_compliance_logs_improvement ON dgm.constitutional_compliance_logs (improvement_id);

-- +goose Down
DROP TABLE dgm.constitutional_compliance_logs;
DROP TABLE dgm.rollback_snapshots;
DROP FUNCTION dgm.refuse_snapshot_change();
DROP TABLE dgm.improvement_workspaces;
DROP TABLE dgm.dgm_archive;
