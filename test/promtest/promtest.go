// SPDX-License-Identifier: Apache-2.0

// Package promtest runs a real Prometheus for tests, which scrapes an exporter
// of the test every half second.
package promtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
)

// TB is the part of testing.TB that is used here, so that programs outside of
// tests can bring one of their own.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	TempDir() string
}

// Server is a running Prometheus.
type Server struct {
	// URL is its address.
	URL string

	dir, address string
	command      *exec.Cmd
}

// Start runs a Prometheus, from Debian's package, that scrapes what is
// registered. It ends with the test.
func Start(t TB, registry *prometheus.Registry) *Server {
	t.Helper()
	exporter := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(exporter.Close)
	s := &Server{dir: t.TempDir(), address: freeAddress(t)}
	s.URL = "http://" + s.address
	configuration := fmt.Sprintf(`{global: {scrape_interval: 500ms, scrape_timeout: 500ms},
scrape_configs: [{job_name: test, static_configs: [{targets: [%q]}]}]}`, exporter.Listener.Addr())
	if err := os.WriteFile(filepath.Join(s.dir, "prometheus.yml"), []byte(configuration), 0o600); err != nil {
		t.Fatalf("promtest: %v", err)
	}
	t.Cleanup(s.Stop)
	s.Continue(t)
	return s
}

// Continue starts it again after Stop, at the same address, with what it had.
func (s *Server) Continue(t TB) {
	t.Helper()
	s.command = exec.Command("prometheus", "--config.file="+filepath.Join(s.dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(s.dir, "data"), "--web.listen-address="+s.address)
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.command.Start(); err != nil {
		t.Fatalf("promtest: %v: hack/deps.sh installs it", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := http.Get(s.URL + "/-/ready")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("promtest: Prometheus does not become ready: %v", err)
		}
	}
}

// Await waits until a query answers a number of at least a minimum.
func (s *Server) Await(t TB, query string, minimum float64) {
	t.Helper()
	client, err := api.NewClient(api.Config{Address: s.URL})
	if err != nil {
		t.Fatalf("promtest: %v", err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		value, _, _, err := v1.NewAPI(client).Query(context.Background(), query, time.Now())
		if vector, ok := value.(model.Vector); ok && err == nil && len(vector) == 1 && float64(vector[0].Value) >= minimum {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("promtest: %s answers %v (%v), want at least %v", query, value, err, minimum)
		}
	}
}

// Stop ends it, in an orderly way, if it runs.
func (s *Server) Stop() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Signal(syscall.SIGTERM)
	_ = s.command.Wait()
	s.command = nil
}

func freeAddress(t TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("promtest: %v", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
