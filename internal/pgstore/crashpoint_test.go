// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// crashPointSQL has every statement that writes or defines something count a step,
// and stop for ever at the one that is armed, before its transaction can commit.
const crashPointSQL = `
CREATE SCHEMA crash;
GRANT USAGE ON SCHEMA crash TO PUBLIC;
CREATE TABLE crash.armed (step integer, version bigint);
INSERT INTO crash.armed DEFAULT VALUES;
CREATE FUNCTION crash.count_step() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	armed constant integer := (SELECT a.step FROM crash.armed a);
	step constant integer := COALESCE(NULLIF(current_setting('crash.step', true), ''), '0')::integer + 1;
BEGIN
	IF armed IS NOT NULL THEN
		PERFORM set_config('crash.step', step::text, false);
	END IF;
	IF step = armed THEN
		PERFORM pg_sleep(600);
	END IF;
END $$;
CREATE FUNCTION crash.on_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM crash.count_step(); RETURN NULL; END $$;
CREATE FUNCTION crash.on_command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM crash.count_step(); END $$;
CREATE FUNCTION crash.on_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF NEW.version_id = (SELECT a.version FROM crash.armed a) THEN
		PERFORM pg_sleep(600);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER crash_on_version AFTER INSERT ON dgm.schema_migrations FOR EACH ROW EXECUTE FUNCTION crash.on_version();
CREATE EVENT TRIGGER crash_on_command ON ddl_command_end EXECUTE FUNCTION crash.on_command();
`

// crashOnStatementsSQL adds the triggers to the tables that there are.
const crashOnStatementsSQL = `
DO $$
DECLARE
	of record;
BEGIN
	FOR of IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p')
		AND c.relname NOT IN ('writer_fences', 'schema_migrations') AND c.relname !~ '^performance_metrics_[0-9]'
	LOOP
		EXECUTE format('CREATE TRIGGER crash_on_statement AFTER INSERT OR UPDATE OR DELETE ON dgm.%I FOR EACH STATEMENT EXECUTE FUNCTION crash.on_statement()', of.relname);
	END LOOP;
END $$`

// harm is something that happens to whoever is at a crash point.
type harm string

const (
	harmTerminate harm = "pg_terminate_backend"
	harmCancel    harm = "cancelled context"
	harmKill      harm = "kill -9 of the server"
)

var harms = []harm{harmTerminate, harmCancel, harmKill}

const (
	atCrashPoint = "wait_event = 'PgSleep'"
	// A commit that waits for a standby that there is not has been written: only
	// its answer is missing.
	whileCommitting = "wait_event = 'SyncRep'"
	// A concurrent build waits for transactions that are older than it.
	whileBuilding = "wait_event_type = 'Lock' AND application_name = 'dgm-operator-migrate'"
)

// crashSite is a server that is killed now and then.
type crashSite struct {
	t      *testing.T
	server *pgtest.Server
	url    string
	db     *observer
	did    int // how often somebody was harmed
}

func newCrashSite(t *testing.T) *crashSite {
	t.Helper()
	server := pgtest.Start(t, "autovacuum=off", "max_wal_senders=1")
	c := &crashSite{t: t, server: server, url: server.Database(t)}
	c.reconnect()
	return c
}

// reconnect opens the connection that is used for looking. It never waits for the
// standby that there is not.
func (c *crashSite) reconnect() {
	c.t.Helper()
	c.db = openDatabase(c.t, c.url)
	c.db.exec("SET synchronous_commit = local")
}

func (c *crashSite) prepare(sql string) {
	c.t.Helper()
	must(c.t, c.db.tryExec(sql))
}

// interrupt runs something until it is at the point, harms it there, and waits for
// its end. It reports false when it ended without getting there.
func (c *crashSite) interrupt(run func(context.Context) error, point string, by harm) bool {
	c.t.Helper()
	ctx, cancel := context.WithCancel(testContext(c.t))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	there := false
	sleeping := "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND " + point
	var err error
	eventually(c.t, "it is at the crash point, or through", func() error {
		select {
		case err = <-ended:
			return nil
		default:
		}
		if there = c.db.text(sleeping) != "0"; !there {
			return errors.New("neither")
		}
		return nil
	})
	if !there {
		must(c.t, err)
		return false
	}
	c.did++
	switch by {
	case harmCancel:
		cancel()
	case harmKill:
		c.server.Kill(c.t)
	case harmTerminate: // below
	}
	eventually(c.t, "it ends", func() error {
		select {
		case err = <-ended:
			return nil
		default:
		}
		if by == harmTerminate { // again, if it tries again
			c.db.text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND " + point)
		}
		return errors.New("not yet")
	})
	if by == harmKill {
		c.server.Start(c.t)
		c.reconnect()
	}
	if err == nil {
		c.t.Fatalf("%s: it succeeded all the same", by)
	}
	eventually(c.t, "nobody is at the crash point any more", func() error {
		if n := c.db.text(sleeping); n != "0" {
			return fmt.Errorf("%s are", n)
		}
		return nil
	})
	return true
}

// commitUnanswered has every commit wait for a standby, or not.
func (c *crashSite) commitUnanswered(on bool) {
	c.t.Helper()
	names := ""
	if on {
		names = "nobody"
	}
	c.db.exec(fmt.Sprintf("ALTER SYSTEM SET synchronous_standby_names = '%s'", names))
	c.db.exec("SELECT pg_reload_conf()")
	eventually(c.t, "the setting is in force", func() error {
		if got := c.db.text("SELECT current_setting('synchronous_standby_names')"); got != names {
			return errors.New(got)
		}
		return nil
	})
}
