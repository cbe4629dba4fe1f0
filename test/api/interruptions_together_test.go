// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

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
	own, world := *c, *c.world
	world.T = t
	own.world = &world
	return &own
}

// letGo lets all go on, but what is observed: that does by itself.
func (p *everyPhase) letGo() {
	p.Helper()
	p.each("let go on", func(c *cell) {
		if c.column.phase != dgmv1alpha1.PhaseObserving {
			c.column.release(c)
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
// happens to all (docs/lifecycle.md).
func TestInterruptionsOfAll(t *testing.T) {
	t.Run(rowFrozen, func(t *testing.T) {
		w := newWorld(t)
		w.lead()
		p := w.lab().inEveryPhase()
		freeze := setting("freeze", "true")
		w.create(freeze)
		w.stands(freeze, dgmv1alpha1.ReasonApplied)
		p.letGo()
		p.each("waits", func(c *cell) { c.waits(together()[rowFrozen].of(c.column.name)) })
		w.remove(freeze)
		p.end(rowFrozen)
	})
	t.Run(rowDatabase, func(t *testing.T) {
		server := pgtest.Start(t)
		w := newWorldOn(t, server, server.Database(t))
		w.lead()
		p := w.lab().inEveryPhase()
		server.Stop(t)
		p.letGo()
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
	t.Run(rowAPIServer, func(t *testing.T) {
		w := newWorld(t)
		w.kubelet()
		p := w.lab().inEveryPhase()
		p.letGo()
		kubetest.KillAPIServer(t)()
		p.end(rowAPIServer)
	})
	t.Run(rowOperator, func(t *testing.T) {
		w := newWorld(t)
		w.lead()
		p := w.lab().inEveryPhase()
		p.letGo()
		w.crash()
		w.lead()
		p.end(rowOperator)
	})
	t.Run(rowLeader, func(t *testing.T) {
		w := newWorld(t)
		w.lead(quickTakeover...)
		p := w.lab().inEveryPhase()
		leader := w.operator
		w.operator = w.launch("replica-1", quickTakeover...)
		w.operator.WaitReady(t)
		p.letGo()
		leader.Kill()
		p.end(rowLeader)
		if err := leads(w.operator); err != nil {
			t.Error(err)
		}
	})
}
