// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// harness is what tests get from testing.T, for a program: it ends what was
// started, and ends the program when something cannot be.
type harness struct {
	ctx      context.Context
	began    time.Time
	load     string // of the machine when it began
	cleanups []func()
	postgres *pgtest.Server
	version  string
	filled   *volume
}

func newHarness(ctx context.Context) *harness {
	return &harness{ctx: ctx, began: time.Now(), load: loadAverage()}
}

func (h *harness) Helper()          {}
func (h *harness) Name() string     { return "bench" }
func (h *harness) Cleanup(f func()) { h.cleanups = append(h.cleanups, f) }

// Fatalf ends the program.
func (h *harness) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
	h.close()
	os.Exit(1)
}

func (h *harness) TempDir() string {
	dir, err := os.MkdirTemp("", "dgm-bench-")
	if err != nil {
		h.Fatalf("%v", err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// close ends what was started, the latest first.
func (h *harness) close() {
	for len(h.cleanups) > 0 {
		last := len(h.cleanups) - 1
		f := h.cleanups[last]
		h.cleanups = h.cleanups[:last]
		f()
	}
	kubetest.Stop()
	operatortest.RemoveBinary()
}

// progress tells people what goes on.
func (h *harness) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  "+format+"\n", append([]any{time.Since(h.began).Seconds()}, args...)...)
}

// database makes a new database on a server that writes as durably as one in
// production.
func (h *harness) database() string {
	if h.postgres == nil {
		server, err := pgtest.New(h.ctx, pgtest.Options{Settings: []string{"fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"}})
		if err != nil {
			h.Fatalf("%v", err)
		}
		h.Cleanup(server.Close)
		h.postgres = server
		h.version = h.query(server.URL("postgres"), "SHOW server_version")
	}
	return h.postgres.Database(h)
}

// migrated makes a new database with the schema in it.
func (h *harness) migrated() (url string, err error) {
	url = h.database()
	migrator, err := pgstore.NewMigrator(h.ctx, pgtest.MigrationURL(url))
	if err != nil {
		return "", err
	}
	_, err = migrator.Up(h.ctx)
	_ = migrator.Close()
	return url, err
}

// query returns the only value of a query.
func (h *harness) query(url, sql string, args ...any) string {
	conn, err := pgx.Connect(h.ctx, url)
	if err != nil {
		h.Fatalf("%v", err)
	}
	defer func() { _ = conn.Close(h.ctx) }()
	var value string
	if err := conn.QueryRow(h.ctx, sql, args...).Scan(&value); err != nil {
		h.Fatalf("%s: %v", sql, err)
	}
	return value
}

// facts of the machine, without which numbers say little.
func (h *harness) facts() []string {
	facts := []string{fmt.Sprintf("%d cores", runtime.NumCPU()), runtime.Version()}
	if h.version != "" {
		facts = append(facts, "PostgreSQL "+h.version+" with fsync")
	}
	return append(facts, fmt.Sprintf("load average %s before, %s after %.0f minutes", h.load, loadAverage(), time.Since(h.began).Minutes()))
}

// loadAverage of the last minute.
func loadAverage() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	average, _, _ := strings.Cut(string(load), " ")
	return average
}
