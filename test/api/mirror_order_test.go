// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

func (w *world) epoch() int {
	w.Helper()
	epoch, err := strconv.Atoi(w.query(`SELECT epoch FROM dgm.writer_fences WHERE cluster = 'test'`))
	if err != nil {
		w.Fatal(err)
	}
	return epoch
}

// busy has clients create and edit objects until the test calls wait.
func (w *world) busy(objects int) (wait func()) {
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	w.Logf("seed %d", seed)
	var wg sync.WaitGroup
	wg.Go(func() { inParallel(4, objects, func(i int) { w.liveOneLife(i, seed) }) })
	return wg.Wait
}

func TestP4_TheOtherReplicaTakesOver(t *testing.T) {
	w := newWorld(t)
	w.lead(quickTakeover...)
	check := w.watchOrder(t)
	defer w.watchTruth()()
	other := w.launch("replica-1", quickTakeover...)
	other.WaitReady(t)
	if leads(other) == nil {
		t.Fatal("both replicas lead")
	}
	wait := w.busy(40)
	first := w.epoch()
	time.Sleep(time.Second)
	w.operator.Kill()
	w.operator = other
	w.eventually("the other replica leads", func() error { return leads(other) })
	if second := w.epoch(); second <= first {
		t.Errorf("the epoch of the second leader is %d, that of the first was %d", second, first)
	}
	wait()
	w.agree()
	check()
}

// The leader freezes in the middle of a transaction, with the fence locked.
func TestP4_DeposedLeaderWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.lead(quickTakeover...)
	check := w.watchOrder(t)
	defer w.watchTruth()()
	wait := w.busy(40)
	deposed := w.operator
	first := w.epoch()
	w.query(slowSQL)
	w.create(w.improvement("slow", "config", suspended))
	w.rows("1", `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)
	if err := deposed.Pause(); err != nil {
		t.Fatal(err)
	}
	w.lead(quickTakeover...)
	if err := deposed.Continue(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-deposed.Exited():
	case <-time.After(30 * time.Second):
		t.Errorf("the deposed leader goes on; its log ends:\n%s", deposed.LogTail())
	}
	wait()
	w.agree()
	check()
	if second := w.epoch(); second <= first {
		t.Errorf("the epoch of the second leader is %d, that of the first was %d", second, first)
	}
}

const slowSQL = `DO $do$ BEGIN
CREATE FUNCTION public.sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
CREATE TRIGGER sleep BEFORE INSERT ON dgm.dgm_archive FOR EACH ROW WHEN (NEW.name = 'slow') EXECUTE FUNCTION public.sleep();
END $do$`

func TestP4_AStaleCacheMirrorsNothingOlder(t *testing.T) {
	w := newWorld(t)
	server := newStallingProxy(t, operatortest.ClusterConfig(t))
	w.operator = operatortest.Start(t, operatortest.Options{
		DatabaseURL: w.url, Cluster: server.config(), Args: []string{"--resync-interval=200ms", "--lease-duration=10s"},
	})
	w.eventually("the operator leads", func() error { return leads(w.operator) })
	check := w.watchOrder(t)
	var objects []*dgmv1alpha1.ImprovementWorkspace
	for i := range 12 {
		name := fmt.Sprintf("stale-%d", i)
		w.configMap(name, map[string]string{"CACHE_TTL": "5"})
		objects = append(objects, w.improvement(name, name))
		w.create(objects[i])
		time.Sleep(50 * time.Millisecond) // so that the stall finds them in every phase
	}
	for range 3 {
		server.stall()
		time.Sleep(700 * time.Millisecond) // several resyncs over what is stale
		server.goOn()
		time.Sleep(100 * time.Millisecond)
	}
	for _, object := range objects {
		w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
	}
	server.stall()
	time.Sleep(700 * time.Millisecond)
	server.goOn()
	for _, object := range objects {
		w.reaches(object, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	}
	w.agree()
	check()
}

// stallingProxy stands between an operator and the API server and can keep what
// its watches deliver back, so that its cache falls behind.
type stallingProxy struct {
	*httptest.Server
	mu      sync.Mutex
	passing chan struct{} // closed while the watches pass
}

func newStallingProxy(t *testing.T, config *rest.Config) *stallingProxy {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := &stallingProxy{passing: make(chan struct{})}
	close(p.passing)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ModifyResponse: func(response *http.Response) error {
			if watch := response.Request.URL.Query().Get("watch"); watch == "true" || watch == "1" {
				response.Body = &stallingBody{ReadCloser: response.Body, proxy: p}
			}
			return nil
		},
	}
	p.Server = httptest.NewServer(proxy)
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

func (p *stallingProxy) config() *rest.Config { return &rest.Config{Host: p.URL} }

func (p *stallingProxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passing = make(chan struct{})
}

func (p *stallingProxy) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.passing)
}

type stallingBody struct {
	io.ReadCloser
	proxy *stallingProxy
}

func (b *stallingBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	b.proxy.mu.Lock()
	passing := b.proxy.passing
	b.proxy.mu.Unlock()
	<-passing
	return n, err
}
