-- min-compatible-binary: 5
-- What a new installation begins with. Run again it changes nothing, and never a value that somebody has set.
-- +goose Up
SET LOCAL dgm.migration = 'on';

UPDATE dgm.known_constitutions c SET configuration_rules = d.rules || c.configuration_rules
FROM (VALUES ('cdd01ef066bc6cf2', '{
    "constitutional_compliance_threshold": {"min": 0.8},
    "safety_threshold": {"min": 0.5},
    "bandit_exploration_rate": {"max": 0.5}
}'::jsonb)) AS d (hash, rules)
WHERE c.hash = d.hash AND c.configuration_rules IS DISTINCT FROM d.rules || c.configuration_rules;

-- A row that is there already keeps its value, even one that the rules would refuse: the operator says so, and its
-- owner decides. One without a value, or deleted, gets the default. None of these is secret: only a value that is
-- encrypted already stays so.
INSERT INTO dgm.system_configurations AS t (id, key, value, value_type, category, description, validation_rules, is_readonly, default_value, is_builtin)
SELECT d.id::uuid, d.key, d.value, d.value_type, d.category, d.description, d.rules::jsonb, d.is_readonly, d.value, true
FROM (VALUES
    ('01900000-0000-7000-8000-000000000001', 'constitutional_hash', 'cdd01ef066bc6cf2', 'string', 'constitution',
        'Hash of the constitution that this schema was made for.', '{"pattern": "^[0-9a-f]{16,64}$"}', true),
    ('01900000-0000-7000-8000-000000000002', 'constitutional_version', '1.0', 'string', 'constitution',
        'Version of that constitution.', '{"pattern": "^[0-9]+([.][0-9]+)*$", "maxLength": 32}', true),
    ('01900000-0000-7000-8000-000000000003', 'max_improvement_attempts', '10', 'integer', 'improvement',
        'Highest attempt that one improvement may come to.', '{"min": 1, "max": 1000}', false),
    ('01900000-0000-7000-8000-000000000004', 'safety_threshold', '0.8', 'float', 'safety',
        'Least probability of being safe that an arm needs to be tried, from 0 to 1.', '{"min": 0, "max": 1}', false),
    ('01900000-0000-7000-8000-000000000005', 'constitutional_compliance_threshold', '0.8', 'float', 'constitution',
        'Least score against the constitution with which an improvement may be applied, from 0 to 1.', '{"min": 0, "max": 1}', false),
    ('01900000-0000-7000-8000-000000000006', 'bandit_exploration_rate', '0.1', 'float', 'bandit',
        'Share of decisions that explore, from 0 to 1.', '{"min": 0, "max": 1}', false),
    ('01900000-0000-7000-8000-000000000007', 'conservative_bandit_enabled', 'true', 'boolean', 'bandit',
        'Whether bandits keep to the safety promise against their baseline.', NULL, false),
    ('01900000-0000-7000-8000-000000000008', 'max_concurrent_improvements', '3', 'integer', 'improvement',
        'How many improvements may be active at once in one cluster.', '{"min": 1, "max": 100000}', false),
    ('01900000-0000-7000-8000-000000000009', 'improvement_timeout_minutes', '30', 'integer', 'improvement',
        'Minutes that an improvement may take from its begin to its end.', '{"min": 1, "max": 10080}', false),
    ('01900000-0000-7000-8000-00000000000a', 'rollback_retention_days', '30', 'integer', 'retention',
        'Days after its end for which the exact bytes of a rollback are kept.', '{"min": 1, "max": 3650}', false),
    ('01900000-0000-7000-8000-00000000000b', 'metrics_aggregation_enabled', 'true', 'boolean', 'metrics',
        'Whether metrics are rolled up.', NULL, false),
    ('01900000-0000-7000-8000-00000000000c', 'metrics_retention_days', '90', 'integer', 'retention',
        'Days for which samples are kept, by whole months.', '{"min": 1, "max": 3650}', false),
    ('01900000-0000-7000-8000-00000000000d', 'workspace_cleanup_enabled', 'true', 'boolean', 'retention',
        'Whether workspaces that have ended are marked archived.', NULL, false),
    ('01900000-0000-7000-8000-00000000000e', 'workspace_retention_hours', '72', 'integer', 'retention',
        'Hours after its end before a workspace is marked archived.', '{"min": 1, "max": 87600}', false)
) AS d (id, key, value, value_type, category, description, rules, is_readonly)
ON CONFLICT (key) DO UPDATE SET
    value = CASE WHEN t.encrypted_value IS NOT NULL THEN NULL WHEN t.deleted_at IS NULL THEN coalesce(t.value, excluded.value) ELSE excluded.value END,
    value_type = excluded.value_type, category = coalesce(t.category, excluded.category), description = coalesce(t.description, excluded.description),
    validation_rules = excluded.validation_rules, is_readonly = excluded.is_readonly,
    default_value = CASE WHEN t.encrypted_value IS NULL THEN excluded.default_value END,
    is_sensitive = t.encrypted_value IS NOT NULL, is_builtin = true, deleted_at = NULL
WHERE NOT t.is_builtin;

-- The baseline arm changes nothing; policies of a cluster have rows of their own.
INSERT INTO dgm.bandit_states (id, algorithm_type, context_key, arm_id, epsilon, alpha, beta, safety_threshold, safety_threshold_exact,
    risk_tolerance, risk_tolerance_exact, exploration_data)
SELECT d.id::uuid, d.algorithm_type, 'default', 'baseline', d.epsilon, d.alpha, d.beta, 0.8, 0.8, 0.1, 0.1, '{"baseline": true}'
FROM (VALUES
    ('01900000-0000-7000-8000-000000000101', 'epsilon_greedy', 0.1, NULL::numeric, NULL::numeric),
    ('01900000-0000-7000-8000-000000000102', 'ucb1', NULL, NULL, NULL),
    ('01900000-0000-7000-8000-000000000103', 'thompson_sampling', NULL, 1, 1),
    ('01900000-0000-7000-8000-000000000104', 'conservative_bandit', NULL, NULL, NULL),
    ('01900000-0000-7000-8000-000000000105', 'safe_exploration', NULL, NULL, NULL)
) AS d (id, algorithm_type, epsilon, alpha, beta)
ON CONFLICT DO NOTHING;

-- What a measurement is compared with before there are others.
INSERT INTO dgm.performance_metrics (id, metric_name, metric_type, metric_scope, value, unit, service_name, metadata)
SELECT d.id::uuid, 'baseline_' || d.metric_type, d.metric_type, 'system', d.value, 'ratio', 'system', jsonb_build_object('baseline', true, 'meaning', d.meaning)
FROM (VALUES
    ('01900000-0000-7000-8000-000000000201', 'constitutional_compliance', 0.8, 'the threshold constitutional_compliance_threshold'),
    ('01900000-0000-7000-8000-000000000202', 'improvement_success_rate', 0, 'nothing has been improved yet'),
    ('01900000-0000-7000-8000-000000000203', 'bandit_reward', 0.5, 'a change that makes no difference'),
    ('01900000-0000-7000-8000-000000000204', 'system_health', 1, 'all is well')
) AS d (id, metric_type, value, meaning)
WHERE NOT EXISTS (
    SELECT FROM dgm.performance_metrics m WHERE m.service_name = 'system' AND m.metric_type = d.metric_type AND m.metadata @> '{"baseline": true}');

INSERT INTO dgm.constitutional_compliance_logs (id, service_name, operation_type, compliance_level, compliance_score, compliance_score_exact, status,
    constitutional_version, evidence, assessment_method, assessor_id)
SELECT d.id::uuid, 'system', d.operation_type, 'compliant', 1, 1, 'completed', '1.0', jsonb_build_object('baseline', true, 'because', d.because), 'automated', 'migration 00010'
FROM (VALUES
    ('01900000-0000-7000-8000-000000000301', 'system_configuration', 'the default system configurations satisfy the rules of the constitution'),
    ('01900000-0000-7000-8000-000000000302', 'bandit_decision', 'the baseline arm changes nothing')
) AS d (id, operation_type, because)
ON CONFLICT DO NOTHING;

-- +goose Down
-- Values that somebody has set stay, as settings of their own.
SET LOCAL dgm.migration = 'on';
DELETE FROM dgm.constitutional_compliance_logs WHERE id IN ('01900000-0000-7000-8000-000000000301', '01900000-0000-7000-8000-000000000302');
DELETE FROM dgm.performance_metrics WHERE service_name = 'system' AND id IN ('01900000-0000-7000-8000-000000000201',
    '01900000-0000-7000-8000-000000000202', '01900000-0000-7000-8000-000000000203', '01900000-0000-7000-8000-000000000204');
DELETE FROM dgm.bandit_states WHERE context_key = 'default' AND arm_id = 'baseline' AND cluster IS NULL AND total_pulls = 0
    AND id::text LIKE '01900000-0000-7000-8000-00000000010_';
DELETE FROM dgm.system_configurations WHERE is_builtin AND value = default_value AND uid IS NULL AND id::text LIKE '01900000-0000-7000-8000-00000000000_';
UPDATE dgm.system_configurations SET is_builtin = false, is_readonly = false, default_value = NULL WHERE is_builtin;
UPDATE dgm.known_constitutions SET configuration_rules = configuration_rules - ARRAY['constitutional_compliance_threshold', 'safety_threshold', 'bandit_exploration_rate']
WHERE hash = 'cdd01ef066bc6cf2' AND configuration_rules @> '{"constitutional_compliance_threshold": {"min": 0.8}, "safety_threshold": {"min": 0.5}, "bandit_exploration_rate": {"max": 0.5}}';
