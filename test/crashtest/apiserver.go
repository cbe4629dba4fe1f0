// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"

	"k8s.io/client-go/rest"
)

// TB is the part of testing.TB that is used here.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// group is the path of the operator's kinds.
const group = "/apis/dgm.acgs.io/v1alpha1/"

// APIServer is a way to the API server, as the user of config, that leads through
// the gate. Whoever goes it sees the improvements and policies of one namespace
// only, so that several managers can work beside each other.
func (g *Gate) APIServer(t TB, config *rest.Config, namespace string) *rest.Config {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatalf("crashtest: %v", err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatalf("crashtest: %v", err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: gated{gate: g, next: transport},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if kind, found := strings.CutPrefix(r.In.URL.Path, group); found && (kind == "improvementworkspaces" || kind == "banditpolicies") {
				r.Out.URL.Path = group + "namespaces/" + namespace + "/" + kind
			}
		},
		FlushInterval: -1, // watches
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// gated passes writes through the gate.
type gated struct {
	gate *Gate
	next http.RoundTripper
}

func (t gated) RoundTrip(request *http.Request) (*http.Response, error) {
	if !counts(request) {
		return t.next.RoundTrip(request)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	if err := t.gate.begin(); err != nil {
		return nil, err
	}
	response, err := t.next.RoundTrip(request)
	if err != nil || response.StatusCode >= http.StatusBadRequest {
		return response, err
	}
	what, phase := describe(request, body)
	if err := t.gate.made(what, phase); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// counts tells what changes something from what only asks, and from what has no
// part in an improvement: leases, the operator's keys, and events, which are sent
// after the fact.
func counts(request *http.Request) bool {
	if request.Method == http.MethodGet || request.URL.Query().Has("dryRun") {
		return false
	}
	for _, other := range []string{"/leases", "/namespaces/dgm-system/secrets", "/events", "reviews"} {
		if strings.Contains(request.URL.Path, other) {
			return false
		}
	}
	return true
}

// describe is a write in words, and the phase that it writes into status.
func describe(request *http.Request, body []byte) (what, phase string) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	var written struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Finalizers *[]string `json:"finalizers"`
		} `json:"metadata"`
		Status struct {
			Phase      string `json:"phase"`
			Conditions []struct{ Type, Reason string }
		} `json:"status"`
	}
	_ = json.Unmarshal(body, &written) // a patch of another form has none of these
	switch {
	case written.Status.Phase != "":
		reasons := map[string]string{}
		for _, c := range written.Status.Conditions {
			reasons[c.Type] = c.Reason
		}
		return fmt.Sprintf("status: Ready for %s, DatabaseSynced for %s", reasons["Ready"], reasons["DatabaseSynced"]), written.Status.Phase
	case strings.Contains(string(body), `"finalizers"`):
		return "finalizers", ""
	case strings.Contains(string(body), "/metadata/managedFields"):
		return "give ownership back: " + parts[max(0, len(parts)-2)], ""
	case request.Method == http.MethodPost:
		return "create " + parts[len(parts)-1], ""
	default:
		return strings.ToLower(request.Method) + " " + parts[max(0, len(parts)-2)], ""
	}
}
