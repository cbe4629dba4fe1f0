-- min-compatible-binary: 5
-- +goose Up
-- What other services read. Columns are only ever added, at the end: tables may change beneath.
CREATE VIEW dgm.v_improvements AS
SELECT a.improvement_id, a.cluster, a.namespace, a.name, a.attempt, a.parent_improvement_id,
    NOT EXISTS (
        SELECT 1 FROM dgm.dgm_archive n
        WHERE n.cluster = a.cluster AND n.namespace = a.namespace AND n.name = a.name
          AND (n.attempt, n."timestamp") > (a.attempt, a."timestamp")) AS is_newest_attempt,
    a.description, w.target_service, w.improvement_type, w.priority, a.status AS archive_status, w.status AS workspace_status,
    a.outcome_reason, COALESCE(a.constitutional_compliance_score_exact, a.constitutional_compliance_score) AS compliance_score,
    a.performance_before, a.performance_after, a.created_by, w.assigned_to, a."timestamp" AS started_at, w.completed_at,
    a.deleted_at, a.constitutional_hash, a.uid, a.generation, a.writer_epoch, a.revision, a.created_at,
    GREATEST(a.updated_at, w.updated_at) AS updated_at
FROM dgm.dgm_archive a LEFT JOIN dgm.improvement_workspaces w ON w.improvement_id = a.improvement_id;
COMMENT ON VIEW dgm.v_improvements IS 'Every attempt of every improvement: what it is, where it stands and how it ended.';
COMMENT ON COLUMN dgm.v_improvements.improvement_id IS 'Identity of the attempt.';
COMMENT ON COLUMN dgm.v_improvements.cluster IS 'Name of the Kubernetes cluster; null where another service wrote the row.';
COMMENT ON COLUMN dgm.v_improvements.namespace IS 'Namespace of the ImprovementWorkspace.';
COMMENT ON COLUMN dgm.v_improvements.name IS 'Name of the ImprovementWorkspace.';
COMMENT ON COLUMN dgm.v_improvements.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN dgm.v_improvements.parent_improvement_id IS 'The attempt or improvement that this one follows.';
COMMENT ON COLUMN dgm.v_improvements.is_newest_attempt IS 'Whether no later attempt of an object of this name is known.';
COMMENT ON COLUMN dgm.v_improvements.description IS 'What was to be improved.';
COMMENT ON COLUMN dgm.v_improvements.target_service IS 'Service that it is about.';
COMMENT ON COLUMN dgm.v_improvements.improvement_type IS 'ParameterTuning, ConfigurationUpdate, AlgorithmModification or ArchitectureChange.';
COMMENT ON COLUMN dgm.v_improvements.priority IS 'Low, Medium, High or Critical.';
COMMENT ON COLUMN dgm.v_improvements.archive_status IS 'pending, running, completed, failed or rolled_back; the last three are final, but for completed to rolled_back.';
COMMENT ON COLUMN dgm.v_improvements.workspace_status IS 'created, active, testing, validating, completed, failed or archived.';
COMMENT ON COLUMN dgm.v_improvements.outcome_reason IS 'Why it stands or ended as it did, in one word.';
COMMENT ON COLUMN dgm.v_improvements.compliance_score IS 'Score against the constitution, from 0 to 1, with all digits that are known.';
COMMENT ON COLUMN dgm.v_improvements.performance_before IS 'What was measured before the change.';
COMMENT ON COLUMN dgm.v_improvements.performance_after IS 'What was measured after it.';
COMMENT ON COLUMN dgm.v_improvements.created_by IS 'Who asked for it.';
COMMENT ON COLUMN dgm.v_improvements.assigned_to IS 'Who looks after it.';
COMMENT ON COLUMN dgm.v_improvements.started_at IS 'When the attempt began.';
COMMENT ON COLUMN dgm.v_improvements.completed_at IS 'When it ended; null while it runs.';
COMMENT ON COLUMN dgm.v_improvements.deleted_at IS 'When its object was found deleted; null while it exists.';
COMMENT ON COLUMN dgm.v_improvements.constitutional_hash IS 'Constitution that it was judged by.';
COMMENT ON COLUMN dgm.v_improvements.uid IS 'UID of the Kubernetes object.';
COMMENT ON COLUMN dgm.v_improvements.generation IS 'metadata.generation of the object that the row shows.';
COMMENT ON COLUMN dgm.v_improvements.writer_epoch IS 'Epoch of the leader that wrote the archive row.';
COMMENT ON COLUMN dgm.v_improvements.revision IS 'Counter of that leader; (writer_epoch, revision) of a row only grows.';
COMMENT ON COLUMN dgm.v_improvements.created_at IS 'When the attempt was first recorded.';
COMMENT ON COLUMN dgm.v_improvements.updated_at IS 'When what is recorded of it last changed.';

