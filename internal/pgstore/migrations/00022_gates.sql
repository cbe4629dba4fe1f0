-- min-compatible-binary: 5
-- +goose Up
-- The settings of the gates that an improvement passes before anything is applied. A row that is there already keeps its
-- value, as in 00010.
SET LOCAL dgm.migration = 'on';

UPDATE dgm.known_constitutions c SET configuration_rules = d.rules || c.configuration_rules
FROM (VALUES ('cdd01ef066bc6cf2', '{"risk_limit": {"enum": ["Low", "Medium", "High"]}}'::jsonb)) AS d (hash, rules)
WHERE c.hash = d.hash AND c.configuration_rules IS DISTINCT FROM d.rules || c.configuration_rules;

INSERT INTO dgm.system_configurations AS t (id, key, value, value_type, category, description, validation_rules, is_readonly, default_value, is_builtin)
SELECT d.id::uuid, d.key, d.value, d.value_type, d.category, d.description, d.rules::jsonb, false, d.value, true
FROM (VALUES
    ('01900000-0000-7000-8000-00000000000f', 'risk_limit', 'High', 'string', 'safety',
        'Highest risk that an improvement may declare and be applied: Low, Medium, High or Critical.', '{"enum": ["Low", "Medium", "High", "Critical"]}'),
    ('01900000-0000-7000-8000-000000000010', 'freeze', 'false', 'boolean', 'safety',
        'Whether no improvement takes a new step anywhere; what is put back goes on.', NULL)
) AS d (id, key, value, value_type, category, description, rules)
ON CONFLICT (key) DO UPDATE SET
    value = CASE WHEN t.encrypted_value IS NOT NULL THEN NULL WHEN t.deleted_at IS NULL THEN coalesce(t.value, excluded.value) ELSE excluded.value END,
    value_type = excluded.value_type, category = coalesce(t.category, excluded.category), description = coalesce(t.description, excluded.description),
    validation_rules = excluded.validation_rules, default_value = CASE WHEN t.encrypted_value IS NULL THEN excluded.default_value END,
    is_sensitive = t.encrypted_value IS NOT NULL, is_builtin = true, deleted_at = NULL
WHERE NOT t.is_builtin;

-- +goose Down
-- Values that somebody has set stay, as settings of their own.
SET LOCAL dgm.migration = 'on';
DELETE FROM dgm.system_configurations WHERE key IN ('risk_limit', 'freeze') AND is_builtin AND value = default_value AND uid IS NULL;
UPDATE dgm.system_configurations SET is_builtin = false, default_value = NULL WHERE key IN ('risk_limit', 'freeze') AND is_builtin;
UPDATE dgm.known_constitutions SET configuration_rules = configuration_rules - 'risk_limit'
WHERE hash = 'cdd01ef066bc6cf2' AND configuration_rules -> 'risk_limit' = '{"enum": ["Low", "Medium", "High"]}';
