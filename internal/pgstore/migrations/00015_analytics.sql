-- min-compatible-binary: 5
-- +goose Up
-- One row that cannot be added up would keep the views from all others. Rows that are there already are not judged.
ALTER TABLE dgm.constitutional_compliance_logs
    ADD CONSTRAINT constitutional_compliance_logs_score_exact CHECK (compliance_score_exact BETWEEN 0 AND 1) NOT VALID;
ALTER TABLE dgm.bandit_states ADD CONSTRAINT bandit_states_reward_bounded CHECK (abs(total_reward) <= 1e100) NOT VALID;

-- Each question is a view, which is always true, and a materialized view of it, which is fast.
-- A deleted object takes nothing away from what happened.
CREATE VIEW dgm.current_improvement_success AS
SELECT left(COALESCE(w.target_service, ''), 253) AS service_name, left(COALESCE(w.improvement_type, ''), 253) AS improvement_type, -- an index has no room for more
    (a."timestamp" AT TIME ZONE 'UTC')::date AS day,
    count(*) AS attempts,
    count(*) FILTER (WHERE a.status = 'completed') AS completed,
    count(*) FILTER (WHERE a.status = 'failed') AS failed,
    count(*) FILTER (WHERE a.status = 'rolled_back') AS rolled_back,
    round(count(*) FILTER (WHERE a.status = 'completed')::numeric / NULLIF(count(*) FILTER (WHERE a.status IN ('completed', 'failed', 'rolled_back')), 0), 6) AS success_rate,
    round(avg(CASE WHEN isfinite(w.completed_at) THEN extract(epoch FROM w.completed_at - a."timestamp") END) FILTER (WHERE a.status IN ('completed', 'failed', 'rolled_back')), 3) AS mean_duration_seconds
FROM dgm.dgm_archive a
LEFT JOIN dgm.improvement_workspaces w ON w.improvement_id = a.improvement_id
WHERE isfinite(a."timestamp")
GROUP BY 1, 2, 3;
COMMENT ON VIEW dgm.current_improvement_success IS 'How attempts ended, by service, type and the day in UTC on which they began.';
COMMENT ON COLUMN dgm.current_improvement_success.service_name IS 'Service that was to be improved; empty when none is named.';
COMMENT ON COLUMN dgm.current_improvement_success.improvement_type IS 'Kind of the improvement; empty when none is named.';
COMMENT ON COLUMN dgm.current_improvement_success.day IS 'Day in UTC on which the attempts began.';
COMMENT ON COLUMN dgm.current_improvement_success.attempts IS 'Attempts, also those that still run.';
COMMENT ON COLUMN dgm.current_improvement_success.completed IS 'Those that succeeded.';
COMMENT ON COLUMN dgm.current_improvement_success.failed IS 'Those that failed.';
COMMENT ON COLUMN dgm.current_improvement_success.rolled_back IS 'Those that were rolled back.';
COMMENT ON COLUMN dgm.current_improvement_success.success_rate IS 'Completed ones among those that have ended, from 0 to 1; null when none has.';
COMMENT ON COLUMN dgm.current_improvement_success.mean_duration_seconds IS 'Mean time from begin to end of those that have ended, in seconds; null when no end is known.';

CREATE VIEW dgm.current_compliance_posture AS
SELECT COALESCE(l.service_name, '') AS service_name,
    count(*) FILTER (WHERE l.assessed) AS assessments,
    round(avg(l.score) FILTER (WHERE l.assessed), 6) AS mean_score,
    min(l.score) FILTER (WHERE l.assessed) AS lowest_score,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'critical_violation') AS critical_violations,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'major_violation') AS major_violations,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'minor_violation') AS minor_violations,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'warning') AS warnings,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'compliant') AS compliant,
    count(*) FILTER (WHERE l.assessed AND l.compliance_level = 'exemplary') AS exemplary,
    count(*) FILTER (WHERE (l.review_required OR l.status = 'requires_review') AND l.reviewed_at IS NULL AND l.deleted_at IS NULL) AS open_reviews,
    (array_agg(l.assessed_at ORDER BY l.assessed_at DESC, l.id DESC) FILTER (WHERE l.assessed))[1] AS newest_assessed_at,
    (array_agg(l.compliance_level ORDER BY l.assessed_at DESC, l.id DESC) FILTER (WHERE l.assessed))[1] AS newest_level,
    (array_agg(l.score ORDER BY l.assessed_at DESC, l.id DESC) FILTER (WHERE l.assessed))[1] AS newest_score
