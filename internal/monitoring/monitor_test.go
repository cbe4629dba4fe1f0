// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// exporter is a leader with its monitor, and what a scrape of it shows.
type exporter struct {
	*testing.T
	url      string
	store    *pgstore.Store
	monitor  *Monitor
	registry *prometheus.Registry
}

func newExporter(t *testing.T, url string) *exporter {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := &exporter{T: t, url: url, registry: prometheus.NewRegistry(), store: pgstore.New(pgstore.Config{
		URL: func() (string, error) { return url, nil }, ClusterName: "test", ClusterUID: "uid", Holder: "replica-0",
	})}
	var err error
	if e.monitor, err = New(e.store, e.registry, logr.Discard()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{}, 2)
	go func() { _ = e.store.Lead(ctx); ended <- struct{}{} }()
	go func() { _ = e.monitor.Start(ctx); ended <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
	})
	return e
}

// scrape returns the values by series, as name{label=value,…}.
func (e *exporter) scrape() map[string]float64 {
	e.Helper()
	families, err := e.registry.Gather()
	if err != nil {
		e.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			values[family.GetName()+labels(metric)] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
		}
	}
	return values
}

func labels(metric *dto.Metric) string {
	var out []string
	for _, label := range metric.Label {
		out = append(out, label.GetName()+"="+label.GetValue())
	}
	if len(out) == 0 {
		return ""
	}
	return "{" + strings.Join(out, ",") + "}"
}

// reaches waits until a scrape satisfies a check.
func (e *exporter) reaches(what string, check func(map[string]float64) bool) map[string]float64 {
	e.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		values := e.scrape()
		if check(values) {
			return values
		}
		if time.Now().After(deadline) {
			e.Fatalf("waited in vain until %s:\n%v", what, values)
		}
	}
}

func (e *exporter) connect() *pgx.Conn {
	e.Helper()
	conn, err := pgx.Connect(context.Background(), e.url)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (e *exporter) exec(conn *pgx.Conn, sql string) {
	e.Helper()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		e.Fatalf("%s: %v", sql, err)
	}
}

func (e *exporter) readNow(name string) {
	e.Helper()
	for _, p := range parts() {
		if p.name == name && !e.monitor.readPart(context.Background(), p) {
			e.Fatalf("%s cannot be read", name)
		}
	}
}

func TestExportsWhatTheDatabaseSays(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "shared_preload_libraries=pg_stat_statements")
	e := newExporter(t, server.Database(t))
	e.reaches("every part was read", func(v map[string]float64) bool { return everyPart(v) == nil })
	conn := e.connect()
	e.exec(conn, "CREATE EXTENSION pg_stat_statements")
	e.exec(conn, "CREATE INDEX useless ON dgm.dgm_archive (outcome_reason)")
	e.exec(conn, `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, improvement_id, "timestamp")
		SELECT 'm', 'latency', 'service', i, '00000000-0000-0000-0000-000000000001', '1999-01-01' FROM generate_series(1, 7) i`)
	for range 3 {
		e.exec(conn, "SELECT count(*) FROM dgm.bandit_states, generate_series(1, 300000)") // long enough to be among the first
	}
	e.exec(conn, "SELECT pg_stat_force_next_flush()")
	open := e.connect()
	e.exec(open, "BEGIN; SELECT pg_current_xact_id()")
	time.Sleep(5100 * time.Millisecond)
	for _, p := range parts() {
		e.readNow(p.name)
	}
	values := e.scrape()
	for series, want := range map[string]float64{
		"dgm_database_up": 1,
		"dgm_database_index_unused{index=useless,table=dgm_archive}":          1,
		"dgm_database_index_unused{index=dgm_archive_pkey,table=dgm_archive}": 0,
		"dgm_database_index_valid{index=useless,table=dgm_archive}":           1,
		"dgm_database_default_partition_rows":                                 7,
		"dgm_database_partition_rows{partition=performance_metrics_default}":  7,
		"dgm_database_partition_months_ahead":                                 6,
		"dgm_database_long_transactions":                                      1,
		"dgm_database_unmatched_improvements":                                 1,
		"dgm_database_unmatched_samples":                                      7,
		"dgm_database_table_rows{state=live,table=performance_metrics}":       11, // with those of a new installation
		"dgm_database_table_rows_inserted_total{table=performance_metrics}":   11,
		"dgm_settings_improvement_timeout_seconds":                            1800,
		"dgm_database_sessions_by_state{state=hidden}":                        0,
	} {
		if got, found := values[series]; !found || got != want {
			t.Errorf("%s = %v (found: %t), want %v", series, got, found, want)
		}
	}
	for _, series := range []string{"dgm_database_longest_transaction_seconds", "dgm_database_longest_writing_transaction_seconds"} {
		if values[series] < 5 {
			t.Errorf("%s = %v, want more than 5", series, values[series])
		}
	}
	if calls := named(values, "dgm_database_statement_calls_total", "statement=}"); len(calls) == 0 || slices.Max(calls) < 3 {
		t.Errorf("calls of others' statements = %v, want one with 3", calls)
	}
	if sizes := named(values, "dgm_database_partition_size_bytes", ""); len(sizes) < 8 {
		t.Errorf("%d partitions have a size, want 8 at least", len(sizes))
	}
	if problems, err := testutil.GatherAndLint(e.registry); err != nil || len(problems) > 0 {
		t.Errorf("names and units: %v %v", problems, err)
	}
}

