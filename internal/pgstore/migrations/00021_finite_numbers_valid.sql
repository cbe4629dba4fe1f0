-- min-compatible-binary: 5
-- +goose Up
-- A number that is none in a row of before is no reason to stop an upgrade: the constraint holds for what is
-- written from now on, and the check for drift names it until the rows are mended and it is validated.
-- +goose StatementBegin
DO $$
DECLARE
    added record;
BEGIN
    FOR added IN
        SELECT k.conrelid::regclass AS relation, k.conname AS name FROM pg_constraint k
        WHERE k.connamespace = 'dgm'::regnamespace AND NOT k.convalidated AND k.conname IN (
            'bandit_states_total_reward_finite', 'bandit_states_average_reward_finite', 'bandit_states_confidence_bound_finite',
            'bandit_states_epsilon_finite', 'bandit_states_alpha_finite', 'bandit_states_beta_finite',
            'bandit_states_safety_threshold_exact_range', 'bandit_states_risk_tolerance_exact_range', 'dgm_archive_score_exact_range',
            'constitutional_compliance_logs_score_exact_range', 'metric_rollups_finite', 'aggregation_state_seconds_finite', 'analytics_refreshes_seconds_finite')
        ORDER BY k.conname
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', added.relation, added.name);
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE '% has rows of before that break the constraint %: mend them, then: ALTER TABLE % VALIDATE CONSTRAINT %', added.relation, added.name, added.relation, added.name;
        END;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- A constraint that is valid does no harm to the version before.
SELECT 1;
