-- min-compatible-binary: 5
-- +goose Up
CREATE TABLE dgm.bandit_states (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    algorithm_type text NOT NULL CHECK (algorithm_type IN ('epsilon_greedy', 'ucb1', 'thompson_sampling', 'conservative_bandit', 'safe_exploration')),
    context_key text NOT NULL,
    arm_id text NOT NULL,
    total_pulls bigint NOT NULL DEFAULT 0 CHECK (total_pulls >= 0),
    total_reward numeric NOT NULL DEFAULT 0,
    average_reward numeric NOT NULL DEFAULT 0,
    confidence_bound numeric,
    epsilon numeric,
    alpha numeric,
    beta numeric,
    safety_threshold numeric(3,2) CHECK (safety_threshold BETWEEN 0 AND 1),
    safety_threshold_exact numeric,
    risk_tolerance numeric(3,2) CHECK (risk_tolerance BETWEEN 0 AND 1),
    risk_tolerance_exact numeric,
    algorithm_state jsonb,
    exploration_data jsonb,
    last_updated timestamptz NOT NULL DEFAULT now(),
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
    CONSTRAINT bandit_states_arm UNIQUE (algorithm_type, context_key, arm_id)
);
COMMENT ON TABLE dgm.bandit_states IS 'One row per arm of a policy and context: its ledger folded into totals.';
COMMENT ON COLUMN dgm.bandit_states.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.bandit_states.algorithm_type IS 'epsilon_greedy, ucb1, thompson_sampling, conservative_bandit or safe_exploration.';
COMMENT ON COLUMN dgm.bandit_states.context_key IS 'cluster/namespace/policy/context.';
COMMENT ON COLUMN dgm.bandit_states.arm_id IS 'Name of the arm.';
COMMENT ON COLUMN dgm.bandit_states.total_pulls IS 'Finished pulls.';
COMMENT ON COLUMN dgm.bandit_states.total_reward IS 'Sum of their rewards.';
COMMENT ON COLUMN dgm.bandit_states.average_reward IS 'Mean reward.';
COMMENT ON COLUMN dgm.bandit_states.confidence_bound IS 'Half-width at the last decision.';
COMMENT ON COLUMN dgm.bandit_states.epsilon IS 'Exploration rate of epsilon_greedy.';
COMMENT ON COLUMN dgm.bandit_states.alpha IS 'First parameter of the Beta posterior of thompson_sampling.';
COMMENT ON COLUMN dgm.bandit_states.beta IS 'Second parameter of that posterior.';
COMMENT ON COLUMN dgm.bandit_states.safety_threshold IS 'Declared safety threshold, truncated to two digits.';
COMMENT ON COLUMN dgm.bandit_states.safety_threshold_exact IS 'The threshold with all its digits.';
COMMENT ON COLUMN dgm.bandit_states.risk_tolerance IS 'Declared risk tolerance, truncated to two digits.';
COMMENT ON COLUMN dgm.bandit_states.risk_tolerance_exact IS 'The tolerance with all its digits.';
COMMENT ON COLUMN dgm.bandit_states.algorithm_state IS 'State of the algorithm that has no column.';
COMMENT ON COLUMN dgm.bandit_states.exploration_data IS 'What the arm explores.';
COMMENT ON COLUMN dgm.bandit_states.last_updated IS 'When the arm or its totals last changed.';
COMMENT ON COLUMN dgm.bandit_states.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.bandit_states.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_states.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_states.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_states.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.bandit_states.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.bandit_states.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.bandit_states.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.bandit_states.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.bandit_states.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.bandit_states.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.bandit_states FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();
CREATE INDEX idx_bandit_states_context_arm ON dgm.bandit_states (context_key, arm_id, last_updated DESC);
CREATE INDEX bandit_states_object ON dgm.bandit_states (cluster, namespace, name);
CREATE INDEX bandit_states_uid ON dgm.bandit_states (uid);

CREATE TABLE dgm.bandit_decisions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    algorithm_type text NOT NULL CHECK (algorithm_type IN ('epsilon_greedy', 'ucb1', 'thompson_sampling', 'conservative_bandit', 'safe_exploration')),
    context_key text NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 1),
    arm_id text NOT NULL,
    eligible_arms jsonb NOT NULL,
    propensities jsonb,
    bounds jsonb,
    reason text NOT NULL,
    spec_digest text NOT NULL,
    improvement_id uuid,
    reward numeric CHECK (reward BETWEEN 0 AND 1),
    decided_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
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
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bandit_decisions_seq UNIQUE (context_key, seq),
    CONSTRAINT bandit_decisions_resolved CHECK ((reward IS NULL) = (resolved_at IS NULL))
);
COMMENT ON TABLE dgm.bandit_decisions IS 'Ledger of the decisions of a policy: which arm, from which, and why. bandit_states can be rebuilt from it.';
COMMENT ON COLUMN dgm.bandit_decisions.id IS 'Row id, UUIDv7 when the operator wrote it.';
COMMENT ON COLUMN dgm.bandit_decisions.algorithm_type IS 'As in bandit_states.';
COMMENT ON COLUMN dgm.bandit_decisions.context_key IS 'cluster/namespace/policy/context.';
COMMENT ON COLUMN dgm.bandit_decisions.seq IS 'Number of the decision in its context, from 1, without gaps.';
COMMENT ON COLUMN dgm.bandit_decisions.arm_id IS 'The chosen arm.';
COMMENT ON COLUMN dgm.bandit_decisions.eligible_arms IS 'The arms that it was chosen from.';
COMMENT ON COLUMN dgm.bandit_decisions.propensities IS 'Probability of each of them.';
COMMENT ON COLUMN dgm.bandit_decisions.bounds IS 'Bounds or samples that the choice rests on.';
COMMENT ON COLUMN dgm.bandit_decisions.reason IS 'Why this arm.';
COMMENT ON COLUMN dgm.bandit_decisions.spec_digest IS 'Digest of the policy that was in force.';
COMMENT ON COLUMN dgm.bandit_decisions.improvement_id IS 'The improvement that the pull became.';
COMMENT ON COLUMN dgm.bandit_decisions.reward IS 'Its reward, once finished.';
COMMENT ON COLUMN dgm.bandit_decisions.decided_at IS 'When it was decided.';
COMMENT ON COLUMN dgm.bandit_decisions.resolved_at IS 'When the reward was credited; it is credited once.';
COMMENT ON COLUMN dgm.bandit_decisions.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.bandit_decisions.namespace IS 'Namespace of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_decisions.name IS 'Name of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_decisions.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.bandit_decisions.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.bandit_decisions.writer_epoch IS 'Epoch of the leader that wrote the row; with revision, orders the writes to it.';
COMMENT ON COLUMN dgm.bandit_decisions.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.bandit_decisions.deleted_at IS 'When the object was found deleted (tombstone); null while it exists.';
COMMENT ON COLUMN dgm.bandit_decisions.constitutional_hash IS 'Constitution under which the row was written.';
COMMENT ON COLUMN dgm.bandit_decisions.created_at IS 'When the row was inserted.';
COMMENT ON COLUMN dgm.bandit_decisions.updated_at IS 'When the row last changed.';
CREATE TRIGGER set_updated_at BEFORE UPDATE ON dgm.bandit_decisions FOR EACH ROW EXECUTE FUNCTION dgm.set_updated_at();

-- +goose Down
DROP TABLE dgm.bandit_decisions;
DROP TABLE dgm.bandit_states;
