// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/errgroup"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	// A transaction holds at most as many samples, or as many bytes of documents.
	metricBatchRows  = 10_000
	metricBatchBytes = 32 << 20
	// metricWriters is how many transactions of samples there are at once, each on a
	// connection of its own.
	metricWriters = 2
)

// RejectedSample is one that cannot be recorded as it is.
type RejectedSample struct {
	// Index is its place among those handed over.
	Index  int
	Name   string
	Reason error
}

// RejectedSamples is the error of RecordMetrics when some samples are at fault.
// All others are recorded.
type RejectedSamples []RejectedSample //nolint:errname // it is what was rejected; Error says so

func (r RejectedSamples) Error() string {
	const shown = 5
	var b strings.Builder
	fmt.Fprintf(&b, "%d of the samples cannot be recorded, all others are: ", len(r))
	for i, sample := range r[:min(shown, len(r))] {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "sample %d (%.80q): %v", sample.Index, sample.Name, sample.Reason)
	}
	if len(r) > shown {
		fmt.Fprintf(&b, "; and %d more", len(r)-shown)
	}
	return b.String()
}

// Unwrap gives the reasons.
func (r RejectedSamples) Unwrap() []error {
	out := make([]error, len(r))
	for i, sample := range r {
		out[i] = sample.Reason
	}
	return out
}

// sampleRow is a sample as it is sent, and where it came from.
type sampleRow struct {
	dbsql.CopyMetricsParams
	index int
	name  string
}

func (r sampleRow) reject(reason error) RejectedSample {
	return RejectedSample{Index: r.index, Name: r.name, Reason: reason}
}

// RecordMetrics adds samples to performance_metrics and returns when they are
// committed. Samples without an ID are given one, in place: after any error the
// same samples may be handed over again, and none is doubled, whatever the first
// attempt came to. It returns RejectedSamples for those that are at fault, and
// ErrUnavailable or ErrDeposed as the mirror does.
func (s *Store) RecordMetrics(ctx context.Context, samples []Sample) error {
	for i := range samples {
		if samples[i].ID == uuid.Nil {
			id, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("id of a sample: %w", err)
			}
			samples[i].ID = id
		}
	}
	var mu sync.Mutex
	var rejected RejectedSamples
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(metricWriters)
	for first := 0; first < len(samples); {
		from, to := first, endOfBatch(samples, first)
		group.Go(func() error {
			refused, err := s.recordPart(ctx, samples[from:to], from)
			mu.Lock()
			defer mu.Unlock()
			rejected = append(rejected, refused...)
			return err
		})
		first = to
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if len(rejected) > 0 {
		slices.SortFunc(rejected, func(a, b RejectedSample) int { return cmp.Compare(a.Index, b.Index) })
		return rejected
	}
	return nil
}

// recordPart records the samples of one transaction, of which the first has a
// place of its own among those handed over.
func (s *Store) recordPart(ctx context.Context, samples []Sample, first int) (RejectedSamples, error) {
	sess, err := s.current()
	if err != nil {
		return nil, err
	}
	rows, rejected := sess.sampleRows(samples, first)
	refused, err := sess.record(ctx, rows)
	return append(rejected, refused...), err
}

// endOfBatch is the end of the transaction that begins with a sample. It is the
// same whenever the samples are, which makes for the same batch ids.
func endOfBatch(samples []Sample, first int) int {
	bytes := 0
	for i := first; i < len(samples); i++ {
		bytes += len(samples[i].Tags) + len(samples[i].Dimensions) + len(samples[i].Metadata)
		if i > first && (bytes > metricBatchBytes || i-first >= metricBatchRows) {
			return i
		}
	}
	return len(samples)
}

func (s *session) sampleRows(samples []Sample, first int) (rows []sampleRow, rejected RejectedSamples) {
	rows = make([]sampleRow, 0, len(samples))
	for i := range samples {
		row := sampleRow{index: first + i, name: samples[i].Name}
		var err error
		if row.CopyMetricsParams, err = samples[i].row(s.cluster, s.fence.epoch); err != nil {
			rejected = append(rejected, row.reject(err))
			continue
		}
		rows = append(rows, row)
	}
	return rows, rejected
}

