// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// standsBy is nil when the operator lives, is not ready, and its log says why.
func standsBy(operator *operatortest.Operator, why string) error {
	select {
	case <-operator.Exited():
		return errorf("the operator ended")
	default:
	}
	if err := operator.Alive(context.Background()); err != nil {
		return errorf("it is not alive: %w", err)
	}
	if operator.Ready(context.Background()) == nil {
		return errorf("it is ready")
	}
	if !strings.Contains(operator.Log(), why) {
		return errorf("its log does not say %q", why)
	}
	return nil
}

func TestP10_StartsWithoutDatabaseAndWaitsForIt(t *testing.T) {
	w := newWorld(t)
	good, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := good.User.Password()
	wrongPassword, noDatabase, nobodyThere := *good, *good, *good
	wrongPassword.User = url.UserPassword(good.User.Username(), "not-"+password)
	noDatabase.Path = "/nowhere"
	nobodyThere.Host = unusedAddress(t)

	w.url = nobodyThere.String()
	w.operator = w.launch("replica-0", quickTakeover...)
	for _, step := range []struct{ url, why string }{
		{nobodyThere.String(), "it refuses connections"},
		{wrongPassword.String(), "password authentication failed"},
		{noDatabase.String(), `database \"nowhere\" does not exist`},
		{"no URL:" + password, "write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE"},
		{"", "is empty: write the database's URL into it"},
	} {
		w.operator.SetDatabaseURL(t, step.url)
		w.eventually("it says "+step.why, func() error { return standsBy(w.operator, step.why) })
	}
	w.url = good.String()
	w.operator.SetDatabaseURL(t, w.url)
	w.operator.WaitReady(t)
	w.eventually("the operator leads", func() error { return leads(w.operator) })
	if strings.Contains(w.operator.Log(), password) {
		t.Error("the log holds the password")
	}
}

func unusedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func TestP10_ClusterNameOfAnotherCluster(t *testing.T) {
	w := newWorld(t)
	w.lead(quickTakeover...)
	policy := w.policy("policy", "keep")
	w.create(policy)
	w.agree()
	w.operator.Kill()
	w.query(`UPDATE dgm.writer_fences SET cluster_uid = 'another'`)

	w.operator = w.launch("replica-0", quickTakeover...)
	w.eventually("it says what to do", func() error { return standsBy(w.operator, "start once with --adopt-cluster") })
	w.edit(policy, `{"spec":{"safety":{"threshold":"0.6"}}}`)
	w.eventually("the policy says it as well", func() error {
		fresh := &dgmv1alpha1.BanditPolicy{}
		if err := w.Get(context.Background(), clientKey(policy), fresh); err != nil {
			return err
		}
		return saysUnavailable(fresh.Status.Conditions, fresh.Generation, "cluster name belongs to another cluster")
	})
	w.rows("0.80", `SELECT safety_threshold::text FROM dgm.bandit_states WHERE cluster IS NOT NULL`)
	w.operator.Stop(t)

	w.lead(append(quickTakeover, "--adopt-cluster")...)
	w.agree()
}

func TestP10_RollsBackWithoutDatabase(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	w.configMap("other", map[string]string{"CACHE_TTL": "5"})
	done, waiting := w.improvement("done", "config"), w.improvement("waiting", "other")
	w.create(done)
	w.reaches(done, dgmv1alpha1.PhaseCompleted, "")
	w.agree()
	server.Stop(t)
	w.operator.Kill()
	w.operator = w.launch("replica-0", quickTakeover...)
	w.annotate(done, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(done, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if got := w.data("config")["CACHE_TTL"]; got != "5" {
		t.Errorf("CACHE_TTL is %s, want 5", got)
	}
	w.create(waiting)
	w.reaches(waiting, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonDatabaseUnavailable)
	w.eventually("it waits for the database", func() error { return standsBy(w.operator, "it refuses connections") })
	w.eventually("it says so", func() error { return unsyncedFor(w.refresh(done), dgmv1alpha1.ReasonDatabaseUnavailable) })
	server.Start(t)
	w.operator.WaitReady(t)
	w.reaches(waiting, dgmv1alpha1.PhaseCompleted, "")
	w.agree()
}

// The connection is there, but nothing comes back any more: a network that
// swallows packets, or a frozen server.
func TestP10_RollsBackWhileTheDatabaseHangs(t *testing.T) {
	w := newWorld(t)
	address, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	link := newStallingLink(t, address.Host)
	straight := w.url
	address.Host = link.Addr().String()
	w.url = address.String()
	w.lead(quickTakeover...)
	w.url = straight
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	done := w.improvement("done", "config")
	w.create(done)
	w.reaches(done, dgmv1alpha1.PhaseCompleted, "")
	w.agree()

	link.stall()
	w.annotate(done, dgmv1alpha1.AnnotationRollback, "1")
	w.reaches(done, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	w.eventually("it says that the database is away", func() error {
		return unsyncedFor(w.refresh(done), dgmv1alpha1.ReasonDatabaseUnavailable)
	})
	w.eventually("it waits for the database", func() error { return standsBy(w.operator, "it does not answer in time") })
	link.goOn()
	w.operator.WaitReady(t)
	w.agree()
}

// stallingLink passes connections on to a server and can keep back all that
// goes over them.
type stallingLink struct {
	net.Listener
	mu      sync.Mutex
	passing chan struct{} // closed while all passes
}

func newStallingLink(t *testing.T, to string) *stallingLink {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &stallingLink{Listener: listener, passing: make(chan struct{})}
	close(l.passing)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			go l.copy(near, far)
			go l.copy(far, near)
		}
	}()
	return l
}

func (l *stallingLink) copy(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		passing := l.passing
		l.mu.Unlock()
		<-passing
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (l *stallingLink) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passing = make(chan struct{})
}

func (l *stallingLink) goOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.passing)
}

func TestP10_ReadyOnlyWithTheDatabase(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	standby := w.launch("replica-1", quickTakeover...)
	for range 2 {
		for _, operator := range []*operatortest.Operator{w.operator, standby} {
			operator.WaitReady(t)
			if err := operator.Alive(context.Background()); err != nil {
				t.Error(err)
			}
		}
		server.Stop(t)
		w.eventuallyIn(20*time.Second, "leader and standby are not ready", func() error {
			for _, operator := range []*operatortest.Operator{w.operator, standby} {
				if err := standsBy(operator, ""); err != nil {
					return err
				}
			}
			return nil
		})
		server.Start(t)
	}
}
