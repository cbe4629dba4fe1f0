// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// observing is what measureObserving works with.
type observing struct {
	*harness
	o        options
	admin    client.Client
	database string
	metrics  string // address of the operator's own
	source   *metricSource
	operator *operatortest.Operator
	alive    context.Context // ends with the operator
	running  *tenants        // improvements that are observed
	ended    *tenants        // and those that have ended
}

// few is how many improvements the cost of many is compared with.
const few = 10

// measureObserving measures an operator under which many improvements are
// observed, beside many that have ended: while nothing new comes of it, after a
// restart, and once all have ended. All of them went through the operator.
func measureObserving(h *harness, o options) ([]result, error) {
	b := &observing{harness: h, o: o}
	if err := b.begin(); err != nil {
		return nil, err
	}
	var results []result
	for _, measure := range []func() ([]result, error){b.grow, b.steady, b.restarted, b.rest} {
		found, err := measure()
		if cause := context.Cause(b.alive); err != nil && cause != nil {
			err = cause
		}
		if err != nil {
			return nil, fmt.Errorf("%w; the operator's log ends:\n%s", err, b.operator.LogTail())
		}
		results = append(results, found...)
	}
	b.operator.Stop(h)
	return results, nil
}

func (b *observing) begin() error {
	c, err := newClient(b.harness)
	if err != nil {
		return err
	}
	config := rest.CopyConfig(kubetest.Start(b.harness))
	if b.admin, err = client.New(config, client.Options{Scheme: c.Scheme()}); err != nil {
		return err
	}
	if b.source, err = startMetricSource(b.harness); err != nil {
		return err
	}
	if b.running, err = newTenants(b.harness, b.admin, b.o.observing); err != nil {
		return err
	}
	if b.ended, err = newTenants(b.harness, b.admin, b.o.terminal); err != nil {
		return err
	}
	b.database = b.harness.database()
	b.start()
	return b.setMaxConcurrent(2 * b.o.observing)
}

// start starts the operator, and waits until it is ready.
func (b *observing) start() {
	address := freeAddress(b.harness)
	b.metrics = "http://" + address + "/metrics"
	o := b.o
	o.managerArgs += " --metrics-secure=false --metrics-bind-address=" + address + " --metric-sources-file=" + b.source.file
	b.operator = startOperator(b.harness, b.database, o)
	var cancel context.CancelCauseFunc
	b.alive, cancel = whileRunning(b.ctx, b.operator)
	b.Cleanup(func() { cancel(nil) })
	b.operator.WaitReady(b.harness)
}

func (b *observing) setMaxConcurrent(n int) error {
	value := fmt.Sprint(n)
	object := &dgmv1alpha1.SystemConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "max-concurrent-improvements"},
		Spec:       dgmv1alpha1.SystemConfigurationSpec{Key: "max_concurrent_improvements", Value: &value},
	}
	if err := b.admin.Create(b.ctx, object); err != nil {
		return err
	}
	b.Cleanup(func() { _ = b.admin.Delete(context.Background(), object) })
	return nil
}

// grow has a few improvements observed, then many beside many that have ended,
// and compares the goroutines.
func (b *observing) grow() ([]result, error) {
	if err := b.observe(0, few); err != nil {
		return nil, err
	}
	early, err := b.goroutines()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := b.ended.create(b.alive, b.o.clients, 0, b.o.terminal, dryRun); err != nil {
		return nil, err
	}
	if err := b.ended.await(b.alive, dgmv1alpha1.PhaseCompleted, b.o.terminal); err != nil {
		return nil, err
	}
	b.progress("observing: %d dry runs have ended after %.0f s", b.o.terminal, time.Since(began).Seconds())
	began = time.Now()
	if err := b.observe(few, b.o.observing); err != nil {
		return nil, err
	}
	took := time.Since(began)
	b.progress("observing: %d improvements are observed after %.0f s", b.o.observing, took.Seconds())
	late, err := b.goroutines()
	if err != nil {
		return nil, err
	}
	most := 20.0
	return []result{
		{name: "observing: improvements applied", value: float64(b.o.observing-few) / took.Seconds(), unit: "/s", digits: 1, detail: "from created to Observing, and in the database"},
		{name: "observing: more goroutines than for 10", value: late - early, unit: "goroutines", atMost: &most,
			detail: fmt.Sprintf("%.0f for %d observed and none ended, %.0f for %d and %d", early, few, late, b.o.observing, b.o.terminal)},
	}, nil
}

