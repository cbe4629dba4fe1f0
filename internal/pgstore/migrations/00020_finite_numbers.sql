-- min-compatible-binary: 5
-- +goose Up
-- numeric knows NaN and infinities, which turn whatever is computed from them into the same. The rest is
-- bounded already. Rows that are there are judged by the next migration, which blocks nobody.
ALTER TABLE dgm.bandit_states
    ADD CONSTRAINT bandit_states_total_reward_finite CHECK (total_reward > '-Infinity' AND total_reward < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_average_reward_finite CHECK (average_reward > '-Infinity' AND average_reward < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_confidence_bound_finite CHECK (confidence_bound > '-Infinity' AND confidence_bound < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_epsilon_finite CHECK (epsilon > '-Infinity' AND epsilon < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_alpha_finite CHECK (alpha > '-Infinity' AND alpha < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_beta_finite CHECK (beta > '-Infinity' AND beta < 'Infinity') NOT VALID,
    ADD CONSTRAINT bandit_states_safety_threshold_exact_range CHECK (safety_threshold_exact BETWEEN 0 AND 1) NOT VALID,
    ADD CONSTRAINT bandit_states_risk_tolerance_exact_range CHECK (risk_tolerance_exact BETWEEN 0 AND 1) NOT VALID;
ALTER TABLE dgm.dgm_archive
    ADD CONSTRAINT dgm_archive_score_exact_range CHECK (constitutional_compliance_score_exact BETWEEN 0 AND 1) NOT VALID;
ALTER TABLE dgm.constitutional_compliance_logs
    ADD CONSTRAINT constitutional_compliance_logs_score_exact_range CHECK (compliance_score_exact BETWEEN 0 AND 1) NOT VALID;
ALTER TABLE dgm.metric_rollups
    ADD CONSTRAINT metric_rollups_finite CHECK (sum > '-Infinity' AND sum < 'Infinity' AND avg > '-Infinity' AND avg < 'Infinity'
        AND min_value > '-Infinity' AND max_value < 'Infinity' AND min_value <= max_value
        AND p50 BETWEEN min_value AND max_value AND p95 BETWEEN min_value AND max_value AND p99 BETWEEN min_value AND max_value) NOT VALID;
ALTER TABLE dgm.aggregation_state
    ADD CONSTRAINT aggregation_state_seconds_finite CHECK (last_pass_seconds > '-Infinity' AND last_pass_seconds < 'Infinity') NOT VALID;
ALTER TABLE dgm.analytics_refreshes
    ADD CONSTRAINT analytics_refreshes_seconds_finite CHECK (seconds > '-Infinity' AND seconds < 'Infinity') NOT VALID;

-- +goose Down
ALTER TABLE dgm.analytics_refreshes DROP CONSTRAINT analytics_refreshes_seconds_finite;
ALTER TABLE dgm.aggregation_state DROP CONSTRAINT aggregation_state_seconds_finite;
ALTER TABLE dgm.metric_rollups DROP CONSTRAINT metric_rollups_finite;
ALTER TABLE dgm.constitutional_compliance_logs DROP CONSTRAINT constitutional_compliance_logs_score_exact_range;
ALTER TABLE dgm.dgm_archive DROP CONSTRAINT dgm_archive_score_exact_range;
ALTER TABLE dgm.bandit_states
    DROP CONSTRAINT bandit_states_risk_tolerance_exact_range,
    DROP CONSTRAINT bandit_states_safety_threshold_exact_range,
    DROP CONSTRAINT bandit_states_beta_finite,
    DROP CONSTRAINT bandit_states_alpha_finite,
    DROP CONSTRAINT bandit_states_epsilon_finite,
    DROP CONSTRAINT bandit_states_confidence_bound_finite,
    DROP CONSTRAINT bandit_states_average_reward_finite,
    DROP CONSTRAINT bandit_states_total_reward_finite;