func TestExportsTheAnalyticsAndTheAggregation(t *testing.T) {
	t.Parallel()
	e := newExporter(t, pgtest.Start(t).Database(t)) // its long transaction would hold up other tests
	e.reaches("every part was read", func(v map[string]float64) bool { return everyPart(v) == nil })
	conn := e.connect()
	for n, status := range []string{"completed", "completed", "completed", "rolled_back", "failed", "running"} {
		e.exec(conn, fmt.Sprintf(`WITH a AS (INSERT INTO dgm.dgm_archive (improvement_id, description, status, constitutional_compliance_score, cluster, namespace, name)
				VALUES ('00000000-0000-0000-0000-00000000000%d', 'd', '%s', 0.9, 'other', 'shop', 'n') RETURNING improvement_id)
			INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, target_service, improvement_type, completed_at, cluster, namespace)
			SELECT improvement_id, 'n', 'completed', 'checkout', 'ConfigurationUpdate', now(), 'other', 'shop' FROM a`, n, status))
	}
	e.exec(conn, `INSERT INTO dgm.constitutional_compliance_logs (service_name, operation_type, compliance_level, compliance_score, status, assessment_method, review_required, assessed_at)
		VALUES ('checkout', 'o', 'compliant', 0.9, 'completed', 'automated', false, now() - interval '1 hour'), ('checkout', 'o', 'warning', 0.7, 'requires_review', 'automated', true, now())`)
	e.exec(conn, `INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, total_pulls, total_reward, average_reward, cluster, namespace, name)
		VALUES ('ucb1', 'c/shop/p/default', 'keep', 10, 5, 0.5, 'other', 'shop', 'p'), ('ucb1', 'c/shop/p/default', 'cache', 4, 3, 0.75, 'other', 'shop', 'p')`)
	e.exec(conn, "SELECT dgm.refresh_analytics()")
	const sample = `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name) VALUES ('m', 'latency', 'service', 1, 'checkout')`
	const pass = "SELECT dgm.aggregate_metrics(1000)"
	e.exec(conn, sample)
	e.exec(conn, pass)
	// What is newer than a transaction that goes on must wait.
	open := e.connect()
	e.exec(open, "BEGIN; SELECT pg_current_xact_id()")
	e.exec(conn, sample)
	e.exec(conn, pass)
	time.Sleep(2 * time.Second)
	for _, p := range parts() {
		e.readNow(p.name)
	}
	values := e.scrape()
	for series, want := range map[string]float64{
		"dgm_improvements_recent{outcome=completed,service=checkout,type=ConfigurationUpdate}":   3,
		"dgm_improvements_recent{outcome=rolled_back,service=checkout,type=ConfigurationUpdate}": 1,
		"dgm_improvements_recent{outcome=failed,service=checkout,type=ConfigurationUpdate}":      1,
		"dgm_improvements_recent{outcome=open,service=checkout,type=ConfigurationUpdate}":        1,
		"dgm_improvement_success_ratio{service=checkout,type=ConfigurationUpdate}":               0.6,
		"dgm_compliance_score{service=checkout,statistic=newest}":                                0.7,
		"dgm_compliance_score{service=checkout,statistic=mean}":                                  0.8,
		"dgm_compliance_assessments{level=warning,service=checkout}":                             1,
		"dgm_compliance_open_reviews{service=checkout}":                                          1,
		"dgm_bandit_arm_best{algorithm=ucb1,arm=cache,context=c/shop/p/default}":                 1,
		"dgm_bandit_arm_best{algorithm=ucb1,arm=keep,context=c/shop/p/default}":                  0,
		"dgm_bandit_arm_mean_reward{algorithm=ucb1,arm=cache,context=c/shop/p/default}":          0.75,
		"dgm_bandit_arm_regret{algorithm=ucb1,arm=keep,context=c/shop/p/default}":                2.5,
		"dgm_aggregation_held_back":         1,
		"dgm_database_replica_configured":   0,
		"dgm_database_schema_judged":        1,
		"dgm_database_schema_drift_objects": 0,
	} {
		if got, found := values[series]; !found || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s = %v (found: %t), want %v", series, got, found, want)
		}
	}
	if lag := values["dgm_aggregation_lag_seconds"]; lag < 2 || lag > 60 {
		t.Errorf("dgm_aggregation_lag_seconds = %v, want some seconds", lag)
	}
	if values["dgm_aggregation_passes_total"] < 1 || values["dgm_aggregation_last_pass_timestamp_seconds"] < float64(time.Now().Add(-time.Hour).Unix()) {
		t.Errorf("aggregation passes = %v, the last at %v", values["dgm_aggregation_passes_total"], values["dgm_aggregation_last_pass_timestamp_seconds"])
	}
	e.exec(open, "ROLLBACK")
	e.exec(conn, pass)
	e.readNow("aggregation")
	if values := e.scrape(); values["dgm_aggregation_lag_seconds"] != 0 || values["dgm_aggregation_held_back"] != 0 {
		t.Errorf("the lag is %v after the transaction has ended", values["dgm_aggregation_lag_seconds"])
	}
	if problems, err := testutil.GatherAndLint(e.registry); err != nil || len(problems) > 0 {
		t.Errorf("names and units: %v %v", problems, err)
	}
}

