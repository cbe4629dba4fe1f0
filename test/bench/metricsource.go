// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/acgs/dgm-operator/test/promtest"
)

// metricSource is a real Prometheus behind a proxy that notes what it is asked.
type metricSource struct {
	*promtest.Recorder
	// file names it for an operator.
	file string
	// straight is its address past the proxy.
	straight string
}

// startMetricSource runs a Prometheus that scrapes a latency, and waits until it
// knows enough of it for a baseline.
func startMetricSource(h *harness) (*metricSource, error) {
	registry := prometheus.NewRegistry()
	random := rand.New(rand.NewPCG(1, 2))
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "latency", Help: "A latency."}, func() float64 {
		return 150 * (1 + 0.02*random.NormFloat64())
	}))
	server := promtest.Start(h, registry)
	s := &metricSource{Recorder: promtest.Record(h, server), straight: server.URL, file: filepath.Join(h.TempDir(), "sources.yaml")}
	server.Await(h, "count_over_time(latency[40s])", 70)
	return s, os.WriteFile(s.file, []byte("sources: {default: {url: '"+s.URL+"'}}"), 0o600)
}

// between are the queries of a while.
func (s *metricSource) between(from, to time.Time) (queries []promtest.Query) {
	for _, q := range s.Queries() {
		if !q.At.Before(from) && q.At.Before(to) {
			queries = append(queries, q)
		}
	}
	return queries
}

// distinct counts the queries that differ, or are asked for another time at
// which something was due.
func distinct(queries []promtest.Query) int {
	type question struct {
		form string
		turn int64
	}
	seen := map[question]struct{}{}
	for _, q := range queries {
		seen[question{q.Form, int64(q.At.Sub(q.End.Add(observedSettle)) / observedInterval)}] = struct{}{}
	}
	return len(seen)
}

// bareQueries asks Prometheus, past the proxy and a few at a time, what so many
// clients ask that do not know of one another.
func (s *metricSource) bareQueries(ctx context.Context, n int) (took, cpu time.Duration, err error) {
	before, began := readCPUTimes(), time.Now()
	end := began.Add(-observedSettle).Truncate(observedInterval)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i := range n {
		form := url.Values{
			"query": {observedQueries[i%len(observedQueries)]}, "step": {fmt.Sprint(observedInterval.Seconds())},
			"start": {fmt.Sprint(end.Add(-observedWindow).Unix())}, "end": {fmt.Sprint(end.Unix())},
		}
		group.Go(func() error { return post(ctx, s.straight+"/api/v1/query_range", form) })
	}
	err = group.Wait()
	return time.Since(began), readCPUTimes().since(before)["prometheus"], err
}

func post(ctx context.Context, address string, form url.Values) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader([]byte(form.Encode())))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode == http.StatusOK {
		return err
	}
	return fmt.Errorf("%s: %s", address, response.Status)
}
