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

	gocmp "github.com/google/go-cmp/cmp"

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
	// its own for each life; lives of one test share a namespace. The operator is
	// killed meanwhile, and started again.
	live func(w *world, name string)
	// atLeast is how many writes there surely are: fewer mean that the gate does
	// not see them.
	atLeast int
}

// lanes is how many operators are killed beside each other.
const lanes = 2

// walk is the crash points of a scenario: those that are known, and where each
// is in the order of the writes.
type walk struct {
	mu    sync.Mutex
	order []crashtest.Write
	tries map[crashtest.Write]int
	ended map[crashtest.Write]bool
	lives int
}

// maxTries is how often a write is waited for that does not come every time, since
// it depends on which of two came first.
const maxTries = 3

// next is a crash point that is still to be walked.
func (k *walk) next() (at crashtest.Write, life int, found bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, write := range k.order {
		if !k.ended[write] && k.tries[write] < maxTries {
			k.tries[write]++
			k.lives++
			return write, k.lives, true
		}
	}
	return crashtest.Write{}, 0, false
}

// lived notes what a life has written, each after what it came after.
func (k *walk) lived(at crashtest.Write, writes []crashtest.Write, ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ended {
		k.ended[at] = true
	}
	place := 0
	for _, write := range writes {
		if known := slices.Index(k.order, write); known >= 0 {
			place = max(place, known)
			continue
		}
		place++
		k.order = slices.Insert(k.order, place, write)
	}
}

// TestKilledAtEachWrite kills the operator with SIGKILL before the first and
// after each write, to the API server and to the database, of each scenario.
func TestKilledAtEachWrite(t *testing.T) {
	scenarios := []crashScenario{keptThenRolledBack(), rolledBackByItself()}
	walks := make([]*walk, len(scenarios))
	for i := range walks {
		walks[i] = &walk{order: []crashtest.Write{{}}, tries: map[crashtest.Write]int{}, ended: map[crashtest.Write]bool{}}
	}
	outer := newWorld(t)
	t.Run("lanes", func(t *testing.T) {
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				l := outer.lane(t)
				for i, scenario := range scenarios {
					l.walk(scenario, walks[i], fmt.Sprintf("life-%d", i))
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	var table strings.Builder
	for i, scenario := range scenarios {
		if points := len(walks[i].ended); points <= scenario.atLeast {
			t.Errorf("%s: %d crash points, want more than %d", scenario.name, points, scenario.atLeast)
		}
		table.WriteString(walks[i].table(scenario.name))
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
one is also before the next. An operator that is started then ends each of them as if nothing had been: the state before is back byte
for byte, the rows agree, no finalizer is left, and nothing was restarted twice.

` + "`UPDATE_GOLDEN=1 go test ./test/api -run TestKilledAtEachWrite`" + ` walks them all and writes this page.
`

func (k *walk) table(scenario string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n## %s\n\n| phase in status | killed after | outcome |\n|---|---|---|\n", scenario)
	for _, write := range k.order {
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
	own.rollsOutWithin(200 * time.Millisecond)
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

// walk lives a scenario again and again, each time with the operator killed at
// another write, until there is none left.
func (l *lane) walk(scenario crashScenario, k *walk, name string) {
	l.Helper()
	at, life, found := crashtest.Never, 0, true // the first life tells what there is
	for ; found; at, life, found = k.next() {
		l.eventually("the operator is up", func() error { return leads(l.current()) })
		l.gate.Arm(at, l.kill)
		scenario.live(l.world, fmt.Sprintf("%s-%d", name, life))
		writes, ended := l.gate.Disarm()
		if l.Failed() {
			l.Fatalf("%s, killed after %q in %s: %v", scenario.name, at, at.Phase, writes)
		}
		k.lived(at, writes, ended)
	}
}

// shopOf makes a service of its own in the lane's namespace, and an improvement
// that changes its settings and restarts it.
func (w *world) shopOf(name string, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) (ttl *dgmv1alpha1.ImprovementWorkspace, objects []string) {
	w.Helper()
	w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	w.deployment(name, "shop:1")
	w.eventually(name+" is rolled out", func() error {
		if _, seen := w.live("Deployment/" + name).Object["status"].(map[string]any)["observedGeneration"]; !seen {
			return errorf("its status is empty")
		}
		return nil
	})
	ttl = w.improvement(name, name, append([]func(*dgmv1alpha1.ImprovementWorkspace){targets(name), restarts(name, "1m")}, edits...)...)
	return ttl, []string{"ConfigMap/" + name, "Deployment/" + name}
}

// endsRolledBack checks all that a rollback promises.
func (w *world) endsRolledBack(ttl *dgmv1alpha1.ImprovementWorkspace, objects []string, before map[string]string) {
	w.Helper()
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if diff := gocmp.Diff(before, w.contents(objects)); diff != "" {
		w.Errorf("after the rollback (-before +after):\n%s", diff)
	}
	for _, object := range objects {
		if owners := w.owners(object); contains(owners, dgmv1alpha1.FieldManager+" Update") {
			w.Errorf("the operator still owns fields of %s:\n%s", object, owners)
		}
	}
	w.synced(ttl)
	w.rows("rolled_back|failed|1", stateOf, ttl.Name, w.namespace)
	w.rows("1", `SELECT count(*) FROM dgm.rollback_snapshots JOIN dgm.dgm_archive USING (improvement_id) WHERE name = $1 AND namespace = $2`, ttl.Name, w.namespace)
	w.eventually("the finalizer goes", func() error {
		if left := w.refresh(ttl).Finalizers; len(left) > 0 {
			return errorf("finalizers %v", left)
		}
		return nil
	})
}

func keptThenRolledBack() crashScenario {
	return crashScenario{name: "kept, then rolled back by a command", atLeast: 16, live: func(w *world, name string) {
		w.Helper()
		ttl, objects := w.shopOf(name)
		before := w.contents(objects)
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		if got := w.data(ttl.Name)["CACHE_TTL"]; got != "60" {
			w.Errorf("CACHE_TTL is %s, want 60", got)
		}
		w.synced(ttl)
		// One restart is one new generation; a second one would be another.
		if generation := w.live("Deployment/" + ttl.Name).GetGeneration(); generation != 2 {
			w.Errorf("the Deployment was changed %d times, want once", generation-1)
		}
		w.rows("completed|completed|1", stateOf, ttl.Name, w.namespace)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.endsRolledBack(ttl, objects, before)
		if generation := w.live("Deployment/" + ttl.Name).GetGeneration(); generation != 3 {
			w.Errorf("the Deployment was changed %d times, want twice", generation-1)
		}
	}}
}

func rolledBackByItself() crashScenario {
	return crashScenario{name: "unhealthy, and rolled back by itself", atLeast: 16, live: func(w *world, name string) {
		w.Helper()
		ttl, objects := w.shopOf(name, over(
			[2]string{"ConfigMap/" + name, `data: {CACHE_TTL: "60"}`},
			[2]string{"Deployment/" + name, `spec: {template: {spec: {containers: [{name: main, image: "shop:late"}]}}}`},
		))
		before := w.contents(objects)
		w.create(ttl)
		w.endsRolledBack(ttl, objects, before)
		w.says(w.refresh(ttl).Status.RollbackReason, dgmv1alpha1.ReasonRolloutFailed)
	}}
}