func everyPart(values map[string]float64) error {
	for _, p := range parts() {
		if _, found := values["dgm_database_read_timestamp_seconds{part="+p.name+"}"]; !found {
			return errors.New(p.name + " was not read")
		}
	}
	return nil
}

// named returns the values of a metric's series that contain a label.
func named(values map[string]float64, name, label string) []float64 {
	var out []float64
	for series, value := range values {
		if strings.HasPrefix(series, name+"{") && strings.Contains(series, label) {
			out = append(out, value)
		}
	}
	return out
}

// A database that is away shows at once; what it said before is not shown as new.
func TestDatabaseAwayGoesStale(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	e := newExporter(t, server.Database(t))
	e.reaches("every part was read", func(v map[string]float64) bool { return everyPart(v) == nil })
	server.Stop(t)
	e.reaches("nothing but up = 0 shows", func(v map[string]float64) bool {
		up, found := v["dgm_database_up"]
		_, stale := v["dgm_database_partitions"]
		return found && up == 0 && !stale
	})
	server.Start(t)
	e.reaches("everything is back", func(v map[string]float64) bool { return v["dgm_database_up"] == 1 && everyPart(v) == nil })
}

// A part that cannot be read is missing and counted; the others show.
func TestOnePartFailsAlone(t *testing.T) {
	t.Parallel()
	e := newExporter(t, pgtest.Shared(t).Database(t))
	e.reaches("every part was read", func(v map[string]float64) bool { return everyPart(v) == nil })
	conn := e.connect()
	e.exec(conn, "DROP VIEW dgm.v_storage")
	for _, p := range parts() {
		if ok := e.monitor.readPart(context.Background(), p); ok != (p.name != "storage") {
			t.Errorf("%s was read: %t", p.name, ok)
		}
	}
	values := e.scrape()
	if values["dgm_database_read_failures_total{part=storage}"] != 1 || values["dgm_database_up"] != 1 || values["dgm_database_partitions"] < 8 {
		t.Errorf("values = %v", values)
	}
	if left := named(values, "dgm_database_table_size_bytes", ""); len(left) > 0 {
		t.Errorf("what cannot be read any more still shows: %v", left)
	}
}

func TestWhoDoesNotLeadShowsNothing(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	store := pgstore.New(pgstore.Config{URL: func() (string, error) { return "", errors.New("none") }})
	if _, err := New(store, registry, logr.Discard()); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) > 0 {
		t.Errorf("a scrape shows %v, %v", families, err)
	}
}

// Labels come from tables that others write to: none may break a scrape.
func TestAnyLabelCanBeScraped(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ö", 1<<20)
	var s series
	for _, label := range []string{long + "1", long + "2", "\xff\xfe", "a\x00b", "", "\u202e", `"} 1`} {
		s.set(indexSize, 1, label, label)
	}
	if len(s.metrics) != 6 {
		t.Errorf("%d series, want 6: two names are the same once shortened", len(s.metrics))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(fixed(s.metrics))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range families[0].Metric {
		for _, label := range metric.Label {
			if len(label.GetValue()) > maxLabel {
				t.Errorf("a label has %d bytes", len(label.GetValue()))
			}
		}
	}
}

type fixed []prometheus.Metric

func (f fixed) Describe(chan<- *prometheus.Desc) {}

func (f fixed) Collect(out chan<- prometheus.Metric) {
	for _, metric := range f {
		out <- metric
	}
}

func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	e := newExporter(t, pgtest.Shared(t).Database(t))
	e.reaches("every part was read", func(v map[string]float64) bool { return everyPart(v) == nil })
	conn := e.connect()
	for i := range 200 {
		e.exec(conn, fmt.Sprintf("CREATE TABLE dgm.extra_%d (id int PRIMARY KEY)", i))
	}
	e.readNow("indexes")
	e.readNow("storage")
	values := e.scrape()
	if n := len(named(values, "dgm_database_index_size_bytes", "")); n != mostIndexes {
		t.Errorf("%d indexes show, want %d", n, mostIndexes)
	}
	if n := len(named(values, "dgm_database_table_size_bytes", "fork=heap")); n != mostTables {
		t.Errorf("%d tables show, want %d", n, mostTables)
	}
}
