// SPDX-License-Identifier: Apache-2.0

// Package monitoring exports what the database says of itself as Prometheus
// metrics. The leader reads it now and then; a scrape shows what was last read,
// and asks the database nothing.
package monitoring

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

const (
	// tick is how often it is looked whether a part is due.
	tick = time.Second
	// readTimeout bounds the reading of one part.
	readTimeout = 10 * time.Second
	// retry is how soon a part that could not be read is tried again.
	retry = 30 * time.Second
)

// Monitor reads the database of a store and is the collector of what it read.
// Before Start, and after it has ended, it shows nothing: only the leader knows.
type Monitor struct {
	store    *pgstore.Store
	log      logr.Logger
	failures *prometheus.CounterVec

	mu      sync.Mutex
	leading bool
	read    map[string]reading // by part; nothing for a part that could not be read
}

// reading is what a part showed and when.
type reading struct {
	at      time.Time
	metrics []prometheus.Metric
}

// New returns a monitor that is registered already.
func New(store *pgstore.Store, registry prometheus.Registerer, log logr.Logger) (*Monitor, error) {
	m := &Monitor{
		store: store, log: log, read: map[string]reading{},
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dgm_database_read_failures_total",
			Help: "How often a part of what is monitored could not be read.",
		}, []string{"part"}),
	}
	if err := registry.Register(m); err != nil {
		return nil, err
	}
	return m, registry.Register(m.failures)
}

// NeedLeaderElection says that only the leader reads: others have no session.
func (m *Monitor) NeedLeaderElection() bool { return true }

// Start reads each part when it is due, until the context ends. Parts of a
// database that is away are dropped, so that no dashboard shows old values as
// new ones, and read again as soon as it is back.
func (m *Monitor) Start(ctx context.Context) error {
	m.lead(true)
	defer m.lead(false)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	due := map[string]time.Time{}
	for {
		if m.store.Ready() != nil {
			m.forget()
			clear(due)
		} else {
			m.readDue(ctx, due)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (m *Monitor) readDue(ctx context.Context, due map[string]time.Time) {
	for _, p := range parts() {
		if ctx.Err() != nil || time.Now().Before(due[p.name]) {
			continue
		}
		wait := p.every
		if !m.readPart(ctx, p) {
			wait = min(wait, retry)
		}
		due[p.name] = time.Now().Add(wait)
	}
}

// readPart reports whether it could be read. A failure is counted, and logged the first time.
func (m *Monitor) readPart(ctx context.Context, p part) bool {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var s series
	err := p.read(ctx, m.store, &s)
	m.mu.Lock()
	_, worked := m.read[p.name]
	if err != nil {
		delete(m.read, p.name)
	} else {
		m.read[p.name] = reading{at: time.Now(), metrics: s.metrics}
	}
	m.mu.Unlock()
	if err != nil {
		m.failures.WithLabelValues(p.name).Inc()
		if worked {
			m.log.Error(err, "Cannot read what the database says of itself", "part", p.name)
		}
	}
	return err == nil
}

func (m *Monitor) lead(leading bool) {
	m.forget()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading = leading
}

func (m *Monitor) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.read)
}

// Describe says nothing beforehand: which series there are is up to the database.
func (m *Monitor) Describe(chan<- *prometheus.Desc) {}

// Collect shows what was last read.
func (m *Monitor) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.leading {
		return
	}
	var s series
	s.set(databaseUp, truth(m.store.Ready() == nil))
	showSettings(m.store.Settings(), &s)
	showDrift(m.store.SchemaDrift(), &s)
	showReplica(m.store.AnalyticsReplica(), &s)
	for name, r := range m.read {
		s.set(databaseRead, float64(r.at.Unix()), name)
		s.metrics = append(s.metrics, r.metrics...)
	}
	for _, metric := range s.metrics {
		out <- metric
	}
}
