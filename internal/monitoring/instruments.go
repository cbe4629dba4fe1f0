// SPDX-License-Identifier: Apache-2.0

package monitoring

import "github.com/prometheus/client_golang/prometheus"

// describe makes the description of a metric with these labels.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	databaseUp   = gauge(describe("dgm_database_up", "Whether the leader can write to the database."))
	databaseRead = gauge(describe("dgm_database_read_timestamp_seconds", "When a part of what is monitored was last read.", "part"))

	// Of pg_stat_statements, where it is installed. The operator's own statements have names, those of others an empty one.
	statementCalls   = counter(describe("dgm_database_statement_calls_total", "How often one of the slowest statements ran.", "statement", "query_id"))
	statementSeconds = counter(describe("dgm_database_statement_seconds_total", "Time spent in one of the slowest statements.", "statement", "query_id"))
	statementMean    = gauge(describe("dgm_database_statement_mean_seconds", "Mean time of a run of one of the slowest statements.", "statement", "query_id"))
	statementRows    = counter(describe("dgm_database_statement_rows_total", "Rows returned or changed by one of the slowest statements.", "statement", "query_id"))

	indexScans    = counter(describe("dgm_database_index_scans_total", "How often an index was used.", "table", "index"))
	indexTuples   = counter(describe("dgm_database_index_tuples_read_total", "Entries that an index returned.", "table", "index"))
	indexSize     = gauge(describe("dgm_database_index_size_bytes", "Size of an index.", "table", "index"))
	indexUnused   = gauge(describe("dgm_database_index_unused", "Whether an index that enforces no key was never used since statistics were reset.", "table", "index"))
	indexValid    = gauge(describe("dgm_database_index_valid", "Whether an index can be used: 0 after its concurrent build was interrupted.", "table", "index"))
	indexLastUsed = gauge(describe("dgm_database_index_last_used_timestamp_seconds", "When an index was last used, from PostgreSQL 16 on.", "table", "index"))

	tableSize     = gauge(describe("dgm_database_table_size_bytes", "Size of a table by heap, index and toast; partitions are added up.", "table", "fork"))
	tableRows     = gauge(describe("dgm_database_table_rows", "Estimated rows of a table, live and dead.", "table", "state"))
	tableInserted = counter(describe("dgm_database_table_rows_inserted_total", "Rows inserted into a table since statistics were reset.", "table"))

	partitionsThere      = gauge(describe("dgm_database_partitions", "Partitions of performance_metrics, the default one included."))
	partitionsExpired    = gauge(describe("dgm_database_partitions_expired", "Partitions of performance_metrics that are older than metrics_retention_days."))
	partitionsAhead      = gauge(describe("dgm_database_partition_months_ahead", "Months after this one that have a partition, without a gap; -1 when this one has none."))
	defaultPartitionRows = gauge(describe("dgm_database_default_partition_rows", "Samples of months without a partition, counted to 100000 at most."))
	partitionSize        = gauge(describe("dgm_database_partition_size_bytes", "Size of a partition of performance_metrics with its indexes.", "partition"))
	partitionRows        = gauge(describe("dgm_database_partition_rows", "Estimated rows of a partition of performance_metrics.", "partition"))

	longTransactions   = gauge(describe("dgm_database_long_transactions", "Transactions that have been open for more than five seconds."))
	longestTransaction = gauge(describe("dgm_database_longest_transaction_seconds", "Age of the oldest of them; 0 without one."))
	longestWriting     = gauge(describe("dgm_database_longest_writing_transaction_seconds", "Age of the oldest of them that has written: it delays the aggregation of metrics."))
	snapshotAge        = gauge(describe("dgm_database_oldest_snapshot_age_transactions", "How many transactions ago the rows are from that they keep vacuum from removing."))

	sessionsThere = gauge(describe("dgm_database_sessions", "Sessions of the database."))
	sessionsMost  = gauge(describe("dgm_database_sessions_limit", "Sessions that the server admits."))
	sessionsIn    = gauge(describe("dgm_database_sessions_by_state", "Sessions of the database by state; those that the operator may not see are hidden.", "state"))

	snapshotsByKey        = gauge(describe("dgm_database_rollback_snapshots", "Stored rollback bytes by the key that encrypts them.", "key_id"))
	unmatchedImprovements = gauge(describe("dgm_database_unmatched_improvements", "Improvements that metrics name and the archive does not know, to 1000 at most."))
	unmatchedSamples      = gauge(describe("dgm_database_unmatched_samples", "Samples that name one of them."))

	aggregationLag          = gauge(describe("dgm_aggregation_lag_seconds", "For how long the oldest sample that is in no aggregate yet has been there; 0 when there is none."))
	aggregationHeldBack     = gauge(describe("dgm_aggregation_held_back", "Whether that sample waits for the end of a long transaction."))
	aggregationSlices       = gauge(describe("dgm_aggregation_slices", "Slices of an hour whose aggregates are to be computed, and those whose samples PostgreSQL refused to aggregate.", "state"))
	aggregationNotFolded    = gauge(describe("dgm_aggregation_samples_not_folded", "Samples that came after their month was dropped, or of no usable time: they are in no aggregate."))
	aggregationPasses       = counter(describe("dgm_aggregation_passes_total", "Aggregation passes that wrote."))
	aggregationPassAt       = gauge(describe("dgm_aggregation_last_pass_timestamp_seconds", "When the last of them began."))
	aggregationPassDuration = gauge(describe("dgm_aggregation_last_pass_duration_seconds", "How long it took."))

	schemaJudged = gauge(describe("dgm_database_schema_judged", "Whether the live schema was compared: 0 while migrations are pending, or when it is newer than this operator."))
	schemaDrift  = gauge(describe("dgm_database_schema_drift_objects", "Objects of the live schema that are missing or not as the migrations made them."))
	schemaExtra  = gauge(describe("dgm_database_schema_extra_objects", "Objects of the live schema that no migration made."))

	replicaConfigured = gauge(describe("dgm_database_replica_configured", "Whether the analytics have the address of a read replica."))
	replicaUsed       = gauge(describe("dgm_database_replica_in_use", "Whether the last question of the analytics was answered by the read replica."))
	replicaLag        = gauge(describe("dgm_database_replica_lag_seconds", "How far the read replica was behind then."))

	// Of the last 90 days, as of the last refresh of the materialized views.
	recentImprovements    = gauge(describe("dgm_improvements_recent", "Attempts that began in the last 90 days by what became of them.", "service", "type", "outcome"))
	successRatio          = gauge(describe("dgm_improvement_success_ratio", "Part of the attempts of the last 90 days that ended which were completed.", "service", "type"))
	complianceScore       = gauge(describe("dgm_compliance_score", "Constitutional compliance score of a service: newest, mean and lowest.", "service", "statistic"))
	complianceAssessments = gauge(describe("dgm_compliance_assessments", "Assessments of a service by level.", "service", "level"))
	complianceReviews     = gauge(describe("dgm_compliance_open_reviews", "Assessments of a service that wait for a review.", "service"))
	armPulls              = gauge(describe("dgm_bandit_arm_pulls", "Pulls of an arm.", "context", "algorithm", "arm"))
	armReward             = gauge(describe("dgm_bandit_arm_mean_reward", "Mean reward of an arm, from 0 to 1.", "context", "algorithm", "arm"))
	armRegret             = gauge(describe("dgm_bandit_arm_regret", "Reward that the pulls of an arm would have earned more at the best arm's mean.", "context", "algorithm", "arm"))
	armBest               = gauge(describe("dgm_bandit_arm_best", "Whether an arm has the best mean reward of its context.", "context", "algorithm", "arm"))

	settingAttempts           = gauge(describe("dgm_settings_improvement_attempts_limit", "max_improvement_attempts in force."))
	settingConcurrent         = gauge(describe("dgm_settings_concurrent_improvements_limit", "max_concurrent_improvements in force."))
	settingTimeout            = gauge(describe("dgm_settings_improvement_timeout_seconds", "improvement_timeout_minutes in force."))
	settingRollbackRetention  = gauge(describe("dgm_settings_rollback_retention_seconds", "rollback_retention_days in force."))
	settingAggregation        = gauge(describe("dgm_settings_metrics_aggregation_enabled", "metrics_aggregation_enabled in force."))
	settingMetricsRetention   = gauge(describe("dgm_settings_metrics_retention_seconds", "metrics_retention_days in force."))
	settingCleanup            = gauge(describe("dgm_settings_workspace_cleanup_enabled", "workspace_cleanup_enabled in force."))
	settingWorkspaceRetention = gauge(describe("dgm_settings_workspace_retention_seconds", "workspace_retention_hours in force."))
	settingFreeze             = gauge(describe("dgm_settings_freeze", "freeze in force."))
)