FROM (
    SELECT c.*, COALESCE(c.compliance_score_exact, c.compliance_score) AS score, c.status IN ('completed', 'requires_review') AS assessed
    FROM dgm.constitutional_compliance_logs c
) l
GROUP BY 1;
COMMENT ON VIEW dgm.current_compliance_posture IS 'How each service stands towards the constitution. Assessments count once they are completed, or await a review.';
COMMENT ON COLUMN dgm.current_compliance_posture.service_name IS 'The service; empty when none is named.';
COMMENT ON COLUMN dgm.current_compliance_posture.assessments IS 'Number of assessments.';
COMMENT ON COLUMN dgm.current_compliance_posture.mean_score IS 'Mean of their scores, from 0 to 1; null when none has one.';
COMMENT ON COLUMN dgm.current_compliance_posture.lowest_score IS 'The lowest one.';
COMMENT ON COLUMN dgm.current_compliance_posture.critical_violations IS 'Assessments of level critical_violation.';
COMMENT ON COLUMN dgm.current_compliance_posture.major_violations IS 'Assessments of level major_violation.';
COMMENT ON COLUMN dgm.current_compliance_posture.minor_violations IS 'Assessments of level minor_violation.';
COMMENT ON COLUMN dgm.current_compliance_posture.warnings IS 'Assessments of level warning.';
COMMENT ON COLUMN dgm.current_compliance_posture.compliant IS 'Assessments of level compliant.';
COMMENT ON COLUMN dgm.current_compliance_posture.exemplary IS 'Assessments of level exemplary.';
COMMENT ON COLUMN dgm.current_compliance_posture.open_reviews IS 'Assessments that a person has still to look at, of objects that exist.';
COMMENT ON COLUMN dgm.current_compliance_posture.newest_assessed_at IS 'When the newest assessment was made.';
COMMENT ON COLUMN dgm.current_compliance_posture.newest_level IS 'Its level.';
COMMENT ON COLUMN dgm.current_compliance_posture.newest_score IS 'Its score.';

CREATE VIEW dgm.current_bandit_performance AS
SELECT p.context_key, p.algorithm_type, p.arm_id, p.total_pulls, p.mean_reward,
    p.arm_id IS NOT DISTINCT FROM p.best_arm_id AS is_best, p.best_arm_id,
    (p.best_mean - p.mean_reward) * p.total_pulls AS regret,
    COALESCE(d.decisions, 0) AS decisions, d.last_decided_at
