// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// The rows of docs/lifecycle.md that happen to all improvements at once.
const (
	rowFrozen    = "the system configuration freezes all, for some time"
	rowDatabase  = "the database is away, for some time"
	rowAPIServer = "the API server is restarted"
	rowOperator  = "the operator is killed, and started again"
	rowLeader    = "the leader is killed, and another replica leads"
)

// together are how the interruptions end that happen to all at once.
func together() map[string]ends {
	away := held(dgmv1alpha1.ReasonDatabaseUnavailable)
	return map[string]ends{rowFrozen: held(dgmv1alpha1.ReasonFrozen), rowDatabase: away, rowAPIServer: going, rowOperator: going, rowLeader: going}
}

// longLease are flags with which an operator leads as long as it lives, however
// busy the machine is.
var longLease = []string{"--lease-duration=1m"}

// everyPhase is an improvement in every phase.
type everyPhase struct {
	*lab
	cells []*cell
}

// inEveryPhase holds an improvement in every phase.
func (l *lab) inEveryPhase() *everyPhase {
	l.Helper()
	p := &everyPhase{lab: l, cells: make([]*cell, len(columns()))}
	inParallel(len(p.cells), len(p.cells), func(n int) {
		column := columns()[n]
		l.Run("held/"+column.name, func(t *testing.T) { p.cells[n] = l.cell(t, column) })
	})
	if l.Failed() {
		l.FailNow()
	}
	p.cells = slices.DeleteFunc(p.cells, func(c *cell) bool { return c == nil }) // left out by -run
	return p
}

// each does something with every one, at the same time.
func (p *everyPhase) each(what string, do func(c *cell)) {
	p.Helper()
	inParallel(len(p.cells), len(p.cells), func(n int) {
		p.Run(what+"/"+p.cells[n].column.name, func(t *testing.T) { do(p.cells[n].of(t)) })
	})
}

// of is the cell in the hands of another test.
func (c *cell) of(t *testing.T) *cell {
	t.Helper()
	own, world := *c, *c.world
	world.T = t
	own.world = &world
	return &own
}

// letGo lets all go on, but what is observed: that does by itself.
func (p *everyPhase) letGo(row string) {
	p.Helper()
	p.each("let go on", func(c *cell) {
		if c.column.phase != dgmv1alpha1.PhaseObserving {
			c.letGo(together()[row].of(c.column.name))
		}
	})
}

// end checks how all end.
func (p *everyPhase) end(row string) {
	p.Helper()
	p.each("ends", func(c *cell) {
		if c.column.phase == dgmv1alpha1.PhaseObserving {
			c.column.release(c)
		}
		c.ends(together()[row].of(c.column.name))
	})
	p.agree()
}

// TestInterruptionsOfAll interrupts an improvement in every phase at once by what
// happens to the operator and to what it stands on (docs/lifecycle.md).
func TestInterruptionsOfAll(t *testing.T) {
	t.Run("database", func(t *testing.T) {
		server := pgtest.Start(t)
		w := newWorldOn(t, server, server.Database(t))
		w.lead(longLease...)
		p := w.lab().inEveryPhase()
		server.Stop(t)
		p.letGo(rowDatabase)
		p.each("waits, or goes on", func(c *cell) {
			want := together()[rowDatabase].of(c.column.name)
			c.waits(want)
			if want.waits == "" && c.column.phase != dgmv1alpha1.PhaseObserving {
				c.stands(want.phase, want.reason) // P10
			}
		})
		server.Start(t)
		p.end(rowDatabase)
	})
	// One after the other, and none of them moves what is held.
	t.Run("operators and API server", func(t *testing.T) {
		w := newWorld(t)
		w.lead(longLease...)
		p := w.lab().inEveryPhase()
		w.crash()
		w.lead(longLease...)
		standby := w.launch("replica-1", longLease...)
		standby.WaitReady(t)
		w.crash()
		w.operator = standby
		w.rows("replica-1", `SELECT left(holder, 9) FROM dgm.writer_fences`)
		p.each("is held still", func(c *cell) { c.stands(c.column.phase, "") })
		p.letGo(rowAPIServer)
		kubetest.KillAPIServer(t)()
		p.end(rowAPIServer)
	})
}

// TestInterruptionsTable checks the table in docs/lifecycle.md, or writes it
// (UPDATE_GOLDEN).
func TestInterruptionsTable(t *testing.T) {
	const begin, end = "<!-- interruptions -->\n", "<!-- /interruptions -->"
	file := filepath.Join("..", "..", "docs", "lifecycle.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), begin)
	was, after, found := strings.Cut(rest, end)
	if !found {
		t.Fatalf("%s has no place for the table, between %s and %s", file, begin, end)
	}
	is := interruptionsTable()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(before+begin+is+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := gocmp.Diff(was, is); diff != "" {
		t.Errorf("the table in %s is another one; write it with UPDATE_GOLDEN=1 (-is +should be):\n%s", file, diff)
	}
}

func interruptionsTable() string {
	var table strings.Builder
	row := func(first string, cell func(group int) string) {
		fmt.Fprintf(&table, "| %s |", first)
		for i := range groups {
			fmt.Fprintf(&table, " %s |", cell(i))
		}
		table.WriteString("\n")
	}
	row("", func(i int) string { return groups[i].name })
	table.WriteString("|---" + strings.Repeat("|---", len(groups)) + "|\n")
	for _, i := range interruptions() {
		row(i.name, func(group int) string { return i.ends[group].says })
	}
	for _, name := range []string{rowFrozen, rowDatabase, rowOperator, rowLeader, rowAPIServer} {
		row(name, func(group int) string { return together()[name][group].says })
	}
	return table.String()
}
