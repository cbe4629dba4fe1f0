// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
	"github.com/acgs/dgm-operator/test/pgtest"
)

const benchmarkObjects = 10_000

// BenchmarkWriter compares, in one run, rows per second of the batched writer
// with those of the same rows, sent as the same multi-row statements of 500, by
// a bare client with one connection that compares, fences and answers nothing.
// The metric "ratio" is writer over client. Whoever comes second finds the disk
// busy with the log of the first, so they take turns at going first.
func BenchmarkWriter(b *testing.B) {
	server, err := pgtest.New(context.Background(), pgtest.Options{
		Settings: []string{"fsync=on", "shared_buffers=512MB", "max_wal_size=4GB", "autovacuum=off"},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	contestants := []func(*testing.B, string) time.Duration{bareClientTime, writerTime}
	var spent [2]time.Duration
	rounds := 0
	for b.Loop() {
		for turn := range 4 {
			for i := range contestants {
				who := (turn + i) % 2
				url := server.Database(b)
				checkpoint(b, url)
				spent[who] += contestants[who](b, url)
			}
		}
		rounds++
	}
	rows := float64(rounds * 4 * 4 * benchmarkObjects) // two tables, new and changed
	b.ReportMetric(rows/spent[0].Seconds(), "client-rows/s")
	b.ReportMetric(rows/spent[1].Seconds(), "writer-rows/s")
	b.ReportMetric(spent[0].Seconds()/spent[1].Seconds(), "ratio")
}

func checkpoint(b *testing.B, url string) {
	b.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	must(b, err)
	_, err = conn.Exec(context.Background(), "CHECKPOINT")
	must(b, err)
	must(b, conn.Close(context.Background()))
}

// writerTime is how long it takes until new objects, and then changes of all of
// them, are committed and answered.
func writerTime(b *testing.B, url string) time.Duration {
	b.Helper()
	s := startReady(b, testConfig(url))
	ctx := context.Background()
	began := time.Now()
	must(b, mirrorAll(ctx, s.Store, benchmarkObjects, nil))
	must(b, mirrorAll(ctx, s.Store, benchmarkObjects, benchmarkChange))
	took := time.Since(began)
	must(b, s.stop())
	return took
}

func benchmarkChange(i *Improvement) {
	i.ArchiveStatus, i.WorkspaceStatus, i.Generation = lifecycle.ArchiveRunning, lifecycle.WorkspaceValidating, 2
}

func bareClientTime(b *testing.B, url string) time.Duration {
	b.Helper()
	ctx := context.Background()
	m, err := NewMigrator(ctx, url)
	must(b, err)
	_, err = m.Up(ctx)
	must(b, err)
	must(b, m.Close())
	conn, err := pgx.Connect(ctx, url)
	must(b, err)
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	rows := &session{cluster: "test", fence: fence{epoch: 1}}
	began := time.Now()
	for _, change := range []func(*Improvement){func(*Improvement) {}, benchmarkChange} {
		for first := 0; first < benchmarkObjects; first += defaultBatchSize {
			must(b, bareWrite(ctx, conn, rows, first, change))
		}
	}
	return time.Since(began)
}

func bareWrite(ctx context.Context, conn *pgx.Conn, rows *session, first int, change func(*Improvement)) error {
	requests := make([]*request, 0, defaultBatchSize)
	for n := first; n < first+defaultBatchSize; n++ {
		i := improvement(n)
		change(&i)
		requests = append(requests, &request{improvement: &i, object: i.Object})
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if _, err := q.UpsertArchive(ctx, rows.archiveRows(requests)); err != nil {
			return err
		}
		_, err := q.UpsertWorkspaces(ctx, rows.workspaceRows(requests))
		return err
	})
}
