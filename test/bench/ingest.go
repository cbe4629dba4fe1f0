// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// measureIngest compares samples recorded through the store with a bare COPY of
// the same samples into the same table.
func measureIngest(h *harness, o options) ([]result, error) {
	url := h.database()
	store, stop, err := h.lead(url)
	if err != nil {
		return nil, err
	}
	defer stop()
	conn, err := pgx.Connect(h.ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var ratios, bareRates, storeRates []float64
	for round := range o.rounds {
		bare := func() (time.Duration, error) { return bareCopy(h.ctx, conn, ingestSamples(o.samples)) }
		stored := func() (time.Duration, error) { return storeCopy(h.ctx, store, ingestSamples(o.samples)) }
		times := [2]time.Duration{}
		// Who comes second finds larger indexes, and the log of the first.
		for turn := range 4 {
			which := (round + turn + turn/2) % 2
			if _, err := conn.Exec(h.ctx, "CHECKPOINT"); err != nil {
				return nil, err
			}
			took, err := [2]func() (time.Duration, error){bare, stored}[which]()
			if err != nil {
				return nil, err
			}
			times[which] += took
		}
		ratios = append(ratios, times[0].Seconds()/times[1].Seconds())
		bareRates = append(bareRates, 2*float64(o.samples)/times[0].Seconds())
		storeRates = append(storeRates, 2*float64(o.samples)/times[1].Seconds())
		h.progress("ingest, round %d: %.2f of a bare COPY", round+1, ratios[round])
	}
	want := fmt.Sprint(4 * o.rounds * o.samples)
	if got := h.query(url, "SELECT count(*)::text FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'"); got != want {
		return nil, fmt.Errorf("performance_metrics has %s samples, want %s", got, want)
	}
	limit := 0.7
	return []result{{
		name: "ingest: samples/s against a bare COPY", value: median(ratios), atLeast: &limit,
		detail: fmt.Sprintf("%s; bare %s/s, store %s/s, %d samples a turn, 4 turns a round", spread(ratios, "%.2f"), spread(bareRates, "%.0f"), spread(storeRates, "%.0f"), o.samples),
	}}, nil
}

// ingestSamples are new ones of the last hour, of 50 services.
func ingestSamples(count int) []pgstore.Sample {
	out := make([]pgstore.Sample, count)
	began := time.Now().UTC().Add(-time.Hour)
	for i := range out {
		out[i] = pgstore.Sample{
			ID: uuid.Must(uuid.NewV7()), Name: "http_request_duration", Type: pgstore.MetricTypes[i%3], Scope: "service",
			Value: fmt.Sprintf("%d.%03d", i%1000, i%997), Unit: "ms", Service: fmt.Sprintf("service-%02d", i%50),
			ImprovementID: uuid.NullUUID{UUID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i%1000)), Valid: true},
			Tags:          json.RawMessage(fmt.Sprintf(`{"route":"/products","pod":"checkout-%d"}`, i%20)),
			Timestamp:     began.Add(time.Duration(i) * time.Hour / time.Duration(count)),
		}
	}
	return out
}

func storeCopy(ctx context.Context, store *pgstore.Store, samples []pgstore.Sample) (time.Duration, error) {
	began := time.Now()
	err := store.RecordMetrics(ctx, samples)
	return time.Since(began), err
}

var copyColumns = []string{
	"id", "metric_name", "metric_type", "metric_scope", "value", "unit", "service_name", "improvement_id", "experiment_id",
	"tags", "dimensions", "metadata", "constitutional_compliance_score", "timestamp", "cluster", "namespace", "name", "uid",
	"generation", "writer_epoch", "constitutional_hash",
}

// bareCopy is one COPY in one transaction. Its rows are made before the clock
// starts, in the types that PostgreSQL has.
func bareCopy(ctx context.Context, conn *pgx.Conn, samples []pgstore.Sample) (time.Duration, error) {
	rows := make([][]any, len(samples))
	for i, s := range samples {
		var value pgtype.Numeric
		if err := value.Scan(s.Value); err != nil {
			return 0, err
		}
		rows[i] = []any{s.ID, s.Name, s.Type, s.Scope, value, s.Unit, s.Service, s.ImprovementID, nil, []byte(s.Tags), nil, nil, nil, s.Timestamp,
			clusterName, nil, nil, nil, nil, int64(1), constitutionalHash}
	}
	began := time.Now()
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"dgm", "performance_metrics"}, copyColumns, pgx.CopyFromRows(rows))
	return time.Since(began), err
}
