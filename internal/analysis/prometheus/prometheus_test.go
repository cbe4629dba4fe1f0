// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/acgs/dgm-operator/internal/analysis"
)

func write(t *testing.T, file, content string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serversOf are the servers of a file with this content.
func serversOf(t *testing.T, content string) *Servers {
	t.Helper()
	servers, err := Open(write(t, filepath.Join(t.TempDir(), "sources.yaml"), content), logr.Discard(), clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	return servers
}

func minuteOf(query string) analysis.Question {
	end := time.Unix(1_700_000_060, 0)
	return analysis.Question{Query: query, Start: end.Add(-time.Minute).UnixNano(), End: end.UnixNano(), Step: 10 * time.Second}
}

// matrix is an answer with one series of so many points from the start of minuteOf.
func matrix(points int, value string) string {
	values := make([]string, points)
	for i := range values {
		values[i] = fmt.Sprintf(`[%d,%q]`, 1_700_000_000+10*i, value)
	}
	return fmt.Sprintf(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[%s]}]}}`, strings.Join(values, ","))
}

func TestEveryBadAnswerIsNoDataWithAReason(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		reason string
	}{
		{"good", 200, matrix(7, "1.5"), ""},
		{"NaN among them", 200, strings.Replace(matrix(7, "1"), `"1"`, `"NaN"`, 3), ""},
		{"mostly NaN", 200, strings.Replace(matrix(7, "1"), `"1"`, `"NaN"`, 4), "3 of the 7 points of the window (and 4 that are no numbers)"},
		{"one gap", 200, matrix(6, "1"), ""},
		{"clock gaps", 200, matrix(3, "1"), "3 of the 7 points"},
		{"no series", 200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, "answers nothing"},
		{"several series", 200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"1"},"values":[]},{"metric":{"a":"2"},"values":[]}]},"warnings":["results truncated due to limit"]}`, "several series"},
		{"a vector", 200, `{"status":"success","data":{"resultType":"vector","result":[]}}`, "vector"},
		{"histograms", 200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"histograms":[[1700000000,{"count":"1","sum":"1","buckets":[]}]]}]}}`, "histogram_quantile"},
		{"warnings", 200, strings.Replace(matrix(7, "1"), `"status":"success"`, `"status":"success","warnings":["store was not reached"]`, 1), "store was not reached"},
		{"a bad query", 400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error"}`, "parse error"},
		{"too dear a query", 422, `{"status":"error","errorType":"execution","error":"query processing would load too many samples"}`, "too many samples"},
		{"server error", 500, "out of memory", "500"},
		{"bad gateway", 502, "<html>secret-host</html>", "502"},
		{"unavailable", 503, `{"status":"error","errorType":"timeout","error":"query timed out"}`, "503"},
		{"not allowed", 401, "who are you", "401"},
		{"a redirect", 302, "", "302"},
		{"not JSON", 200, "<html>welcome</html>", "bad_response"},
		{"JSON of something else", 200, `{"hello":"world"}`, "does not answer as Prometheus does"},
		{"success without data", 200, `{"status":"success"}`, "does not answer as Prometheus does"},
		{"cut off", 200, matrix(7, "1")[:40], "bad_response"},
		{"too large", 200, strings.Repeat(" ", maxAnswer+1) + matrix(7, "1"), "more than 4 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://example.invalid/")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			defer server.Close()
			samples, err := serversOf(t, "sources: {default: {url: "+server.URL+"}}").Source("default")(context.Background(), minuteOf("x"))
			switch {
			case test.reason == "" && (err != nil || len(samples) < 6):
				t.Errorf("%v, %v", samples, err)
			case test.reason != "" && (err == nil || !strings.Contains(err.Error(), test.reason) || !strings.Contains(err.Error(), "metric source default")):
				t.Errorf("%v, want %q", err, test.reason)
			case err != nil && (strings.Contains(err.Error(), server.URL) || strings.Contains(err.Error(), "secret-host")):
				t.Errorf("the platform's address or what a proxy says is told: %v", err)
			}
		})
	}
}

func TestAServerThatIsAwayOrSlowIsNoData(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-release:
		case <-request.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(release)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	_ = listener.Close()
	servers := serversOf(t, fmt.Sprintf("sources:\n  slow: {url: %q, timeout: 1s}\n  away: {url: %q}\n  unknown: {url: 'http://no-such-host.invalid'}\n", slow.URL, "http://"+nobody))
	for name, reason := range map[string]string{"slow": "did not answer within 1s", "away": "connection refused", "unknown": "cannot be reached", "other": "no metric source \"other\" (it names away, slow, unknown)"} {
		if _, err := servers.Source(name)(context.Background(), minuteOf("x")); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want %q", name, err, reason)
		}
	}
}