CREATE VIEW dgm.v_compliance AS
SELECT l.id, l.improvement_id, COALESCE(l.cluster, a.cluster) AS cluster, COALESCE(l.namespace, a.namespace) AS namespace,
    COALESCE(l.name, a.name) AS name, a.attempt, l.service_name, l.operation_type, l.compliance_level,
    COALESCE(l.compliance_score_exact, l.compliance_score) AS compliance_score, l.status, l.violations, l.recommendations,
    l.assessment_method, l.assessor_id, l.review_required, l.assessed_at, l.reviewed_at, l.constitutional_hash,
    l.constitutional_version, l.created_at
FROM dgm.constitutional_compliance_logs l LEFT JOIN dgm.dgm_archive a ON a.improvement_id = l.improvement_id;
COMMENT ON VIEW dgm.v_compliance IS 'Every assessment against the constitution, with the improvement that it is about.';
COMMENT ON COLUMN dgm.v_compliance.id IS 'Identity of the assessment.';
COMMENT ON COLUMN dgm.v_compliance.improvement_id IS 'The improvement that was assessed, if it was one.';
COMMENT ON COLUMN dgm.v_compliance.cluster IS 'Its Kubernetes cluster.';
COMMENT ON COLUMN dgm.v_compliance.namespace IS 'Its namespace.';
COMMENT ON COLUMN dgm.v_compliance.name IS 'Its name.';
COMMENT ON COLUMN dgm.v_compliance.attempt IS 'Its attempt.';
COMMENT ON COLUMN dgm.v_compliance.service_name IS 'Service that was assessed.';
COMMENT ON COLUMN dgm.v_compliance.operation_type IS 'Operation that was assessed.';
COMMENT ON COLUMN dgm.v_compliance.compliance_level IS 'critical_violation, major_violation, minor_violation, warning, compliant or exemplary.';
COMMENT ON COLUMN dgm.v_compliance.compliance_score IS 'From 0 to 1, with all digits that are known.';
COMMENT ON COLUMN dgm.v_compliance.status IS 'pending, in_progress, completed, failed or requires_review.';
COMMENT ON COLUMN dgm.v_compliance.violations IS 'Principles that were violated.';
COMMENT ON COLUMN dgm.v_compliance.recommendations IS 'What would mend it.';
COMMENT ON COLUMN dgm.v_compliance.assessment_method IS 'manual, automated or hybrid.';
COMMENT ON COLUMN dgm.v_compliance.assessor_id IS 'Who or what assessed.';
COMMENT ON COLUMN dgm.v_compliance.review_required IS 'Whether a person has to look at it.';
COMMENT ON COLUMN dgm.v_compliance.assessed_at IS 'When it was assessed.';
COMMENT ON COLUMN dgm.v_compliance.reviewed_at IS 'When a person has looked at it.';
COMMENT ON COLUMN dgm.v_compliance.constitutional_hash IS 'Constitution that it was judged by.';
COMMENT ON COLUMN dgm.v_compliance.constitutional_version IS 'Version of that constitution.';
COMMENT ON COLUMN dgm.v_compliance.created_at IS 'When the assessment was recorded.';

