-- name: AnalyticsActivity :one
SELECT dgm.analytics_activity()::text AS activity;

-- name: RefreshAnalytics :one
SELECT dgm.refresh_analytics()::integer AS refreshed;

-- name: SuccessByServiceAndType :many
SELECT m.service_name::text AS service_name, m.improvement_type::text AS improvement_type, m.day::date AS day, m.attempts::bigint AS attempts,
    m.completed::bigint AS completed, m.failed::bigint AS failed, m.rolled_back::bigint AS rolled_back,
    (m.success_rate IS NOT NULL)::boolean AS any_ended, COALESCE(m.success_rate, 0)::double precision AS success_rate,
    COALESCE(m.mean_duration_seconds, 0)::double precision AS mean_duration_seconds
FROM dgm.mv_improvement_success_daily m
WHERE m.day > (now() AT TIME ZONE 'UTC')::date - 90
ORDER BY m.day DESC, m.service_name, m.improvement_type;

-- name: CompliancePosture :many
SELECT m.service_name::text AS service_name, m.assessments::bigint AS assessments, (m.mean_score IS NOT NULL)::boolean AS any_score,
    COALESCE(m.mean_score, 0)::double precision AS mean_score, COALESCE(m.lowest_score, 0)::double precision AS lowest_score,
    m.critical_violations::bigint AS critical_violations, m.major_violations::bigint AS major_violations, m.minor_violations::bigint AS minor_violations,
    m.warnings::bigint AS warnings, m.compliant::bigint AS compliant, m.exemplary::bigint AS exemplary, m.open_reviews::bigint AS open_reviews,
    m.newest_assessed_at::timestamptz AS newest_assessed_at, COALESCE(m.newest_level, '')::text AS newest_level, (m.newest_score IS NOT NULL)::boolean AS newest_scored, COALESCE(m.newest_score, 0)::double precision AS newest_score
FROM dgm.mv_compliance_posture m
ORDER BY m.service_name;

-- name: BanditPerformance :many
SELECT m.context_key::text AS context_key, m.algorithm_type::text AS algorithm_type, m.arm_id::text AS arm_id, m.total_pulls::bigint AS total_pulls,
    COALESCE(m.mean_reward, 0)::double precision AS mean_reward, COALESCE(m.best_arm_id, '')::text AS best_arm_id, m.is_best::boolean AS is_best,
    COALESCE(m.regret, 0)::double precision AS regret, m.decisions::bigint AS decisions, m.last_decided_at::timestamptz AS last_decided_at
FROM dgm.mv_bandit_performance m
ORDER BY m.context_key, m.algorithm_type, m.arm_id;
