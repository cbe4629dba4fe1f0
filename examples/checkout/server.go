// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	registry         *prometheus.Registry
	duration         *prometheus.HistogramVec
	cacheRequests    *prometheus.CounterVec
	cacheTTL         prometheus.Gauge
	settingsRejected prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "checkout_request_duration_seconds", Help: "Time to answer a request for a product list.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .125, .15, .2, .5, 1},
		}, []string{"code"}),
		cacheRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "checkout_cache_requests_total", Help: "Product lists served, by whether the cache had them (hit, miss).",
		}, []string{"result"}),
		cacheTTL: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "checkout_cache_ttl_seconds", Help: "The CACHE_TTL in effect.",
		}),
		settingsRejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "checkout_settings_rejected_total", Help: "Invalid settings seen; the last valid ones stayed in effect.",
		}),
	}
	m.registry.MustRegister(m.duration, m.cacheRequests, m.cacheTTL, m.settingsRejected,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func newHandler(c *catalog, settings *watcher, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /products", promhttp.InstrumentHandlerDuration(m.duration, productsHandler(c, settings, m)))
	mux.HandleFunc("GET /settings", settingsHandler(settings))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

func productsHandler(c *catalog, settings *watcher, m *metrics) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		category := 0
		if text := r.URL.Query().Get("category"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 || n >= categories {
				http.Error(w, fmt.Sprintf("category is %q; want 0 to %d", text, categories-1), http.StatusBadRequest)
				return
			}
			category = n
		}
		products, hit := c.products(category, settings.state().settings.CacheTTL)
		result := "miss"
		if hit {
			result = "hit"
		}
		m.cacheRequests.WithLabelValues(result).Inc()
		w.Header().Set("X-Cache", result)
		writeJSON(w, products)
	}
}

func settingsHandler(settings *watcher) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s := settings.state()
		writeJSON(w, struct {
			CacheTTLSeconds int    `json:"cacheTTLSeconds"`
			Rejected        string `json:"rejected,omitempty"`
		}{int(s.settings.CacheTTL / time.Second), s.rejected})
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