CREATE VIEW dgm.v_bandit_arms AS
SELECT b.context_key, b.algorithm_type, b.arm_id, b.cluster, b.namespace, b.name AS policy, b.total_pulls,
    round(b.total_pulls / NULLIF(sum(b.total_pulls) OVER (PARTITION BY b.context_key, b.algorithm_type), 0), 6) AS pull_share,
    b.total_reward, b.average_reward, b.confidence_bound, b.epsilon, b.alpha, b.beta,
    COALESCE(b.safety_threshold_exact, b.safety_threshold) AS safety_threshold,
    COALESCE(b.risk_tolerance_exact, b.risk_tolerance) AS risk_tolerance, b.last_updated, b.deleted_at, b.constitutional_hash
FROM dgm.bandit_states b;
COMMENT ON VIEW dgm.v_bandit_arms IS 'Every arm of every policy and context, and what it has earned.';
COMMENT ON COLUMN dgm.v_bandit_arms.context_key IS 'cluster/namespace/policy/context.';
COMMENT ON COLUMN dgm.v_bandit_arms.algorithm_type IS 'epsilon_greedy, ucb1, thompson_sampling, conservative_bandit or safe_exploration.';
COMMENT ON COLUMN dgm.v_bandit_arms.arm_id IS 'Name of the arm.';
COMMENT ON COLUMN dgm.v_bandit_arms.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.v_bandit_arms.namespace IS 'Namespace of the BanditPolicy.';
COMMENT ON COLUMN dgm.v_bandit_arms.policy IS 'Name of the BanditPolicy.';
COMMENT ON COLUMN dgm.v_bandit_arms.total_pulls IS 'Finished pulls.';
COMMENT ON COLUMN dgm.v_bandit_arms.pull_share IS 'Its part of all pulls of the context, from 0 to 1; null before the first one.';
COMMENT ON COLUMN dgm.v_bandit_arms.total_reward IS 'Sum of the rewards.';
COMMENT ON COLUMN dgm.v_bandit_arms.average_reward IS 'Mean reward.';
COMMENT ON COLUMN dgm.v_bandit_arms.confidence_bound IS 'Half-width at the last decision.';
COMMENT ON COLUMN dgm.v_bandit_arms.epsilon IS 'Exploration rate of epsilon_greedy.';
COMMENT ON COLUMN dgm.v_bandit_arms.alpha IS 'First parameter of the Beta posterior of thompson_sampling.';
COMMENT ON COLUMN dgm.v_bandit_arms.beta IS 'Second parameter of that posterior.';
COMMENT ON COLUMN dgm.v_bandit_arms.safety_threshold IS 'Declared safety threshold, with all digits that are known.';
COMMENT ON COLUMN dgm.v_bandit_arms.risk_tolerance IS 'Declared risk tolerance, with all digits that are known.';
COMMENT ON COLUMN dgm.v_bandit_arms.last_updated IS 'When the arm or its totals last changed.';
COMMENT ON COLUMN dgm.v_bandit_arms.deleted_at IS 'When the arm or its policy was found deleted; null while it exists.';
COMMENT ON COLUMN dgm.v_bandit_arms.constitutional_hash IS 'Constitution under which the row was written.';

CREATE VIEW dgm.v_bandit_decisions AS
SELECT d.context_key, d.seq, d.cluster, d.namespace, d.name AS policy, d.algorithm_type, d.arm_id, d.eligible_arms,
    d.propensities, d.bounds, d.reason, d.improvement_id, a.name AS improvement, a.status AS archive_status, d.reward,
    d.decided_at, d.resolved_at, d.constitutional_hash
