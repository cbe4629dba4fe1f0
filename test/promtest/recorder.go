// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Query is a range query that was asked.
type Query struct {
	// Form is all of it, so that equal ones are equal.
	Form string
	// End is the end of its window.
	End time.Time
	// At is when it was asked.
	At time.Time
}

// Recorder is a proxy before a Prometheus that notes what is asked.
type Recorder struct {
	// URL is its address.
	URL string

	delay   atomic.Int64
	mu      sync.Mutex
	queries []Query
}

// Record starts a proxy before a Prometheus. It ends with the test.
func Record(t TB, server *Server) *Recorder {
	t.Helper()
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatalf("promtest: %v", err)
	}
	r := &Recorder{}
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.note(request)
		time.Sleep(time.Duration(r.delay.Load()))
		forward.ServeHTTP(w, request)
	}))
	t.Cleanup(proxy.Close)
	r.URL = proxy.URL
	return r
}

// SetDelay has each answer take at least as long from now on.
func (r *Recorder) SetDelay(d time.Duration) { r.delay.Store(int64(d)) }

// note takes what is no range query for none.
func (r *Recorder) note(request *http.Request) {
	at := time.Now()
	body, err := io.ReadAll(request.Body)
	request.Body = io.NopCloser(bytes.NewReader(body))
	form, formErr := url.ParseQuery(string(body))
	end, endErr := strconv.ParseFloat(form.Get("end"), 64)
	if err != nil || formErr != nil || endErr != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queries = append(r.queries, Query{Form: form.Encode(), End: time.UnixMilli(int64(end * 1000)), At: at})
}

// Queries are those of so far, in their order.
func (r *Recorder) Queries() []Query {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.queries)
}
