// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"k8s.io/utils/clock"
)

// rereadAfter is how long the file is believed to be as it was.
const rereadAfter = 5 * time.Second

// Servers are the Prometheus servers of a file, which is read anew when it
// changes. While it cannot be read, the servers are those of before.
type Servers struct {
	file  string
	log   logr.Logger
	clock clock.PassiveClock

	mu      sync.Mutex
	content []byte
	read    time.Time
	servers map[string]*server
}

type server struct {
	name    string
	timeout time.Duration
	api     v1.API
}

// Open reads the servers of a file. Without a name, or when there is no such
// file (yet), there are none.
func Open(file string, log logr.Logger, c clock.PassiveClock) (*Servers, error) {
	s := &Servers{file: file, log: log, clock: c}
	if err := s.reread(); err != nil {
		return nil, err
	}
	return s, nil
}

// UnknownError says that no server has a name.
type UnknownError struct {
	Name string
	// Known are the names of those that there are.
	Known []string
}

func (e *UnknownError) Error() string {
	known := "it names none"
	if len(e.Known) > 0 {
		known = "it names " + strings.Join(e.Known, ", ")
	}
	return fmt.Sprintf("the operator's configuration has no metric source %q (%s): correct prometheus.source, or have the platform add it to the file of --metric-sources-file", e.Name, known)
}

// Check is an UnknownError unless there is a server of that name.
func (s *Servers) Check(name string) error {
	_, err := s.find(name)
	return err
}

func (s *Servers) find(name string) (*server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clock.Since(s.read) >= rereadAfter {
		if err := s.reread(); err != nil {
			s.log.Error(err, "The metric sources stay as they were")
		}
	}
	found, ok := s.servers[name]
	if !ok {
		return nil, &UnknownError{Name: name, Known: slices.Sorted(maps.Keys(s.servers))}
	}
	return found, nil
}

// reread takes the file over if it has changed.
func (s *Servers) reread() error {
	s.read = s.clock.Now()
	if s.file == "" {
		return nil
	}
	content, err := os.ReadFile(s.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("metric sources: %w", err)
	}
	if s.servers != nil && bytes.Equal(content, s.content) {
		return nil
	}
	configured, err := parse(content)
	if err != nil {
		return fmt.Errorf("metric sources: %s: %w", s.file, err)
	}
	servers := make(map[string]*server, len(configured))
	for name, c := range configured {
		if servers[name], err = connect(name, c); err != nil {
			return fmt.Errorf("metric sources: %s: sources.%s: %w", s.file, name, err)
		}
	}
	s.content, s.servers = content, servers
	return nil
}

// connect makes a client; nothing is asked yet.
func connect(name string, c Server) (*server, error) {
	settings := config.HTTPClientConfig{
		TLSConfig: config.TLSConfig{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile},
		// A token must not go where a server points to.
		FollowRedirects: false,
		EnableHTTP2:     true,
	}
	if c.TokenFile != "" {
		settings.Authorization = &config.Authorization{Type: "Bearer", CredentialsFile: c.TokenFile}
	}
	httpClient, err := config.NewClientFromConfig(settings, "metric-source-"+name)
	if err != nil {
		return nil, err
	}
	httpClient.Transport = &limited{httpClient.Transport}
	client, err := api.NewClient(api.Config{Address: c.URL, Client: httpClient})
	if err != nil {
		return nil, err
	}
	return &server{name: name, timeout: c.Timeout, api: v1.NewAPI(client)}, nil
}
