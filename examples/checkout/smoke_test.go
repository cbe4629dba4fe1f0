// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSmokeWritesResultsAndJudges(t *testing.T) {
	dir := t.TempDir()
	w := quietWatcher(dir)
	writeTTL(t, dir, "0")
	w.poll()
	server := httptest.NewServer(newHandler(newCatalog(func(int) []Product {
		time.Sleep(20 * time.Millisecond)
		return nil
	}), w, w.metrics))
	defer server.Close()
	file := filepath.Join(dir, "termination-log")
	run := func(args ...string) (results, error) {
		failed := smoke(t.Context(), append([]string{"-url", server.URL + "/products", "-rate", "100", "-duration", "300ms", "-results", file}, args...))
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r results
		if err := json.Unmarshal(content, &r); err != nil {
			t.Fatalf("%s: %v", content, err)
		}
		return r, failed
	}

	r, err := run("-max-p99", "5s")
	if err != nil || r.Requests == 0 || r.Errors != 0 || r.P50 < 20 || r.P99 < r.P50 || r.HitRatio != 0 {
		t.Errorf("%+v, %v; want at least 20 ms and no error", r, err)
	}
	if r, err = run("-max-p50", "1ms"); err == nil || !strings.Contains(err.Error(), "p50 is") || r.Requests == 0 {
		t.Errorf("%+v, %v; want results, and an error that names the p50", r, err)
	}
	server.Close()
	if r, err = run(); err == nil || r.Errors != r.Requests {
		t.Errorf("%+v, %v; want errors only", r, err)
	}
}