FROM (
    SELECT a.*, first_value(CASE WHEN a.total_pulls > 0 THEN a.arm_id END) OVER best AS best_arm_id, max(a.mean_reward) OVER (PARTITION BY a.context_key, a.algorithm_type) AS best_mean
    FROM (
        SELECT s.context_key, s.algorithm_type, s.arm_id, s.total_pulls, round(s.total_reward / NULLIF(s.total_pulls, 0), 6) AS mean_reward
        FROM dgm.bandit_states s WHERE s.deleted_at IS NULL
    ) a
    WINDOW best AS (PARTITION BY a.context_key, a.algorithm_type ORDER BY a.mean_reward DESC NULLS LAST, a.arm_id)
) p
LEFT JOIN (
    SELECT b.context_key, b.algorithm_type, b.arm_id, count(*) AS decisions, max(b.decided_at) AS last_decided_at
    FROM dgm.bandit_decisions b GROUP BY 1, 2, 3
) d ON d.context_key = p.context_key AND d.algorithm_type = p.algorithm_type AND d.arm_id = p.arm_id;
COMMENT ON VIEW dgm.current_bandit_performance IS 'How the arms of each context do, those of deleted policies left out.';
COMMENT ON COLUMN dgm.current_bandit_performance.context_key IS 'cluster/namespace/policy/context.';
COMMENT ON COLUMN dgm.current_bandit_performance.algorithm_type IS 'As in bandit_states.';
COMMENT ON COLUMN dgm.current_bandit_performance.arm_id IS 'Name of the arm.';
COMMENT ON COLUMN dgm.current_bandit_performance.total_pulls IS 'Finished pulls.';
COMMENT ON COLUMN dgm.current_bandit_performance.mean_reward IS 'Their mean reward; null when there are none.';
COMMENT ON COLUMN dgm.current_bandit_performance.is_best IS 'Whether it has the highest mean reward of its context; of equal ones the first by name.';
COMMENT ON COLUMN dgm.current_bandit_performance.best_arm_id IS 'The arm that has; null when nothing was pulled.';
COMMENT ON COLUMN dgm.current_bandit_performance.regret IS 'What its pulls would have earned more at the best arm''s mean reward; null when there are none.';
COMMENT ON COLUMN dgm.current_bandit_performance.decisions IS 'Decisions for it in the ledger.';
COMMENT ON COLUMN dgm.current_bandit_performance.last_decided_at IS 'When the last one was made.';

CREATE MATERIALIZED VIEW dgm.mv_improvement_success_daily AS TABLE dgm.current_improvement_success;
CREATE UNIQUE INDEX mv_improvement_success_daily_key ON dgm.mv_improvement_success_daily (day, service_name, improvement_type);
CREATE MATERIALIZED VIEW dgm.mv_compliance_posture AS TABLE dgm.current_compliance_posture;
CREATE UNIQUE INDEX mv_compliance_posture_key ON dgm.mv_compliance_posture (service_name);
CREATE MATERIALIZED VIEW dgm.mv_bandit_performance AS TABLE dgm.current_bandit_performance;
CREATE UNIQUE INDEX mv_bandit_performance_key ON dgm.mv_bandit_performance (context_key, algorithm_type, arm_id);
COMMENT ON MATERIALIZED VIEW dgm.mv_improvement_success_daily IS 'current_improvement_success as refresh_analytics last found it.';
COMMENT ON MATERIALIZED VIEW dgm.mv_compliance_posture IS 'current_compliance_posture as refresh_analytics last found it.';
COMMENT ON MATERIALIZED VIEW dgm.mv_bandit_performance IS 'current_bandit_performance as refresh_analytics last found it.';
-- +goose StatementBegin
DO $$
DECLARE
    described record;
BEGIN
    FOR described IN
        SELECT mv.relname AS relation, a.attname AS name, col_description(v.oid, a.attnum) AS said
        FROM (VALUES ('mv_improvement_success_daily', 'current_improvement_success'), ('mv_compliance_posture', 'current_compliance_posture'),
            ('mv_bandit_performance', 'current_bandit_performance')) AS pair (materialized, source)
        JOIN pg_class mv ON mv.relname = pair.materialized AND mv.relnamespace = 'dgm'::regnamespace
        JOIN pg_class v ON v.relname = pair.source AND v.relnamespace = 'dgm'::regnamespace
        JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN dgm.%I.%I IS %L', described.relation, described.name, described.said);
    END LOOP;
END $$;
-- +goose StatementEnd