FROM dgm.bandit_decisions d LEFT JOIN dgm.dgm_archive a ON a.improvement_id = d.improvement_id;
COMMENT ON VIEW dgm.v_bandit_decisions IS 'Every decision of every policy, why it was taken, and what came of it.';
COMMENT ON COLUMN dgm.v_bandit_decisions.context_key IS 'cluster/namespace/policy/context.';
COMMENT ON COLUMN dgm.v_bandit_decisions.seq IS 'Number of the decision in its context, from 1, without gaps.';
COMMENT ON COLUMN dgm.v_bandit_decisions.cluster IS 'Name of the Kubernetes cluster.';
COMMENT ON COLUMN dgm.v_bandit_decisions.namespace IS 'Namespace of the BanditPolicy.';
COMMENT ON COLUMN dgm.v_bandit_decisions.policy IS 'Name of the BanditPolicy.';
COMMENT ON COLUMN dgm.v_bandit_decisions.algorithm_type IS 'As in v_bandit_arms.';
COMMENT ON COLUMN dgm.v_bandit_decisions.arm_id IS 'The chosen arm.';
COMMENT ON COLUMN dgm.v_bandit_decisions.eligible_arms IS 'The arms that it was chosen from.';
COMMENT ON COLUMN dgm.v_bandit_decisions.propensities IS 'Probability of each of them.';
COMMENT ON COLUMN dgm.v_bandit_decisions.bounds IS 'Bounds or samples that the choice rests on.';
COMMENT ON COLUMN dgm.v_bandit_decisions.reason IS 'Why this arm.';
COMMENT ON COLUMN dgm.v_bandit_decisions.improvement_id IS 'The improvement that the pull became.';
COMMENT ON COLUMN dgm.v_bandit_decisions.improvement IS 'Its name.';
COMMENT ON COLUMN dgm.v_bandit_decisions.archive_status IS 'Its status, as in v_improvements.';
COMMENT ON COLUMN dgm.v_bandit_decisions.reward IS 'The reward, from 0 to 1, once finished.';
COMMENT ON COLUMN dgm.v_bandit_decisions.decided_at IS 'When it was decided.';
COMMENT ON COLUMN dgm.v_bandit_decisions.resolved_at IS 'When the reward was credited.';
COMMENT ON COLUMN dgm.v_bandit_decisions.constitutional_hash IS 'Constitution under which it was decided.';

