// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	// maxWindowSamples bounds what is read of one window of one metric, and
	// maxImprovementSamples what is read of all metrics of an improvement: the
	// spec allows 16.
	maxWindowSamples      = 10_000
	maxImprovementSamples = 16 * maxWindowSamples
	observationTimeout    = 10 * time.Second
)

// SampleSeries says which samples of performance_metrics are meant.
type SampleSeries struct {
	Service string `json:"service"`
	Type    string `json:"type"` // one of MetricTypes
	Name    string `json:"name"`
	// Tags are those that a sample must have, whatever others it has.
	Tags map[string]string `json:"tags,omitempty"`
}

// Point is the value of a sample and when it was measured.
type Point struct {
	At    time.Time
	Value float64
}

// ServiceSamples returns the newest 10,000 samples of a series between two times,
// both included, newest first. Those that were recorded with the scope
// improvement are not among them.
func (s *Store) ServiceSamples(ctx context.Context, series SampleSeries, start, end time.Time) ([]Point, error) {
	tags := ""
	if len(series.Tags) > 0 {
		encoded, err := json.Marshal(series.Tags)
		if err != nil {
			return nil, err
		}
		tags = escapeJSON(encoded)
	}
	rows, err := ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]dbsql.ServiceSamplesRow, error) {
		return q.ServiceSamples(ctx, dbsql.ServiceSamplesParams{
			ServiceName: escapeText(series.Service), MetricType: series.Type, MetricName: escapeText(series.Name), Tags: tags,
			WindowStart: pgtype.Timestamptz{Time: start, Valid: true}, WindowEnd: pgtype.Timestamptz{Time: end, Valid: true}, Most: maxWindowSamples,
		})
	})
	points := make([]Point, len(rows))
	for i, row := range rows {
		points[i] = Point{At: row.MeasuredAt.Time.UTC(), Value: row.Value}
	}
	return points, err
}

// ImprovementSamples returns what was recorded for an improvement with these
// tags, by the metric's name and in the order of time.
func (s *Store) ImprovementSamples(ctx context.Context, improvementID uuid.UUID, tags json.RawMessage) (map[string][]Point, error) {
	rows, err := ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]dbsql.ImprovementSamplesRow, error) {
		return q.ImprovementSamples(ctx, dbsql.ImprovementSamplesParams{ImprovementID: improvementID, Tags: escapeJSON(tags), Most: maxImprovementSamples})
	})
	points := map[string][]Point{}
	for _, row := range rows {
		name := Unescape(row.MetricName)
		points[name] = append(points[name], Point{At: row.MeasuredAt.Time.UTC(), Value: row.Value})
	}
	return points, err
}

// TestResults returns what is stored of the tests of an improvement; null when
// nothing is.
func (s *Store) TestResults(ctx context.Context, improvementID uuid.UUID) (json.RawMessage, error) {
	results, err := ask(ctx, s, func(ctx context.Context, q *dbsql.Queries) (string, error) {
		results, err := q.TestResults(ctx, improvementID)
		if errors.Is(err, pgx.ErrNoRows) {
			return "null", nil
		}
		return results, err
	})
	return json.RawMessage(results), err
}

// ask reads from the database, for a bounded time.
func ask[T any](ctx context.Context, s *Store, read func(context.Context, *dbsql.Queries) (T, error)) (T, error) {
	sess, err := s.current()
	if err != nil {
		var none T
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, observationTimeout)
	defer cancel()
	result, err := read(ctx, sess.queries)
	if err != nil {
		return result, s.failure(err)
	}
	return result, nil
}
