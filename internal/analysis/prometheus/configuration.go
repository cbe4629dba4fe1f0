// SPDX-License-Identifier: Apache-2.0

// Package prometheus asks the Prometheus servers that the platform configures.
package prometheus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Server is how a Prometheus server is reached.
type Server struct {
	// URL is its address, with the path below which its API is, if any.
	URL string `yaml:"url"`
	// CAFile holds the certificates that its own must be signed by, in PEM form;
	// those that the operator trusts anyway when empty.
	CAFile string `yaml:"caFile"`
	// CertFile and KeyFile are the operator's certificate for it, and its key.
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// TokenFile holds a bearer token. It is read anew for each request, and the
	// certificates whenever they change.
	TokenFile string `yaml:"tokenFile"`
	// Timeout bounds a query, from 1s to 50s. Default: 10s.
	Timeout time.Duration `yaml:"timeout"`
}

const (
	defaultTimeout = 10 * time.Second
	minTimeout     = time.Second
	maxTimeout     = 50 * time.Second
)

var serverName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// parse reads the servers by name: a YAML document {sources: {NAME: Server}}. A
// field that it does not know is an error, which says the line.
func parse(content []byte) (map[string]Server, error) {
	var document struct {
		Sources map[string]Server `yaml:"sources"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one YAML document: one is expected")
	}
	for name, server := range document.Sources {
		if server.Timeout == 0 {
			server.Timeout = defaultTimeout
		}
		if err := server.check(name); err != nil {
			return nil, fmt.Errorf("sources.%s%w", name, err)
		}
		document.Sources[name] = server
	}
	return document.Sources, nil
}

func (s Server) check(name string) error {
	address, err := url.Parse(s.URL)
	switch {
	case !serverName.MatchString(name):
		return errors.New(": a name has up to 63 lower-case letters, digits and hyphens")
	case err != nil:
		return errors.New(".url: is not an address") // err quotes it, password and all
	case address.Scheme != "http" && address.Scheme != "https" || address.Host == "":
		return errors.New(".url: must be like https://prometheus.monitoring:9090")
	case address.User != nil || address.RawQuery != "" || address.Fragment != "":
		return errors.New(".url: may have neither a user nor a query: use tokenFile")
	case (s.CertFile == "") != (s.KeyFile == ""):
		return errors.New(": certFile and keyFile belong together")
	case address.Scheme == "http" && s.CAFile+s.CertFile != "":
		return errors.New(": caFile and certFile are for https")
	case s.Timeout < minTimeout || s.Timeout > maxTimeout:
		return fmt.Errorf(".timeout: must be from %s to %s", minTimeout, maxTimeout)
	}
	for field, file := range map[string]string{"caFile": s.CAFile, "certFile": s.CertFile, "keyFile": s.KeyFile, "tokenFile": s.TokenFile} {
		if file != "" && (!filepath.IsAbs(file) || strings.ContainsRune(file, 0)) {
			return fmt.Errorf(".%s: must be an absolute path", field)
		}
	}
	return nil
}
