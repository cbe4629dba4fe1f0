// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/test/promtest"
)

func TestARealPrometheusAnswers(t *testing.T) {
	latency := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "latency", Help: "A latency."}, []string{"pod"})
	registry := prometheus.NewRegistry()
	registry.MustRegister(latency)
	latency.WithLabelValues("a").Set(150)
	latency.WithLabelValues("b").Set(250)
	server := promtest.Start(t, registry)
	source := serversOf(t, "sources: {default: {url: '"+server.URL+"'}}").Source("default")
	ask := func(query string) ([]analysis.Sample, error) {
		end := time.Now().Truncate(time.Second)
		return source(context.Background(), analysis.Question{Query: query, Start: end.Add(-3 * time.Second).UnixNano(), End: end.UnixNano(), Step: time.Second})
	}

	deadline := time.Now().Add(20 * time.Second)
	samples, err := ask("max(latency)")
	for ; err != nil && time.Now().Before(deadline); samples, err = ask("max(latency)") {
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil || len(samples) < 2 || samples[len(samples)-1].Value != 250 {
		t.Fatalf("%v, %v", samples, err)
	}
	if gap := samples[1].At.Sub(samples[0].At); gap != time.Second {
		t.Errorf("the points are %s apart", gap)
	}
	if number, err := ask("42"); err != nil || len(number) != 4 || number[0].Value != 42 {
		t.Errorf("a number: %v, %v", number, err)
	}
	for query, reason := range map[string]string{
		"latency": "several series", "no_such_metric": "answers nothing", "sum(": "parse error", "latency[5m]": "invalid expression type",
	} {
		if _, err := ask(query); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %q", query, err, reason)
		}
	}
	server.Stop()
	if _, err := ask("42"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("when it is away: %v", err)
	}
}
