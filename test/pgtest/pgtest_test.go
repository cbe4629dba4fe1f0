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

func execute(t *testing.T, url, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
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

func TestRestoreToTheMoment(t *testing.T) {
	t.Parallel()
	s := StartArchiving(t)
	url := s.URL("postgres")
	do := func(sql string) { t.Helper(); execute(t, url, sql) }
	do("CREATE TABLE happened (what text)")
	backup := s.BaseBackup(t)
	do("INSERT INTO happened VALUES ('before')")
	byTime := s.Moment(t)
	do("INSERT INTO happened VALUES ('after the time')")
	byName := s.RestorePoint(t, "named")
	do("INSERT INTO happened VALUES ('after the name')")
	byPosition := s.Position(t)
	do("INSERT INTO happened VALUES ('after the position')")
	s.Archive(t)
	s.Destroy(t)
	for _, step := range []struct {
		to   Target
		want string
	}{
		{byPosition, "before, after the time, after the name"},
		{byName, "before, after the time"},
		{byTime, "before"},
	} {
		s.RestoreTo(t, backup, step.to)
		if got := query(t, url, "SELECT string_agg(what, ', ' ORDER BY ctid) FROM happened"); got != step.want {
			t.Errorf("after the restore to %+v there is %q, want %q", step.to, got, step.want)
		}
		do("INSERT INTO happened VALUES ('on the new timeline')")
		s.Archive(t)
	}
	s.Restart(t)
	if got := query(t, url, "SELECT string_agg(what, ', ' ORDER BY ctid) FROM happened"); got != "before, on the new timeline" {
		t.Errorf("after a restart there is %q", got)
	}
}
