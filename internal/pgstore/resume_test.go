// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// After an outage a leader goes on with its fence only where nothing can be lost;
// else it takes it anew, above what it has held, and has everything compared.
func TestP4_AfterAnOutageTheFenceIsResumedOrTakenAnew(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	pool, err := pgxpool.New(ctx, url)
	must(t, err)
	defer pool.Close()
	const ahead = 1_000_000_000_000 // epochs that the clock does not reach
	for name, c := range map[string]struct {
		change func(held *tenure, at *server)
		sql    string
		why    string // empty: ErrDeposed
	}{
		"nothing happened":                  {func(*tenure, *server) {}, "", resyncBack},
		"the log went on":                   {func(_ *tenure, at *server) { at.walPosition++ }, "", resyncBack},
		"the log is shorter":                {func(held *tenure, at *server) { held.server.walPosition = at.walPosition + 1 }, "", resyncLost},
		"the session saw a loss":            {func(held *tenure, _ *server) { held.lost = true }, "", resyncLost},
		"another server":                    {func(held *tenure, _ *server) { held.server.identity = "another/1" }, "", resyncLost},
		"another timeline":                  {func(held *tenure, _ *server) { held.server.identity += "1" }, "", resyncLost},
		"tables were made anew":             {func(held *tenure, _ *server) { held.server.incarnation = "before" }, "", resyncLost},
		"the row is gone":                   {func(*tenure, *server) {}, "DELETE FROM dgm.writer_fences", resyncLost},
		"the row is that of before":         {func(*tenure, *server) {}, "UPDATE dgm.writer_fences SET epoch = epoch - 1, token = gen_random_uuid()", resyncLost},
		"somebody else drew the same epoch": {func(*tenure, *server) {}, "UPDATE dgm.writer_fences SET token = gen_random_uuid()", resyncLost},
		"another leader came":               {func(*tenure, *server) {}, "UPDATE dgm.writer_fences SET epoch = epoch + 1, token = gen_random_uuid()", ""},
		"it came after a loss":              {func(held *tenure, _ *server) { held.lost = true }, "UPDATE dgm.writer_fences SET epoch = epoch + 1", ""},
	} {
		s := New(testConfig(url))
		db.exec("DELETE FROM dgm.writer_fences")
		first, err := s.takeFence(ctx, pool, ahead)
		must(t, err)
		sess, _, err := s.establish(ctx, pool, &tenure{fence: first, lost: true})
		must(t, err)
		held := &tenure{fence: sess.fence, server: sess.server}
		at := sess.server
		at.incarnation = "" // which is not known yet
		c.change(held, &at)
		if c.sql != "" {
			db.exec(c.sql)
		}
		got, why, err := s.resumeOrTake(ctx, pool, held, at)
		switch {
		case c.why == "":
			if !errors.Is(err, ErrDeposed) {
				t.Errorf("%s: %v, want ErrDeposed", name, err)
			}
		case err != nil || why != c.why || (got == held.fence) != (why == resyncBack):
			t.Errorf("%s: %q, %v, the fence stays: %t; want %q", name, why, err, got == held.fence, c.why)
		case got != held.fence && got.epoch <= held.fence.epoch:
			t.Errorf("%s: epoch %d after %d", name, got.epoch, held.fence.epoch)
		}
	}
}

// Whoever is led to a standby says so.
func TestStandbyIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	url := primary.Database(t)
	s := startReady(t, testConfig(url))
	standby := databaseOf(url, primary.Standby(t))
	must(t, s.stop())
	led := startLeader(t, testConfig(standby))
	eventually(t, "the standby is named", func() error {
		if err := led.Ready(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), errStandby.Error()) {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
}