// record commits rows. Should the database refuse one, it is left out.
func (s *session) record(ctx context.Context, rows []sampleRow) (RejectedSamples, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	err := s.recordBatch(ctx, rows)
	pgErr := rowErrorOf(err)
	if pgErr == nil {
		return nil, err
	}
	if pgErr.Code == uniqueViolation {
		left, err := s.notRecorded(ctx, rows)
		if err != nil || len(left) < len(rows) {
			if err != nil {
				return nil, s.recordFailure(err)
			}
			return s.record(ctx, left)
		}
	}
	if len(rows) == 1 {
		return RejectedSamples{rows[0].reject(newRowError(pgErr))}, nil
	}
	var rejected RejectedSamples
	for _, part := range splitAtFault(rows, pgErr) {
		refused, err := s.record(ctx, part)
		rejected = append(rejected, refused...)
		if err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

const uniqueViolation = "23505"

var copyLine = regexp.MustCompile(`COPY performance_metrics[^,]*, line (\d+)`)

// splitAtFault cuts rows around the one that the database complains about, or in
// the middle when it does not say.
func splitAtFault(rows []sampleRow, pgErr *pgconn.PgError) [][]sampleRow {
	if at := copyLine.FindStringSubmatch(pgErr.Where); at != nil {
		if line, err := strconv.Atoi(at[1]); err == nil && line >= 1 && line <= len(rows) {
			return [][]sampleRow{rows[:line-1], rows[line-1 : line], rows[line:]}
		}
	}
	return [][]sampleRow{rows[:len(rows)/2], rows[len(rows)/2:]}
}

// notRecorded returns the rows that are not in the table: others of the same
// call were committed in batches of another cut.
func (s *session) notRecorded(ctx context.Context, rows []sampleRow) ([]sampleRow, error) {
	p := dbsql.RecordedMetricsParams{Ids: make([]uuid.UUID, len(rows)), Timestamps: make([]pgtype.Timestamptz, len(rows))}
	for i, row := range rows {
		p.Ids[i], p.Timestamps[i] = row.ID, row.Timestamp
	}
	found, err := s.queries.RecordedMetrics(ctx, p)
	if err != nil {
		return nil, err
	}
	recorded := setOf(found)
	var left []sampleRow
	for _, row := range rows {
		if _, there := recorded[row.ID]; !there {
			left = append(left, row)
		}
	}
	return left, nil
}

// recordBatch commits rows in one transaction, and tries again for some seconds.
// Its error is that of a row as the database gave it, or fit for the caller.
func (s *session) recordBatch(ctx context.Context, rows []sampleRow) error {
	select {
	case s.recording <- struct{}{}:
		defer func() { <-s.recording }()
	case <-s.done:
		return s.cause
	case <-ctx.Done():
		return ctx.Err()
	}
	id := batchID(s.cluster, rows)
	deadline := time.Now().Add(retryFor)
	for wait := retryFirst; ; wait = min(2*wait, retrySlowest) {
		err := s.tryRecord(ctx, id, rows)
		if err == nil || rowErrorOf(err) != nil {
			return err
		}
		kind := classify(err)
		retriable := (kind == failureContention || kind == failureConnection) && !isVerdict(err) && !errors.Is(err, errNoConstitution)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !retriable, time.Now().Add(wait).After(deadline):
			return s.recordFailure(err)
		}
		if kind == failureConnection {
			s.pool.Reset()
		}
		select {
		case <-time.After(wait):
		case <-s.done:
			return s.cause
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// recordFailure is what the caller is told.
func (s *session) recordFailure(err error) error {
	select {
	case <-s.done:
		return s.cause
	default:
		return s.store.failure(err)
	}
}

func (s *session) tryRecord(ctx context.Context, id uuid.UUID, rows []sampleRow) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	return s.transaction(ctx, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		batch, err := q.BeginMetricBatch(ctx, dbsql.BeginMetricBatchParams{
			BatchID: id, Cluster: pgtype.Text{String: s.cluster, Valid: true}, Rows: int32(len(rows)), //nolint:gosec // at most metricBatchRows
		})
		if err != nil || !batch.Mine {
			return err
		}
		copied := make([]dbsql.CopyMetricsParams, len(rows))
		for i, row := range rows {
			copied[i] = row.CopyMetricsParams
			if copied[i].ConstitutionalHash == "" {
				copied[i].ConstitutionalHash = batch.ConstitutionalHash
			}
			if copied[i].ConstitutionalHash == "" {
				return errNoConstitution
			}
		}
		_, err = q.CopyMetrics(ctx, copied)
		return err
	})
}

// batchID is the same for the same samples, so that a repetition by the caller,
// or by the next leader, is known for one too.
func batchID(cluster string, rows []sampleRow) uuid.UUID {
	hash := sha256.New()
	hash.Write([]byte(cluster))
	for _, row := range rows {
		hash.Write(row.ID[:])
	}
	id := uuid.UUID(hash.Sum(nil)[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8: made of a hash of one's own choice
	id[8] = id[8]&0x3f | 0x80
	return id
}
