// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/pgtest"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?\n)```$")

// runbook runs the commands of docs/recovery.md, block by block.
type runbook struct {
	*testing.T
	server *pgtest.Server
	url    string
	blocks []string
	env    []string
}

// next runs the next block, which must be the one about something.
func (r *runbook) next(about string) string {
	r.Helper()
	if len(r.blocks) == 0 || !strings.Contains(r.blocks[0], about) {
		r.Fatalf("the next block of docs/recovery.md is not about %s: %q", about, r.blocks)
	}
	script := r.blocks[0]
	r.blocks = r.blocks[1:]
	out, err := r.server.Shell(r, script, r.env...)
	if err != nil {
		log, _ := r.server.Shell(r, `tail -n 20 "$PGDATA.log"`)
		r.Fatalf("%s\n%v: %s\n%s", script, err, out, log)
	}
	return out
}

func (r *runbook) query(sql string) string {
	r.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var value string
	if err := conn.QueryRow(ctx, sql).Scan(&value); err != nil {
		r.Fatalf("%s: %v", sql, err)
	}
	return value
}

func (r *runbook) sample(name string) {
	r.Helper()
	r.query(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value) VALUES ('` + name + `', 'latency', 'service', 1) RETURNING metric_name`)
}

func (r *runbook) wantSamples(want string) {
	r.Helper()
	if got := r.query("SELECT string_agg(metric_name, ', ' ORDER BY metric_name) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'"); got != want {
		r.Errorf("the samples are %q, want %q", got, want)
	}
}

func newRunbook(t *testing.T) *runbook {
	t.Helper()
	r := &runbook{T: t, server: pgtest.Start(t)}
	r.url = r.server.Database(t)
	r.server.ConfigureConsole(t)
	for _, found := range shellBlock.FindAllStringSubmatch(read(t, "docs/recovery.md"), -1) {
		r.blocks = append(r.blocks, found[1])
	}
	address, err := pgx.ParseConfig(r.url)
	if err != nil {
		t.Fatal(err)
	}
	r.env = []string{
		"DATABASE=" + address.Database,
		"ARCHIVE=" + filepath.Join(r.server.Directory(), "archive"), "BACKUPS=" + filepath.Join(r.server.Directory(), "backups"),
	}
	m, err := pgstore.NewMigrator(context.Background(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if _, err := m.Up(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecoveryRunbook(t *testing.T) {
	r := newRunbook(t)
	r.sample("before the backup")
	r.next("archive_command")
	r.next("pg_basebackup")
	r.sample("before the moment")
	r.env = append(r.env, "MOMENT="+r.query("SELECT clock_timestamp()::text"))
	r.sample("after the moment")
	r.next("recovery_target_time")
	r.wantSamples("before the backup, before the moment")
	if timeline := r.query("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"); timeline != "00000002" {
		t.Errorf("the timeline is %s, want a new one", timeline)
	}
	r.next("/^restore_command")
	if out := r.next("writer_fences"); !strings.Contains(out, "acquired_at") {
		t.Errorf("the check says %s", out)
	}
	r.next("pg_dumpall")
	r.next("pg_restore")
	r.query("DELETE FROM dgm.performance_metrics WHERE metric_name = 'before the moment' RETURNING metric_name")
	r.sample("since then")
	r.next("--on-conflict-do-nothing")
	r.wantSamples("before the backup, before the moment, since then")
	r.next("SET holder = holder")
	if len(r.blocks) > 0 {
		t.Errorf("not tried: %q", r.blocks)
	}
}
