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
	"golang.org/x/sync/errgroup"

	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// measureIngest compares samples recorded through the store with a bare COPY of
// the same samples into the same table, by the same role, and, since the store
// writes over two connections, with two bare COPYs at once.
func measureIngest(h *harness, o options) ([]result, error) {
	url := h.database()
	store, stop, err := h.lead(url)
	if err != nil {
		return nil, err
	}
	defer stop()
	admin, err := pgx.Connect(h.ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close(context.Background()) }()
	conn, err := pgx.Connect(h.ctx, pgtest.ServiceURL(url))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	second, err := pgx.Connect(h.ctx, pgtest.ServiceURL(url))
	if err != nil {
		return nil, err
	}
	defer func() { _ = second.Close(context.Background()) }()
	contestants := []func([]pgstore.Sample) (time.Duration, error){
		func(samples []pgstore.Sample) (time.Duration, error) { return storeCopy(h.ctx, store, samples) },
		func(samples []pgstore.Sample) (time.Duration, error) { return bareCopy(h.ctx, samples, conn) },
		func(samples []pgstore.Sample) (time.Duration, error) { return bareCopy(h.ctx, samples, conn, second) },
	}
	n := len(contestants)
	turns := make([][]float64, n) // samples per second
	var ratios, twoRatios []float64
	for round := range o.rounds {
		took := make([]time.Duration, n)
		// Who comes second finds larger indexes, and the log of the first.
		for turn := range 2 * n {
			who := (round + turn + turn/n) % n
			if _, err := admin.Exec(h.ctx, "CHECKPOINT"); err != nil {
				return nil, err
			}
			t, err := contestants[who](ingestSamples(o.samples))
			if err != nil {
				return nil, err
			}
			took[who] += t
		}
		for who, t := range took {
			turns[who] = append(turns[who], 2*float64(o.samples)/t.Seconds())
		}
		ratios, twoRatios = append(ratios, turns[0][round]/turns[1][round]), append(twoRatios, turns[0][round]/turns[2][round])
		h.progress("ingest, round %d: %.2f of a bare COPY, %.2f of two at once", round+1, ratios[round], twoRatios[round])
	}
	want := fmt.Sprint(2 * n * o.rounds * o.samples)
	if got := h.query(url, "SELECT count(*)::text FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'"); got != want {
		return nil, fmt.Errorf("performance_metrics has %s samples, want %s", got, want)
	}
	limit := 0.7
	return []result{{
		name: "ingest: samples/s against a bare COPY", value: median(ratios), atLeast: &limit,
		detail: fmt.Sprintf("%s; bare %s/s, store %s/s, %d samples a turn", spread(ratios, "%.2f"), spread(turns[1], "%.0f"), spread(turns[0], "%.0f"), o.samples),
	}, {
		name: "ingest: samples/s against two bare COPYs at once", value: median(twoRatios),
		detail: fmt.Sprintf("%s; bare %s/s", spread(twoRatios, "%.2f"), spread(turns[2], "%.0f")),
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

// bareCopy is one COPY in one transaction for each connection, at once. The rows
// are made before the clock starts, in the types that PostgreSQL has.
func bareCopy(ctx context.Context, samples []pgstore.Sample, conns ...*pgx.Conn) (time.Duration, error) {
	rows := make([][]any, len(samples))
	for i, s := range samples {
		var value pgtype.Numeric
		if err := value.Scan(s.Value); err != nil {
			return 0, err
		}
		rows[i] = []any{
			s.ID, s.Name, s.Type, s.Scope, value, s.Unit, s.Service, s.ImprovementID, nil, []byte(s.Tags), nil, nil, nil, s.Timestamp,
			clusterName, nil, nil, nil, nil, int64(1), constitutionalHash,
		}
	}
	var group errgroup.Group
	began := time.Now()
	for i, conn := range conns {
		part := rows[i*len(rows)/len(conns) : (i+1)*len(rows)/len(conns)]
		group.Go(func() error {
			_, err := conn.CopyFrom(ctx, pgx.Identifier{"dgm", "performance_metrics"}, copyColumns, pgx.CopyFromRows(part))
			return err
		})
	}
	err := group.Wait()
	return time.Since(began), err
}