func (b *observing) observe(first, end int) error {
	if err := b.running.create(b.alive, b.o.clients, first, end, observed); err != nil {
		return err
	}
	return b.running.await(b.alive, dgmv1alpha1.PhaseObserving, end)
}

// goroutines of the operator: the least of some looks, since each question and
// each request has some for a moment.
func (b *observing) goroutines() (float64, error) {
	least := math.Inf(1)
	for range 20 {
		families, err := scrape(b.ctx, b.metrics)
		if err != nil {
			return 0, err
		}
		least = min(least, families["go_goroutines"].GetMetric()[0].GetGauge().GetValue())
		if err := sleep(b.alive, 250*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return least, nil
}

// state is what is counted of everybody.
type state struct {
	at            time.Time
	writes, reads requests
	rows          requests
	wal           int64
	transactions  float64
	cpu           time.Duration
	reconciles    float64
	queued        histogram
}

// look counts, what it costs itself last or not at all.
func (b *observing) look() (state, error) {
	s := state{cpu: cpuTime(b.operator.Pid())}
	var err error
	config := kubetest.Start(b.harness)
	if s.writes, err = writesOf(b.ctx, config); err != nil {
		return s, err
	}
	if s.reads, err = requestsOf(b.ctx, config, readVerbs); err != nil {
		return s, err
	}
	if s.rows, s.wal, err = rowChanges(b.ctx, b.database); err != nil {
		return s, err
	}
	if s.transactions, err = transactions(b.ctx, b.database); err != nil {
		return s, err
	}
	if s.reconciles, _, err = reconciled(b.ctx, b.metrics); err != nil {
		return s, err
	}
	families, err := scrape(b.ctx, b.metrics)
	if err != nil {
		return s, err
	}
	s.queued, s.at = queueTimes(families), time.Now()
	return s, nil
}

// transactions counts those that were ever committed in a database.
func transactions(ctx context.Context, database string) (n float64, err error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, `SELECT xact_commit::float8 FROM pg_stat_database WHERE datname = current_database()`).Scan(&n)
	return n, err
}

// between looks before and after a while.
func (b *observing) between(length time.Duration) (before, after state, err error) {
	if before, err = b.look(); err != nil {
		return before, after, err
	}
	if err := sleep(b.alive, length); err != nil {
		return before, after, err
	}
	after, err = b.look()
	return before, after, err
}

// ofAggregation are the tables that a chore of the leader writes, up to some
// minutes after the last sample was recorded.
var ofAggregation = []string{"aggregation_pending", "aggregation_state", "metric_rollups"}

// nothingWritten says that in a while nothing was written.
func nothingWritten(name string, before, after state) []result {
	none := 0.0
	apiWrites, apiList := after.writes.since(before.writes)
	changes, rowList := after.rows.since(before.rows)
	span := after.at.Sub(before.at).Round(time.Second)
	return []result{
		{name: name + ": API writes", value: apiWrites, unit: "writes", atMost: &none, detail: fmt.Sprintf("%s in %s", orNone(apiList), span)},
		{name: name + ": row changes", value: changes, unit: "rows", atMost: &none, detail: fmt.Sprintf("%s; the write-ahead log grew by %d bytes", orNone(rowList), after.wal-before.wal)},
	}
}

// observedFor is how long the steady state is measured: some intervals.
const observedFor = 5 * observedInterval

// steady measures while all are observed and ask, and nothing new comes of it.
func (b *observing) steady() ([]result, error) {
	items, err := b.running.all(b.ctx)
	if err != nil {
		return nil, err
	}
	from, _ := quiet(items, observedFor)
	b.progress("observing: no window grows in %s from %s on", observedFor, from.Format(time.TimeOnly))
	if err := sleep(b.alive, time.Until(from)); err != nil {
		return nil, err
	}
	before, after, err := b.between(observedFor)
	if err != nil {
		return nil, err
	}
	peak, resident, err := memory(b.operator.Pid())
	if err != nil {
		return nil, err
	}
	for _, table := range ofAggregation { // the samples of the growth before
		delete(after.rows, table)
	}
	queries := b.source.between(before.at, after.at)
	asked := float64(b.o.observing*len(observedQueries)) * after.at.Sub(before.at).Seconds() / observedInterval.Seconds()
	bareTook, bareCPU, err := b.source.bareQueries(b.ctx, b.o.observing*len(observedQueries))
	if err != nil {
		return nil, err
	}
	intervals := after.at.Sub(before.at).Seconds() / observedInterval.Seconds()
	reconciles := after.reconciles - before.reconciles
	cpu := (after.cpu - before.cpu).Seconds()
	reads, readList := after.reads.since(before.reads)
	queued := after.queued.since(before.queued)
	once, cost, memoryMost, lateMost, fresh := 1.05, 3.0, 400.0, 1000.0, 1.0
	return append([]result{
		{name: "observing: queries for each question that differs", value: float64(len(queries)) / float64(max(1, distinct(queries))), atMost: &once,
			detail: fmt.Sprintf("%d queries for %.0f questions that improvements had in %.0f s: 1 for %.0f", len(queries), asked, after.at.Sub(before.at).Seconds(), asked/float64(max(1, len(queries))))},
		{name: "observing: part of the questions of an interval that is queried", value: float64(len(queries)) / asked, atMost: &fresh, digits: 3,
			detail: fmt.Sprintf("all of one interval, by bare clients: %.1f s, %.1f s of Prometheus' CPU", bareTook.Seconds(), bareCPU.Seconds())},
		{name: "observing: late at 99 of 100", value: 1000 * queued.quantile(0.99), unit: "ms", atMost: &lateMost,
			detail: fmt.Sprintf("at most, of what waits for a worker; mean %.1f ms", 1000*queued.mean())},
		{name: "observing: CPU time", value: 100 * cpu / after.at.Sub(before.at).Seconds(), unit: "% of a core", digits: 1,
			detail: fmt.Sprintf("%.0f reconciles/s", reconciles/after.at.Sub(before.at).Seconds())},
		{name: "observing: reconciles of an improvement in an interval", value: reconciles / intervals / float64(b.o.observing), atMost: &cost,
			detail: fmt.Sprintf("%.2f ms of CPU each; API reads: %.3f (%s), database transactions: %.2f, in an interval for each", 1000*cpu/reconciles,
				reads/intervals/float64(b.o.observing), orNone(readList), (after.transactions-before.transactions)/intervals/float64(b.o.observing))},
		{name: "observing: memory", value: peak, unit: "MiB", atMost: &memoryMost, detail: fmt.Sprintf("peak resident since the start; %.0f MiB now", resident)},
	}, nothingWritten("observing", before, after)...), nil
}

// restarted measures a restart of the operator: it looks at every object once.
func (b *observing) restarted() ([]result, error) {
	b.operator.Stop(b.harness)
	began := time.Now()
	b.start()
	objects := float64(b.o.observing + b.o.terminal)
	for deadline := time.Now().Add(syncTimeout); ; {
		done, waiting, err := reconciled(b.ctx, b.metrics)
		if err != nil {
			return nil, err
		}
		if done >= objects && waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%.0f reconciles of %.0f objects after %s, and %.0f wait", done, objects, syncTimeout, waiting)
		}
		if err := sleep(b.alive, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	took := time.Since(began)
	peak, resident, err := memory(b.operator.Pid())
	memoryMost := 300.0
	return []result{
		{name: "observing: restart", value: took.Seconds(), unit: "s", digits: 1,
			detail: fmt.Sprintf("until each of %.0f objects was looked at once, with %.1f s of CPU", objects, cpuTime(b.operator.Pid()).Seconds())},
		{name: "observing: memory after a restart", value: peak, unit: "MiB", atMost: &memoryMost, detail: fmt.Sprintf("peak resident; %.0f MiB then", resident)},
	}, err
}

// rest ends all that is observed, and measures once everything rests.
func (b *observing) rest() ([]result, error) {
	items, err := b.running.all(b.ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	abort := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"`+dgmv1alpha1.AnnotationAbort+`":"1"}}}`))
	if err := each(b.alive, b.o.clients, len(items), func(ctx context.Context, i int) error {
		return b.admin.Patch(ctx, &items[i], abort)
	}); err != nil {
		return nil, err
	}
	if err := b.running.await(b.alive, dgmv1alpha1.PhaseRolledBack, b.o.observing); err != nil {
		return nil, err
	}
	took := time.Since(began)
	b.progress("observing: %d improvements are rolled back after %.0f s", b.o.observing, took.Seconds())
	before, after, err := b.settled()
	if err != nil {
		return nil, err
	}
	_, resident, err := memory(b.operator.Pid())
	seconds, none := after.at.Sub(before.at).Seconds(), 0.0
	reads, readList := after.reads.since(before.reads)
	return append([]result{
		{name: "observing: improvements rolled back", value: float64(b.o.observing) / took.Seconds(), unit: "/s", digits: 1, detail: "from the abort, until it is in the database"},
		{name: "at rest: reconciles", value: after.reconciles - before.reconciles, unit: "reconciles",
			detail: fmt.Sprintf("in %.0f s; %.2f %% of a core; %.0f API reads (%s), %.0f database transactions; %.0f MiB resident", seconds,
				100*(after.cpu-before.cpu).Seconds()/seconds, reads, orNone(readList), after.transactions-before.transactions, resident)},
		{name: "at rest: write-ahead log", value: float64(after.wal - before.wal), unit: "bytes", atMost: &none},
	}, nothingWritten("at rest", before, after)...), err
}

// settled measures for a while in which the chores that follow a change, such as
// the aggregation of the samples, have nothing left to do.
func (b *observing) settled() (before, after state, err error) {
	const longest, calm = 10 * time.Minute, 65 * time.Second
	for deadline := time.Now().Add(longest); ; {
		before, after, err = b.between(calm)
		if err != nil || before.wal == after.wal || time.Now().After(deadline) {
			return before, after, err
		}
	}
}

// histogram is one of Prometheus.
type histogram struct {
	sum, count float64
	buckets    []bucket
}

type bucket struct{ atMost, count float64 }

// queueTimes is how long improvements that were due have waited for a worker.
func queueTimes(families map[string]*dto.MetricFamily) (h histogram) {
	for _, m := range families["workqueue_queue_duration_seconds"].GetMetric() {
		if !strings.HasPrefix(labelsOf(m)["name"], "improvementworkspace") {
			continue
		}
		h.sum, h.count = m.GetHistogram().GetSampleSum(), float64(m.GetHistogram().GetSampleCount())
		for _, b := range m.GetHistogram().GetBucket() {
			h.buckets = append(h.buckets, bucket{b.GetUpperBound(), float64(b.GetCumulativeCount())})
		}
	}
	return h
}

func (h histogram) since(earlier histogram) histogram {
	more := histogram{sum: h.sum - earlier.sum, count: h.count - earlier.count}
	for i, b := range h.buckets {
		if i < len(earlier.buckets) {
			b.count -= earlier.buckets[i].count
		}
		more.buckets = append(more.buckets, b)
	}
	return more
}

func (h histogram) mean() float64 { return h.sum / max(1, h.count) }

// quantile is the upper end of the bucket that it lies in.
func (h histogram) quantile(q float64) float64 {
	for _, b := range h.buckets {
		if b.count >= q*h.count {
			return b.atMost
		}
	}
	return math.Inf(1)
}