func TestTokenAndCertificatesAreRead(t *testing.T) {
	var token string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		token = request.Header.Get("Authorization")
		_, _ = io.WriteString(w, matrix(7, "1"))
	}))
	defer server.Close()
	server.Config.ErrorLog = nil
	dir := t.TempDir()
	ca := write(t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	tokenFile := write(t, filepath.Join(dir, "token"), "first\n")
	servers := serversOf(t, fmt.Sprintf("sources:\n  default: {url: %q, caFile: %q, tokenFile: %q}\n  distrusting: {url: %q}\n", server.URL, ca, tokenFile, server.URL))
	for _, want := range []string{"first", "second"} {
		write(t, tokenFile, want)
		if _, err := servers.Source("default")(context.Background(), minuteOf("x")); err != nil || token != "Bearer "+want {
			t.Errorf("token %q, want %q: %v", token, want, err)
		}
	}
	if _, err := servers.Source("distrusting")(context.Background(), minuteOf("x")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server whose certificate nobody trusts: %v", err)
	}
	if err := os.Remove(tokenFile); err != nil {
		t.Fatal(err)
	}
	if _, err := servers.Source("default")(context.Background(), minuteOf("x")); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("without its token: %v", err)
	}
}

func TestConfigurationSaysWhereItIsWrong(t *testing.T) {
	for content, reason := range map[string]string{
		"sources:\n  default: {urll: http://a}":                             "line 2: field urll not found",
		"sauces: {}":                                                        "field sauces not found",
		"sources: {default: {}}":                                            "sources.default.url",
		"sources: {default: {url: 'prometheus:9090'}}":                      "sources.default.url",
		"sources: {default: {url: 'http://me:pass@a'}}":                     "tokenFile",
		"sources: {Default: {url: 'http://a'}}":                             "sources.Default",
		"sources: {default: {url: 'http://a', timeout: 2m}}":                "timeout: must be from 1s to 50s",
		"sources: {default: {url: 'http://a', timeout: soon}}":              "line 1",
		"sources: {default: {url: 'https://a', caFile: ca.crt}}":            "caFile: must be an absolute path",
		"sources: {default: {url: 'https://a', certFile: /c}}":              "belong together",
		"sources: {default: {url: 'http://a', caFile: /c}}":                 "for https",
		"sources: {default: {url: 'http://a'}, default: {url: 'http://b'}}": "already",
		"sources: {}\n---\nsources: {}":                                     "more than one",
		"sources: [":                                                        "line 1",
	} {
		_, err := Open(write(t, filepath.Join(t.TempDir(), "f.yaml"), content), logr.Discard(), clock.RealClock{})
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), "f.yaml") || strings.Contains(err.Error(), "pass") {
			t.Errorf("%q: %v, want %q", content, err, reason)
		}
	}
}

func TestConfigurationIsReadAnew(t *testing.T) {
	now := clocktesting.NewFakePassiveClock(time.Unix(1_700_000_000, 0))
	file := filepath.Join(t.TempDir(), "sources.yaml")
	servers, err := Open(file, logr.Discard(), now)
	if err != nil {
		t.Fatalf("a file that is not there yet: %v", err)
	}
	check := func(when, name string, known bool) {
		t.Helper()
		now.SetTime(now.Now().Add(rereadAfter))
		if err := servers.Check(name); (err == nil) != known {
			t.Errorf("%s: %s: %v", when, name, err)
		}
	}
	check("nothing there", "a", false)
	write(t, file, "sources: {a: {url: 'http://a'}}")
	check("written", "a", true)
	write(t, file, "sources: {b: {url: ''}}")
	check("broken", "a", true)
	check("broken", "b", false)
	write(t, file, "sources: {b: {url: 'http://b'}}")
	check("mended", "a", false)
	check("mended", "b", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	check("removed", "b", false)
}

func TestALargeAnswerIsNotReadToItsEnd(t *testing.T) {
	body := &limitedBody{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, 100))), left: 10}
	if read, err := io.ReadAll(body); len(read) != 10 || err == nil {
		t.Errorf("%d bytes, %v", len(read), err)
	}
}
