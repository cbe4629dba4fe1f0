// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/crashtest"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// crashScenario is a life of an improvement that ends the same wherever the
// operator is killed.
type crashScenario struct {
	// name says what happens, for the table.
	name string
	// live makes what the improvement needs and the improvement itself, commands
	// what a person would, and fails the test unless all ends as it should. name is
	// its own for each life; lives of one lane share a namespace. The operator is
	// killed meanwhile, and started again.
	live func(w *world, name string)
	// phases are those whose writes are walked; all when there are none. The others
	// are as in another scenario.
	phases []dgmv1alpha1.Phase
	// atLeast is how many writes there surely are: fewer mean that the gate does
	// not see them.
	atLeast int
}

// lanes is how many operators are killed beside each other.
const lanes = 10

// maxTries is how often a write is waited for that does not come every time, since
// it depends on which of two came first.
const maxTries = 3

// walk is the crash points of a scenario: those that are known, and where each
// is in the order of the writes.
type walk struct {
	crashScenario
	number int
	begun  bool
	order  []crashtest.Write
	tries  map[crashtest.Write]int
	under  map[crashtest.Write]bool // being walked
	ended  map[crashtest.Write]bool
	lives  int
}

// walks are all scenarios, which the lanes share.
type walks struct {
	mu      sync.Mutex
	changed *sync.Cond
	all     []*walk
	running int
}

func newWalks(scenarios ...crashScenario) *walks {
	k := &walks{}
	k.changed = sync.NewCond(&k.mu)
	for i, scenario := range scenarios {
		k.all = append(k.all, &walk{
			crashScenario: scenario, number: i, order: []crashtest.Write{{}},
			tries: map[crashtest.Write]int{}, under: map[crashtest.Write]bool{}, ended: map[crashtest.Write]bool{},
		})
	}
	return k
}

// next is a scenario and a crash point of it that is still to be walked; it waits
// while another lane may find some.
func (k *walks) next() (scenario *walk, at crashtest.Write, life int, found bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		for _, one := range k.all {
			if at, found := one.next(); found {
				k.running++
				one.lives++
				return one, at, one.lives, true
			}
		}
		if k.running == 0 {
			return nil, crashtest.Write{}, 0, false
		}
		k.changed.Wait()
	}
}

func (k *walk) next() (crashtest.Write, bool) {
	if !k.begun {
		k.begun = true
		return crashtest.Never, true // the first life tells what there is
	}
	for _, write := range k.order {
		if k.isWalked(write) && !k.ended[write] && !k.under[write] && k.tries[write] < maxTries {
			k.tries[write]++
			k.under[write] = true
			return write, true
		}
	}
	return crashtest.Write{}, false
}

// isWalked tells the writes of the scenario's phases from those before.
func (k *walk) isWalked(write crashtest.Write) bool {
	return len(k.phases) == 0 || slices.Contains(k.phases, dgmv1alpha1.Phase(write.Phase))
}

// lived notes what a life has written, each after what it came after.
func (k *walks) lived(scenario *walk, at crashtest.Write, writes []crashtest.Write, ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.changed.Broadcast()
	k.running--
	delete(scenario.under, at)
	if ended {
		scenario.ended[at] = true
	}
	place := 0
	for _, write := range writes {
		if known := slices.Index(scenario.order, write); known >= 0 {
			place = max(place, known)
			continue
		}
		place++
		scenario.order = slices.Insert(scenario.order, place, write)
	}
}

