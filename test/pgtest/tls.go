// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// authority is a CA of a test.
type authority struct {
	file        string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Certificate is what the server shows.
type Certificate struct {
	// Hosts are names and addresses; empty: 127.0.0.1 and localhost.
	Hosts []string
	// NotAfter is when it expires; zero: in an hour.
	NotAfter time.Time
}

// StartTLS is Start for a server that speaks TLS with a certificate of a CA of
// its own. Its URLs say sslmode=verify-full and name the CA.
func StartTLS(t TB, settings ...string) *Server {
	t.Helper()
	s, err := New(context.Background(), Options{Settings: settings, TLS: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// CAFile is the file with the certificate of the CA.
func (s *Server) CAFile() string { return s.ca.file }

// Certify gives the server another certificate of its CA, which shows at
// connections that are made a moment later.
func (s *Server) Certify(t TB, c Certificate) {
	t.Helper()
	if err := s.certify(c); err != nil {
		t.Fatalf("%v", err)
	}
	if err := s.postmaster.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatalf("pgtest: have the server read its certificate: %v", err)
	}
}

// ReplaceCA makes a new CA, in a file of its own, and certifies the server with it.
func (s *Server) ReplaceCA(t TB) {
	t.Helper()
	if err := s.makeCA(); err != nil {
		t.Fatalf("%v", err)
	}
	s.Certify(t, Certificate{})
}

// makeTLS returns the settings that have the server speak TLS.
func (s *Server) makeTLS() ([]string, error) {
	if err := s.makeCA(); err != nil {
		return nil, err
	}
	if err := s.certify(Certificate{}); err != nil {
		return nil, err
	}
	return []string{"ssl=on", "ssl_cert_file=" + s.certificateFile(), "ssl_key_file=" + s.keyFile()}, nil
}

func (s *Server) certificateFile() string { return filepath.Join(s.dir, "server.crt") }
func (s *Server) keyFile() string         { return filepath.Join(s.dir, "server.key") }

func (s *Server) makeCA() error {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "pgtest-" + randomHex(4)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, key, err := issue(template, nil)
	if err != nil {
		return err
	}
	s.ca = &authority{file: filepath.Join(s.dir, template.Subject.CommonName+".crt"), certificate: certificate, key: key}
	return s.writePEM(s.ca.file, "CERTIFICATE", certificate.Raw)
}

func (s *Server) certify(c Certificate) error {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "postgres"}, NotAfter: c.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"127.0.0.1", "localhost"}
	}
	for _, host := range c.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	certificate, key, err := issue(template, s.ca)
	if err != nil {
		return err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pgtest: certificate: %w", err)
	}
	if err := s.writePEM(s.keyFile(), "PRIVATE KEY", encoded); err != nil {
		return err
	}
	return s.writePEM(s.certificateFile(), "CERTIFICATE", certificate.Raw)
}

// issue makes a certificate from the template; without a CA it signs itself.
func issue(template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("pgtest: certificate: %w", err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-48 * time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("pgtest: certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("pgtest: certificate: %w", err)
	}
	return certificate, key, nil
}

func (s *Server) writePEM(file, kind string, content []byte) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		return fmt.Errorf("pgtest: certificate: %w", err)
	}
	return s.give(file)
}
