// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// errURL marks what is wrong with the URL itself, in words that do not repeat it.
var errURL = errors.New("database URL")

// parseURL reads the URL and the certificates that it names.
func parseURL(source func() (string, error)) (*pgxpool.Config, error) {
	url, err := source()
	if err != nil {
		return nil, urlError(err)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, urlError(err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = applicationName
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	return config, nil
}

// urlError says what is wrong with a URL without repeating it: the parser's own
// words may.
func urlError(err error) error {
	var parseErr *pgconn.ParseConfigError
	if !errors.As(err, &parseErr) {
		return fmt.Errorf("%w: it cannot be read: %w", errURL, err)
	}
	var pathErr *fs.PathError
	cause := fmt.Sprint(errors.Unwrap(parseErr))
	switch {
	case errors.As(parseErr, &pathErr):
		return fmt.Errorf("%w: the file %s that it names cannot be read: %w", errURL, pathErr.Path, pathErr.Err)
	case strings.Contains(cause, "CA to cert pool"):
		return fmt.Errorf("%w: the file of its sslrootcert holds no certificate in PEM form: put the one of the CA that signed the server's into it", errURL)
	case strings.Contains(cause, "sslmode is invalid"):
		return fmt.Errorf("%w: its sslmode is unknown: write sslmode=verify-full", errURL)
	}
	return fmt.Errorf("%w: it cannot be parsed: write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE", errURL)
}

// sameAddress reports whether both lead to the same place by the same credentials.
func sameAddress(a, b *pgx.ConnConfig) bool {
	if a.ConnString() != b.ConnString() || a.Password != b.Password {
		return false
	}
	return sameTLS(a.TLSConfig, b.TLSConfig)
}

func sameTLS(a, b *tls.Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	sameCertificates := slices.EqualFunc(a.Certificates, b.Certificates, func(x, y tls.Certificate) bool {
		return slices.EqualFunc(x.Certificate, y.Certificate, bytes.Equal)
	})
	// A nil pool means the machine's CAs.
	return sameCertificates && (a.RootCAs == nil) == (b.RootCAs == nil) && (a.RootCAs == nil || a.RootCAs.Equal(b.RootCAs))
}

// trustsBlindly reports whether somebody on the way could pretend to be the
// server, or listen: anything weaker than sslmode=verify-full, but on this machine.
func trustsBlindly(config *pgx.ConnConfig) bool {
	blind := func(host string, tlsConfig *tls.Config) bool {
		return !onThisMachine(host) && (tlsConfig == nil || tlsConfig.InsecureSkipVerify)
	}
	return blind(config.Host, config.TLSConfig) || slices.ContainsFunc(config.Fallbacks, func(f *pgconn.FallbackConfig) bool {
		return blind(f.Host, f.TLSConfig)
	})
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || ip != nil && ip.IsLoopback()
}