// TestKilledAtEachWrite kills the operator with SIGKILL before the first and
// after each write, to the API server and to the database, of each scenario.
func TestKilledAtEachWrite(t *testing.T) {
	t.Parallel()
	scenarios := newWalks(
		triedAndApproved(), measuredAndWatched(), regressedWhileWatched(), regressed(), reverted(), deletedWhileTested(),
		keptThenRolledBack(), rolledBackByItself(),
	)
	outer := newWorld(t)
	t.Run("lanes", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				outer.lane(t).walk(scenarios)
			})
		}
	})
	if t.Failed() {
		return
	}
	var table strings.Builder
	for _, scenario := range scenarios.all {
		if points := len(scenario.ended); points <= scenario.atLeast {
			t.Errorf("%s: %d crash points, want more than %d", scenario.name, points, scenario.atLeast)
		}
		table.WriteString(scenario.table())
	}
	t.Log("\n" + table.String())
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(filepath.Join("..", "..", "docs", "crash-points.md"), []byte(crashPage+table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const crashPage = `# Crash points

Where the operator was killed, with SIGKILL, in each of the scenarios, and what was left then to be gone on from: after each write that the
API server or the database had taken, with the answer withheld. Between two writes nothing changes outside of the operator, so that after
one is also before the next. An operator that is started then ends each of them as if nothing had been: live objects are as they should be,
byte for byte where they are put back; nothing was restarted twice, and no test made twice; the archive has one row, with its end; tests, verdicts
and samples are each there once; an event tells of each step; no sandbox and no finalizer is left. Where a scenario begins as another one does,
only the phases in which it differs are walked.

` + "`UPDATE_GOLDEN=1 go test ./test/api -run TestKilledAtEachWrite`" + ` walks them all and writes this page.
`

func (k *walk) table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n## %s\n\n| phase in status | killed after | outcome |\n|---|---|---|\n", k.name)
	for _, write := range k.order {
		if !k.isWalked(write) {
			continue
		}
		phase, what, outcome := cmp.Or(write.Phase, "none"), write.String(), "as without a crash"
		if write == (crashtest.Write{}) {
			what = "nothing was written"
		}
		if !k.ended[write] {
			outcome = fmt.Sprintf("did not come again in %d lives", maxTries)
		}
		fmt.Fprintf(&out, "| %s | %s | %s |\n", phase, what, outcome)
	}
	return out.String()
}

// lane is a world whose operator goes through a gate.
type lane struct {
	*world
	gate *crashtest.Gate
	kill func()
	mu   sync.Mutex
}

// lane makes a world of its own, whose operator sees its namespace only.
func (w *world) lane(t *testing.T) *lane {
	t.Helper()
	own := *w
	own.T, own.url, own.namespace = t, w.server.Database(t), kubetest.Namespace(t)
	own.tenant("improver", "configmaps", "services")
	own.mayRunJobs()
	own.rollsOutWithin(500 * time.Millisecond)
	l := &lane{world: &own, gate: &crashtest.Gate{}}
	options := operatortest.Options{
		DatabaseURL: l.gate.Postgres(t, own.url), ClusterName: "test", Name: "replica-0",
		Args:    []string{"--leader-elect=false"}, // the other lanes' operators are no replicas
		Cluster: l.gate.APIServer(t, operatortest.ClusterConfig(t), own.namespace),
	}
	l.supervise(options)
	return l
}

// supervise starts the operator, and again whenever it ends, as a kubelet would.
func (l *lane) supervise(options operatortest.Options) {
	l.Helper()
	stopped := false
	l.operator = operatortest.Start(l.T, options)
	l.kill = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.operator.Kill()
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			<-l.operator.Exited()
			l.mu.Lock()
			if stopped {
				l.mu.Unlock()
				return
			}
			l.operator = operatortest.Start(l.T, options)
			l.mu.Unlock()
		}
	})
	l.Cleanup(func() {
		l.mu.Lock()
		stopped = true
		l.operator.Kill()
		l.mu.Unlock()
		done.Wait()
	})
}

// current is the operator that runs now.
func (l *lane) current() *operatortest.Operator {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.operator
}

// walk lives the scenarios again and again, each time with the operator killed
// at another write, until there is none left.
func (l *lane) walk(scenarios *walks) {
	l.Helper()
	for !l.Failed() {
		scenario, at, life, found := scenarios.next()
		if !found {
			return
		}
		var writes []crashtest.Write
		ended := false
		name := fmt.Sprintf("life-%d-%d", scenario.number, life)
		l.Run(name, func(t *testing.T) {
			own := *l.world
			own.T = t
			own.eventually("the operator is up", func() error { return leads(l.current()) })
			l.gate.Arm(at, l.kill)
			scenario.live(&own, name)
			writes, ended = l.gate.Disarm()
			if t.Failed() {
				t.Errorf("killed after %q in %s: %v", at, at.Phase, writes)
			}
		})
		scenarios.lived(scenario, at, writes, ended)
	}
}