CREATE TABLE dgm.analytics_refreshes (
    view_name text PRIMARY KEY,
    refreshed_at timestamptz NOT NULL,
    seconds numeric NOT NULL
);
COMMENT ON TABLE dgm.analytics_refreshes IS 'When the materialized views were last refreshed, which is when they were last found to differ from what they show.';
COMMENT ON COLUMN dgm.analytics_refreshes.view_name IS 'Name of the materialized view.';
COMMENT ON COLUMN dgm.analytics_refreshes.refreshed_at IS 'When it was refreshed.';
COMMENT ON COLUMN dgm.analytics_refreshes.seconds IS 'How long it took, in seconds.';

-- +goose StatementBegin
CREATE FUNCTION dgm.analytics_activity() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE(string_agg(format('%s %s %s %s', t.relname, t.n_tup_ins, t.n_tup_upd, t.n_tup_del), ', ' ORDER BY t.relname), '')
    FROM pg_stat_user_tables t
    WHERE t.schemaname = 'dgm' AND t.relname IN ('dgm_archive', 'improvement_workspaces', 'constitutional_compliance_logs', 'bandit_states', 'bandit_decisions')
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.analytics_activity() IS 'Counters of what was written to the tables beneath the materialized views: while they stay the same, refreshing is no use.';

-- Comparing only reads, and sees every change, whoever made it.
-- +goose StatementBegin
CREATE FUNCTION dgm.refresh_analytics() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $$
DECLARE
    pair record;
    began timestamptz;
    differs boolean;
    refreshed integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('dgm.refresh_analytics', 0)) THEN
        RETURN 0;
    END IF;
    FOR pair IN
        SELECT v.materialized, v.source, c.relispopulated AS populated
        FROM (VALUES ('mv_improvement_success_daily', 'current_improvement_success'), ('mv_compliance_posture', 'current_compliance_posture'),
            ('mv_bandit_performance', 'current_bandit_performance')) AS v (materialized, source)
        JOIN pg_class c ON c.oid = format('dgm.%I', v.materialized)::regclass
    LOOP
        began := clock_timestamp();
        IF NOT pair.populated THEN
            EXECUTE format('REFRESH MATERIALIZED VIEW dgm.%I', pair.materialized);
        ELSE
            EXECUTE format('WITH now_true AS MATERIALIZED (TABLE dgm.%I) SELECT EXISTS ((TABLE now_true EXCEPT TABLE dgm.%I) UNION ALL (TABLE dgm.%I EXCEPT TABLE now_true))',
                pair.source, pair.materialized, pair.materialized) INTO differs;
            CONTINUE WHEN NOT differs;
            EXECUTE format('REFRESH MATERIALIZED VIEW CONCURRENTLY dgm.%I', pair.materialized);
        END IF;
        INSERT INTO dgm.analytics_refreshes (view_name, refreshed_at, seconds)
        VALUES (pair.materialized, began, extract(epoch FROM clock_timestamp() - began))
        ON CONFLICT (view_name) DO UPDATE SET refreshed_at = excluded.refreshed_at, seconds = excluded.seconds;
        refreshed := refreshed + 1;
    END LOOP;
    RETURN refreshed;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.refresh_analytics() IS 'Refreshes the materialized views that differ from what they are to show, without blocking their readers; returns how many. Writes nothing when none does, or another session is at it.';
REVOKE ALL ON FUNCTION dgm.refresh_analytics() FROM PUBLIC;

-- +goose Down
DROP FUNCTION dgm.refresh_analytics();
DROP FUNCTION dgm.analytics_activity();
DROP TABLE dgm.analytics_refreshes;
DROP MATERIALIZED VIEW dgm.mv_bandit_performance;
DROP MATERIALIZED VIEW dgm.mv_compliance_posture;
DROP MATERIALIZED VIEW dgm.mv_improvement_success_daily;
DROP VIEW dgm.current_bandit_performance;
DROP VIEW dgm.current_compliance_posture;
DROP VIEW dgm.current_improvement_success;
ALTER TABLE dgm.bandit_states DROP CONSTRAINT bandit_states_reward_bounded;
ALTER TABLE dgm.constitutional_compliance_logs DROP CONSTRAINT constitutional_compliance_logs_score_exact;
