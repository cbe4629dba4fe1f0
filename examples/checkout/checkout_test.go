// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func writeTTL(t *testing.T, dir, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "CACHE_TTL"), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

func quietWatcher(dir string) *watcher {
	return newWatcher(dir, newMetrics(), slog.New(slog.DiscardHandler))
}

func TestSettingsAreValidated(t *testing.T) {
	for value, want := range map[string]time.Duration{"0": 0, "60": time.Minute, "3600\n": time.Hour} {
		dir := t.TempDir()
		writeTTL(t, dir, value)
		if got, err := readSettings(dir); err != nil || got.CacheTTL != want {
			t.Errorf("%q: %v, %v; want %v", value, got.CacheTTL, err, want)
		}
	}
	for _, value := range []string{"", "-1", "3601", "60s", "1.5", "NaN"} {
		dir := t.TempDir()
		writeTTL(t, dir, value)
		if got, err := readSettings(dir); err == nil || !strings.Contains(err.Error(), "CACHE_TTL") {
			t.Errorf("%q: %v, %v; want an error that names CACHE_TTL", value, got, err)
		}
	}
	if got, err := readSettings(t.TempDir()); err != nil || got.CacheTTL != defaultCacheTTL {
		t.Errorf("no file: %v, %v; want the default", got, err)
	}
}

func TestBadSettingsLeaveTheLastValidOnes(t *testing.T) {
	dir := t.TempDir()
	writeTTL(t, dir, "60")
	w := quietWatcher(dir)
	writeTTL(t, dir, "soon")
	w.poll()
	w.poll()
	if s := w.state(); s.settings.CacheTTL != time.Minute || !strings.Contains(s.rejected, `"soon"`) {
		t.Errorf("after a bad value: %+v; want 60 s and the reason", s)
	}
	if n := testutil.ToFloat64(w.metrics.settingsRejected); n != 1 {
		t.Errorf("rejected %v times; one bad value counts once", n)
	}
	writeTTL(t, dir, "7")
	w.poll()
	if s := w.state(); s.settings.CacheTTL != 7*time.Second || s.rejected != "" {
		t.Errorf("after a good value: %+v; want 7 s", s)
	}
	if ttl := testutil.ToFloat64(w.metrics.cacheTTL); ttl != 7 {
		t.Errorf("gauge says %v; want 7", ttl)
	}
}

func TestSettingsAreFollowedWithoutRestart(t *testing.T) {
	dir := t.TempDir()
	w := quietWatcher(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go w.follow(ctx, time.Millisecond)
	writeTTL(t, dir, "42")
	for deadline := time.Now().Add(10 * time.Second); w.state().settings.CacheTTL != 42*time.Second; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still %v after 10 s", w.state().settings)
		}
	}
}

func TestCatalogComputesOncePerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := newCatalog(func(category int) []Product { calls++; return slowBackend(category) })
		ask := func(ttl time.Duration, wantHit bool, wantTime time.Duration) {
			t.Helper()
			start := time.Now()
			products, hit := c.products(3, ttl)
			if took := time.Since(start); hit != wantHit || took != wantTime || len(products) != 20 {
				t.Errorf("hit %v in %v with %d products; want hit %v in %v with 20", hit, took, len(products), wantHit, wantTime)
			}
		}
		ask(5*time.Second, false, backendTime)
		ask(5*time.Second, true, 0)
		time.Sleep(5 * time.Second)
		ask(time.Minute, true, 0) // a longer ttl counts at once
		ask(5*time.Second, false, backendTime)
		ask(0, false, backendTime)
		if calls != 3 {
			t.Errorf("the backend was asked %d times; want 3", calls)
		}
	})
}

func TestSimultaneousMissesComputeOnce(t *testing.T) {
	var calls atomic.Int32
	c := newCatalog(func(int) []Product {
		calls.Add(1)
		time.Sleep(20 * time.Millisecond)
		return []Product{{Name: "a", Cents: 1}}
	})
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() { c.products(0, time.Minute) })
	}
	wait.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("the backend was asked %d times; want 1", n)
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx // a test server
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestLoadSeesTheCache(t *testing.T) {
	dir := t.TempDir()
	w := quietWatcher(dir)
	server := httptest.NewServer(newHandler(newCatalog(func(int) []Product {
		time.Sleep(20 * time.Millisecond)
		return []Product{{Name: "a", Cents: 1}}
	}), w, w.metrics))
	defer server.Close()
	measure := func() summary {
		return send(t.Context(), server.Client(), server.URL+"/products", 200, 500*time.Millisecond)
	}

	writeTTL(t, dir, "0")
	w.poll()
	slow := measure()
	writeTTL(t, dir, "60")
	w.poll()
	measure()
	fast := measure()
	if slow.hits != 0 || slow.quantile(.5) < 20*time.Millisecond {
		t.Errorf("without a cache: %s; want no hits and at least 20 ms", slow)
	}
	if fast.requests == 0 || fast.errors != 0 || fast.hits != fast.requests || fast.mean() >= slow.mean() {
		t.Errorf("with a cache: %s; want hits only and less than %v", fast, slow.mean())
	}

	_, body := get(t, server.URL+"/metrics")
	for _, metric := range []string{
		`checkout_request_duration_seconds_count{code="200"}`, `checkout_cache_requests_total{result="hit"}`,
		`checkout_cache_requests_total{result="miss"}`, "checkout_cache_ttl_seconds 60",
	} {
		if !strings.Contains(body, metric) {
			t.Errorf("/metrics lacks %s", metric)
		}
	}
	if _, body := get(t, server.URL+"/settings"); body != `{"cacheTTLSeconds":60}`+"\n" {
		t.Errorf("/settings says %s", body)
	}
	if status, body := get(t, server.URL+"/products?category=8"); status != http.StatusBadRequest || !strings.Contains(body, "0 to 7") {
		t.Errorf("category 8: %d %s", status, body)
	}
	if status, _ := get(t, server.URL+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
}

func TestQuantiles(t *testing.T) {
	s := summary{times: []time.Duration{1, 2, 3, 4}}
	for q, want := range map[float64]time.Duration{0: 1, .25: 1, .5: 2, .95: 4, 1: 4} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v: %d; want %d", q, got, want)
		}
	}
	if (summary{}).quantile(.5) != 0 || (summary{}).mean() != 0 {
		t.Error("an empty summary has no times")
	}
}
