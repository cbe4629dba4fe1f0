-- name: MetricsAggregationDue :one
SELECT dgm.metrics_aggregation_due()::boolean AS due;

-- name: AggregateMetrics :one
SELECT a.busy::boolean AS busy, a.hours::integer AS hours, a.samples::bigint AS samples, a.pending_hours::bigint AS pending_hours
FROM dgm.aggregate_metrics(@max_hours::integer) a;
