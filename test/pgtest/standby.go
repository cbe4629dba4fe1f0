// SPDX-License-Identifier: Apache-2.0

package pgtest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
)

// Standby returns a server that streams from this one, with the same settings
// and a port of its own. It ends with the test.
func (s *Server) Standby(t TB) *Server {
	t.Helper()
	standby := &Server{bin: s.bin, password: s.password, owner: s.owner, settings: s.settings}
	var err error
	if standby.dir, err = os.MkdirTemp("", "dgm-pg-"); err != nil {
		t.Fatalf("pgtest: directory for the standby: %v", err)
	}
	if err := s.give(standby.dir); err != nil {
		t.Fatalf("%v", err)
	}
	standby.data = filepath.Join(standby.dir, "data")
	if standby.watchdog, err = startWatchdog(standby.dir); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(standby.Close)
	out, err := s.command(context.Background(), "pg_basebackup", "-D", standby.data, "-h", "127.0.0.1", "-p",
		strconv.Itoa(s.port), "-U", User, "-X", "stream", "-c", "fast", "-R", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("pgtest: pg_basebackup: %v: %s", err, out)
	}
	if err := standby.startOnFreePort(context.Background()); err != nil {
		t.Fatalf("%v", err)
	}
	return standby
}

// Promote makes a standby a server of its own.
func (s *Server) Promote(t TB) {
	t.Helper()
	if err := s.promote(); err != nil {
		t.Fatalf("pgtest: promote: %v", err)
	}
}
