-- The newest samples of a service between two times. What the operator itself has
-- recorded for an improvement is left out: it would come back as its own evidence.
-- A value that no double can hold is NaN.
-- name: ServiceSamples :many
SELECT m."timestamp" AS measured_at,
    CAST(CASE WHEN m.value = 0 OR abs(m.value) BETWEEN '1e-307'::numeric AND '1e308'::numeric THEN CAST(m.value AS double precision) ELSE 'NaN' END AS double precision) AS value
FROM dgm.performance_metrics m
WHERE m.service_name = @service_name::text AND m.metric_type = @metric_type::text AND m.metric_name = @metric_name::text
    AND m."timestamp" >= @window_start::timestamptz AND m."timestamp" <= @window_end::timestamptz
    AND m.metric_scope <> 'improvement' AND m.deleted_at IS NULL
    AND (@tags::text = '' OR m.tags @> NULLIF(@tags::text, '')::jsonb)
ORDER BY m."timestamp" DESC
LIMIT @most::integer;

-- What the operator has recorded for an improvement: rows that others insert bear no
-- writer_epoch.
-- name: ImprovementSamples :many
SELECT m.metric_name, m."timestamp" AS measured_at, CAST(m.value AS double precision) AS value
FROM dgm.performance_metrics m
WHERE m.writer_epoch IS NOT NULL AND m.deleted_at IS NULL AND m.improvement_id = @improvement_id::uuid AND m.metric_scope = 'improvement' AND m.tags @> CAST(@tags::text AS jsonb)
ORDER BY m.metric_name, m."timestamp"
LIMIT @most::integer;

-- name: TestResults :one
SELECT COALESCE(w.test_results, 'null')::text AS test_results FROM dgm.improvement_workspaces w WHERE w.improvement_id = @improvement_id;
