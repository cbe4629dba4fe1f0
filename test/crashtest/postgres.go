// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// rowsOfImprovements are the statements that write what an improvement is; others
// (the writer's fence, upkeep) have their own times.
var rowsOfImprovements = regexp.MustCompile(`(?is)\b(insert\s+into|update|delete\s+from)\s+dgm\.(dgm_archive|improvement_workspaces|rollback_snapshots|constitutional_compliance_logs)\b|^copy "dgm"."performance_metrics"`)

var statementName = regexp.MustCompile(`(?m)^-- name: (\w+)`)

// Postgres is the URL of a database, led through the gate: a transaction that
// writes rows of improvements is one write, made when it is committed.
func (g *Gate) Postgres(t TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatalf("crashtest: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("crashtest: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	server := u.Host
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go g.session(client, server)
		}
	}()
	u.Host = listener.Addr().String()
	query := u.Query()
	query.Set("sslmode", "disable") // what is encrypted cannot be counted
	u.RawQuery = query.Encode()
	return u.String()
}

// session is one connection; it follows the wire protocol as far as it has to.
type session struct {
	gate       *Gate
	mu         sync.Mutex
	statements map[string]string
	writing    []string // the statements of the open transaction that write
}

func (g *Gate) session(client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	s := &session{gate: g, statements: map[string]string{}}
	if passStartup(client, server) != nil {
		return
	}
	go func() {
		_ = relay(client, server, s.fromClient)
		_ = server.Close()
	}()
	_ = relay(server, client, s.fromServer)
}

// passStartup passes the first message on, which has no type.
func passStartup(client io.Reader, server io.Writer) error {
	var length [4]byte
	if _, err := io.ReadFull(client, length[:]); err != nil {
		return err
	}
	rest := make([]byte, binary.BigEndian.Uint32(length[:])-4)
	if _, err := io.ReadFull(client, rest); err != nil {
		return err
	}
	_, err := server.Write(append(length[:], rest...))
	return err
}

// relay passes messages on, each after it was looked at.
func relay(from io.Reader, to io.Writer, look func(kind byte, payload []byte) error) error {
	var head [5]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return err
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(from, payload); err != nil {
			return err
		}
		if err := look(head[0], payload); err != nil {
			return err
		}
		if _, err := to.Write(append(head[:], payload...)); err != nil {
			return err
		}
	}
}

func (s *session) fromClient(kind byte, payload []byte) error {
	fields := bytes.Split(payload, []byte{0})
	switch {
	case kind == 'P' && len(fields) > 1: // Parse: name, text
		s.mu.Lock()
		s.statements[string(fields[0])] = string(fields[1])
		s.mu.Unlock()
	case kind == 'B' && len(fields) > 1: // Bind: portal, name
		s.mu.Lock()
		text := s.statements[string(fields[1])]
		s.mu.Unlock()
		return s.runs(text)
	case kind == 'Q': // Query: text
		return s.runs(string(fields[0]))
	}
	return nil
}

func (s *session) runs(text string) error {
	if !rowsOfImprovements.MatchString(text) {
		return nil
	}
	if err := s.gate.begin(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.Join(strings.Fields(text)[:2], " ")
	if found := statementName.FindStringSubmatch(text); found != nil {
		name = found[1]
	}
	if !slices.Contains(s.writing, name) {
		s.writing = append(s.writing, name)
	}
	return nil
}

func (s *session) fromServer(kind byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case kind == 'E', kind == 'C' && bytes.HasPrefix(payload, []byte("ROLLBACK")):
		s.writing = nil
	case kind == 'Z' && len(payload) > 0 && payload[0] == 'I' && len(s.writing) > 0: // the transaction is committed
		what := "database: " + strings.Join(s.writing, ", ")
		s.writing = nil
		return s.gate.made(what, "")
	}
	return nil
}
