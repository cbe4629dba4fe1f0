// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

func query(t *testing.T, url, sql string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	var out string
	if err := conn.QueryRow(ctx, sql).Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestServerSurvivesStopAndKill(t *testing.T) {
	t.Parallel()
	s := Start(t)
	url := s.Database(t)
	query(t, url, "SELECT 'alive'")
	s.Restart(t)
	query(t, url, "SELECT 'alive'")
	s.Kill(t)
	s.Start(t)
	query(t, url, "SELECT 'alive'")
}

func TestFailoverLosesLaterCommitsAndChangesTimeline(t *testing.T) {
	t.Parallel()
	s := Start(t)
	backup := s.BaseBackup(t)
	s.Database(t)
	s.Failover(t, backup)
	if got := query(t, s.URL("postgres"), "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"); got != "00000002" {
		t.Errorf("timeline = %s, want 00000002", got)
	}
	if got := query(t, s.URL("postgres"), "SELECT count(*)::text FROM pg_database WHERE datname LIKE 'test%'"); got != "0" {
		t.Errorf("%s databases made after the backup are there, want 0", got)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	s, err := New(context.Background(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("directory is still there: %v", err)
	}
	if s.running() {
		t.Error("postgres is still running")
	}
}
