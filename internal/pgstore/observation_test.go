// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/test/pgtest"
)

func TestServiceSamplesAreThoseOfTheWindow(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	service := openDatabase(t, pgtest.ServiceURL(url))
	noon := time.Now().UTC().Truncate(time.Hour)
	insert := func(name, scope, value, tags string, at time.Time) {
		service.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, tags, "timestamp")
			VALUES ($1, 'latency', $2, $3::numeric, 'checkout', $4::jsonb, $5)`, name, scope, value, tags, at)
	}
	insert("p99", "service", "1.5", `{"path": "/", "zone": "a"}`, noon)
	insert("p99", "system", "2.5", `{"path": "/"}`, noon.Add(time.Minute))
	insert("p99", "service", "3.5", `{"path": "/other"}`, noon.Add(30*time.Second))
	insert("p99", "service", "1e-300", `{"path": "/"}`, noon.Add(40*time.Second))
	insert("p99", "improvement", "9", `{"path": "/"}`, noon.Add(time.Second)) // what the operator has recorded itself
	insert("p99", "service", "9", `{"path": "/"}`, noon.Add(-time.Microsecond))
	insert("p99", "service", "9", `{"path": "/"}`, noon.Add(time.Minute+time.Microsecond))
	insert("p50", "service", "9", `{"path": "/"}`, noon)
	ask := func(series SampleSeries) []float64 {
		t.Helper()
		points, err := s.ServiceSamples(testContext(t), series, noon, noon.Add(time.Minute))
		must(t, err)
		values := make([]float64, len(points))
		for i, point := range points {
			values[i] = point.Value
			if i > 0 && point.At.After(points[i-1].At) {
				t.Errorf("the newest does not come first: %v", points)
			}
		}
		return values
	}
	all := SampleSeries{Service: "checkout", Type: "latency", Name: "p99"}
	if got := ask(all); len(got) != 4 || got[0] != 2.5 || got[1] != 1e-300 || got[3] != 1.5 {
		t.Errorf("all: %v", got)
	}
	all.Tags = map[string]string{"path": "/"}
	if got := ask(all); len(got) != 3 {
		t.Errorf("those with a tag: %v", got)
	}
	for _, got := range ask(all) {
		if math.IsNaN(got) {
			t.Error("a value that a double holds is NaN")
		}
	}
	all.Tags = map[string]string{"path": "\x00"}
	if got := ask(all); len(got) != 0 {
		t.Errorf("those with a tag that is no text for PostgreSQL: %v", got)
	}
}

func TestServiceSamplesAreBoundedAndReadThroughTheIndex(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	db.exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, "timestamp")
		SELECT 'p99', 'latency', 'service', i, 'service-' || i % 3, date_trunc('hour', now()) + i * interval '1 millisecond' FROM generate_series(1, 36000) AS i`)
	db.exec("ANALYZE dgm.performance_metrics")
	start := time.Now().UTC().Truncate(time.Hour)
	points, err := s.ServiceSamples(testContext(t), SampleSeries{Service: "service-0", Type: "latency", Name: "p99"}, start, start.Add(time.Hour))
	must(t, err)
	if len(points) != maxWindowSamples || points[0].Value != 36000 {
		t.Errorf("%d samples, of which the newest is %v", len(points), points[0].Value)
	}
	rows, err := db.conn.Query(testContext(t), `EXPLAIN SELECT m.value FROM dgm.performance_metrics m
		WHERE m.service_name = 'service-0' AND m.metric_type = 'latency' AND m.metric_name = 'p99' AND m."timestamp" >= now() - interval '1 second' AND m."timestamp" <= now()
		AND m.metric_scope <> 'improvement' ORDER BY m."timestamp" DESC LIMIT 10000`)
	must(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	plan := strings.Join(lines, "\n")
	if !strings.Contains(plan, "Index Cond") || !strings.Contains(plan, "service_name") {
		t.Errorf("not through the index:\n%s", plan)
	}
}

func TestImprovementSamplesAreWhatWasRecorded(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	id := uuid.NullUUID{UUID: uuid.New(), Valid: true}
	recorded := func(name, side string, values ...string) []Sample {
		var out []Sample
		for i, value := range values {
			out = append(out, Sample{
				ID: uuid.NewSHA1(id.UUID, []byte(name+side+value)), Name: name, Type: "latency", Scope: "improvement", Value: value, ImprovementID: id,
				Tags: json.RawMessage(`{"side":"` + side + `"}`), Timestamp: time.Now().UTC().Truncate(time.Second).Add(time.Duration(i) * time.Second),
			})
		}
		return out
	}
	samples := append(recorded("p99", "baseline", "1", "2"), append(recorded("p50", "baseline", "3"), recorded("p99", "candidate", "4")...)...)
	must(t, s.RecordMetrics(testContext(t), samples))
	must(t, s.RecordMetrics(testContext(t), samples[1:])) // again, in another cut: none is doubled
	// What a service says of it is no sample of it.
	openDatabase(t, pgtest.ServiceURL(url)).exec(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, service_name, improvement_id, tags, "timestamp")
		VALUES ('p99', 'latency', 'improvement', 900, 'checkout', $1, '{"side": "baseline"}', now())`, id.UUID)
	got, err := s.ImprovementSamples(testContext(t), id.UUID, json.RawMessage(`{"side":"baseline"}`))
	must(t, err)
	if len(got) != 2 || len(got["p99"]) != 2 || got["p99"][1].Value != 2 || len(got["p50"]) != 1 {
		t.Errorf("%v", got)
	}
}

func TestTestResults(t *testing.T) {
	t.Parallel()
	s := startReady(t, testConfig(migratedDatabase(t)))
	i := improvement(1)
	want := func(want string) {
		t.Helper()
		got, err := s.TestResults(testContext(t), i.ImprovementID)
		if must(t, err); string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	want("null")
	must(t, s.MirrorImprovement(testContext(t), i))
	want("null")
	i.TestResults = json.RawMessage(`{"tests": {"smoke": {"outcome": "Passed"}}}`)
	must(t, s.MirrorImprovement(testContext(t), i))
	want(`{"tests": {"smoke": {"outcome": "Passed"}}}`)
}

func TestSamplesOfAnOutageAreUnavailable(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := startReady(t, testConfig(server.Database(t)))
	server.Stop(t)
	if _, err := s.ServiceSamples(testContext(t), SampleSeries{Service: "a", Type: "latency", Name: "b"}, time.Now(), time.Now()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}
