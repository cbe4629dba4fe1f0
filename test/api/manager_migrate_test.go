// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/test/operatortest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// migrate runs `manager migrate` against a database.
func migrate(t *testing.T, databaseURL, command string, flags ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(databaseURL), 0o600); err != nil {
		t.Fatal(err)
	}
	return operatortest.Run(t, append([]string{"migrate", command, "--database-url-file=" + file}, flags...)...)
}

func mustMigrate(t *testing.T, databaseURL, command string) string {
	t.Helper()
	output, err := migrate(t, databaseURL, command)
	if err != nil {
		t.Fatalf("migrate %s: %v\n%s", command, err, output)
	}
	return output
}

func TestMigrateByHand(t *testing.T) {
	server := pgtest.Shared(t)
	byHand, byProgram := server.Database(t), server.Database(t)

	plan := mustMigrate(t, byHand, "plan")
	if status := mustMigrate(t, byHand, "status"); strings.Count(status, "pending") != strings.Count(status, ".sql") || strings.Contains(status, "T0") {
		t.Errorf("the status of an empty database is\n%s", status)
	}
	conn, err := pgx.Connect(context.Background(), byHand)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), plan, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("run the plan by hand: %v", err)
	}
	if status := mustMigrate(t, byHand, "status"); strings.Contains(status, "pending") {
		t.Errorf("the status after the plan was run is\n%s", status)
	}
	if again := mustMigrate(t, byHand, "plan"); strings.Contains(again, "CREATE") {
		t.Errorf("the plan after it was run is\n%s", again)
	}
	if up := mustMigrate(t, byHand, "up"); up != "nothing is pending\n" {
		t.Errorf("migrate up after the plan was run says %q", up)
	}

	applied := strings.Count(mustMigrate(t, byProgram, "up"), "applied ")
	if status := mustMigrate(t, byProgram, "status"); applied == 0 || strings.Contains(status, "pending") {
		t.Errorf("the status after migrate up is\n%s", status)
	}
	for range applied {
		mustMigrate(t, byProgram, "down")
	}
	if output, err := migrate(t, byProgram, "down"); err == nil || !strings.Contains(output, "no migration is applied") {
		t.Errorf("migrate down with nothing to undo says %q (%v)", output, err)
	}
	if up := mustMigrate(t, byProgram, "up"); strings.Count(up, "applied ") != applied {
		t.Errorf("migrate up after everything was undone says\n%s", up)
	}

	wrong, err := url.Parse(byHand)
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(wrong.User.Username(), "mistyped-secret")
	output, err := migrate(t, wrong.String(), "status")
	if err == nil || !strings.Contains(output, "password authentication failed") || strings.Contains(output, "mistyped-secret") {
		t.Errorf("migrate with a wrong password: %v\n%s", err, output)
	}
}

func TestMigrateStatusSaysWhatDrifted(t *testing.T) {
	databaseURL := pgtest.Shared(t).Database(t)
	mustMigrate(t, databaseURL, "up")
	if status, err := migrate(t, databaseURL, "status", "--fail-on-drift"); err != nil || !strings.Contains(status, "drift: none") {
		t.Errorf("the status of a new schema (%v) is\n%s", err, status)
	}
	conn, err := pgx.Connect(context.Background(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), "DROP INDEX dgm.idx_workspaces_status_created; CREATE INDEX mine ON dgm.dgm_archive (created_by)", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	status := mustMigrate(t, databaseURL, "status")
	for _, line := range []string{
		"drift: not as the migrations made them (1)",
		"index dgm.idx_workspaces_status_created is missing",
		"mend:     CREATE INDEX idx_workspaces_status_created ON dgm.improvement_workspaces USING btree (status, created_at DESC);",
		"of your own, and left alone: index dgm.mine",
	} {
		if !strings.Contains(status, line) {
			t.Errorf("the status lacks %q:\n%s", line, status)
		}
	}
	if status, err := migrate(t, databaseURL, "status", "--fail-on-drift"); err == nil {
		t.Errorf("--fail-on-drift succeeded:\n%s", status)
	}
}

// Several clusters may share one schema, so that their operators may start at
// the same time on an empty database; one dies half-way.
func TestMigrationsUnderConcurrentStarts(t *testing.T) {
	w := newWorld(t)
	dies := operatortest.Start(t, operatortest.Options{DatabaseURL: w.url, ClusterName: "dies", Args: []string{"--leader-elect=false"}})
	var operators []*operatortest.Operator
	for i := range 3 {
		operators = append(operators, operatortest.Start(t, operatortest.Options{
			DatabaseURL: w.url, ClusterName: fmt.Sprintf("cluster-%d", i), Args: []string{"--leader-elect=false"},
		}))
	}
	var byHand sync.WaitGroup
	byHand.Go(func() {
		if output, err := migrate(t, w.url, "up"); err != nil {
			t.Errorf("migrate up beside them: %v\n%s", err, output)
		}
	})
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(dies.Log(), "Applied migration") && time.Now().Before(deadline); {
		if exists, err := w.tryQuery(`SELECT to_regclass('dgm.schema_migrations')`); err == nil && exists != "" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	dies.Kill()
	for _, operator := range operators {
		w.operator = operator
		w.eventually("each of them leads its cluster", func() error { return leads(operator) })
	}
	byHand.Wait()
	if got := w.query(`SELECT count(*) FROM dgm.schema_migrations GROUP BY version_id HAVING count(*) > 1`); got != "" {
		t.Errorf("migrations are recorded more than once: %s", got)
	}
	if status := mustMigrate(t, w.url, "status"); strings.Contains(status, "pending") {
		t.Errorf("the status is\n%s", status)
	}
}