-- By the owner's rights: who reads the view need not be able to read constitutions.
-- +goose StatementBegin
CREATE FUNCTION dgm.configuration_problem_of(of_key text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.problem FROM dgm.system_configurations c
    CROSS JOIN LATERAL dgm.configuration_problem(c.key, c.value, c.value_type, c.validation_rules) p
    WHERE c.key = of_key AND NOT c.is_sensitive AND c.value IS NOT NULL
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.configuration_problem_of(text) IS 'Why the value that a setting has would be refused today; null when it would not, or when the setting is sensitive.';
REVOKE ALL ON FUNCTION dgm.configuration_problem_of(text) FROM PUBLIC;

CREATE VIEW dgm.v_system_configurations AS
SELECT c.key, CASE WHEN NOT c.is_sensitive THEN c.value END AS value, CASE WHEN NOT c.is_sensitive THEN c.default_value END AS default_value,
    CASE WHEN c.is_sensitive THEN NULL WHEN c.deleted_at IS NULL THEN COALESCE(c.value, c.default_value) ELSE c.default_value END AS effective_value,
    c.value_type, c.category, c.description, c.validation_rules, c.is_sensitive, c.is_readonly, c.is_builtin,
    CASE WHEN c.is_sensitive THEN c.encrypted_value IS NOT NULL ELSE c.value IS NOT NULL END AS is_set,
    CASE WHEN c.is_sensitive THEN c.encrypted_value IS NOT NULL ELSE c.value IS DISTINCT FROM c.default_value END AND c.deleted_at IS NULL AS is_overridden,
    dgm.configuration_problem_of(c.key) AS problem, c.cluster, c.name, c.deleted_at, c.constitutional_hash, c.updated_at
FROM dgm.system_configurations c;
COMMENT ON VIEW dgm.v_system_configurations IS 'Every system configuration, with nothing of the values of sensitive ones.';
COMMENT ON COLUMN dgm.v_system_configurations.key IS 'Name of the setting.';
COMMENT ON COLUMN dgm.v_system_configurations.value IS 'Its value, as text; null when it is sensitive.';
COMMENT ON COLUMN dgm.v_system_configurations.default_value IS 'Value that it returns to.';
COMMENT ON COLUMN dgm.v_system_configurations.effective_value IS 'The value, or the default where none is set or the setting is deleted; null when it is sensitive.';
COMMENT ON COLUMN dgm.v_system_configurations.value_type IS 'string, integer, float, boolean or json.';
COMMENT ON COLUMN dgm.v_system_configurations.category IS 'Group of settings that it belongs to.';
COMMENT ON COLUMN dgm.v_system_configurations.description IS 'What it does.';
COMMENT ON COLUMN dgm.v_system_configurations.validation_rules IS 'What a value must satisfy.';
COMMENT ON COLUMN dgm.v_system_configurations.is_sensitive IS 'Whether its value must not be shown.';
COMMENT ON COLUMN dgm.v_system_configurations.is_readonly IS 'Whether only a migration may change it.';
COMMENT ON COLUMN dgm.v_system_configurations.is_builtin IS 'Whether a migration brought it.';
COMMENT ON COLUMN dgm.v_system_configurations.is_set IS 'Whether it has a value, shown or not.';
COMMENT ON COLUMN dgm.v_system_configurations.is_overridden IS 'Whether that value is in force and is not the default.';
COMMENT ON COLUMN dgm.v_system_configurations.problem IS 'Why the value would be refused today, by its type, its rules or the active constitution; null when it would not.';
COMMENT ON COLUMN dgm.v_system_configurations.cluster IS 'Cluster of the SystemConfiguration that sets it; null when none does.';
COMMENT ON COLUMN dgm.v_system_configurations.name IS 'Name of that object.';
COMMENT ON COLUMN dgm.v_system_configurations.deleted_at IS 'When that object was found deleted; null while it exists.';
COMMENT ON COLUMN dgm.v_system_configurations.constitutional_hash IS 'Constitution that the value was checked against when it last changed.';
COMMENT ON COLUMN dgm.v_system_configurations.updated_at IS 'When it last changed.';

-- Ids are found by leaps through the index, so that the cost follows the number of improvements, not of samples.
CREATE VIEW dgm.v_unmatched_metrics AS
WITH RECURSIVE named(improvement_id) AS (
    (SELECT m.improvement_id FROM dgm.performance_metrics m WHERE m.improvement_id IS NOT NULL ORDER BY m.improvement_id LIMIT 1)
    UNION ALL
    SELECT (SELECT m.improvement_id FROM dgm.performance_metrics m WHERE m.improvement_id > n.improvement_id ORDER BY m.improvement_id LIMIT 1)
    FROM named n WHERE n.improvement_id IS NOT NULL
)
SELECT n.improvement_id, s.samples, s.first_at, s.last_at
FROM named n CROSS JOIN LATERAL (
    SELECT count(*) AS samples, min(m."timestamp") AS first_at, max(m."timestamp") AS last_at
    FROM dgm.performance_metrics m WHERE m.improvement_id = n.improvement_id
) s
WHERE n.improvement_id IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM dgm.dgm_archive a WHERE a.improvement_id = n.improvement_id);
COMMENT ON VIEW dgm.v_unmatched_metrics IS 'Samples that name an improvement which the archive does not know: a wrong id, or a sample sent too early.';
COMMENT ON COLUMN dgm.v_unmatched_metrics.improvement_id IS 'The unknown id.';
COMMENT ON COLUMN dgm.v_unmatched_metrics.samples IS 'How many samples name it.';
COMMENT ON COLUMN dgm.v_unmatched_metrics.first_at IS 'Time of the earliest of them.';
COMMENT ON COLUMN dgm.v_unmatched_metrics.last_at IS 'Time of the latest.';

-- +goose Down
DROP VIEW dgm.v_unmatched_metrics;
DROP VIEW dgm.v_system_configurations;
DROP FUNCTION dgm.configuration_problem_of(text);
DROP VIEW dgm.v_bandit_decisions;
DROP VIEW dgm.v_bandit_arms;
DROP VIEW dgm.v_compliance;
DROP VIEW dgm.v_improvements;
