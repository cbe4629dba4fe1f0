// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// listener is another service that listens.
type listener struct {
	t    *testing.T
	conn *pgx.Conn
}

func startListener(t *testing.T, url string) *listener {
	t.Helper()
	db := openDatabase(t, url)
	db.exec("LISTEN dgm_events")
	return &listener{t, db.conn}
}

// next returns the next event of a kind, and fails when none comes.
func (l *listener) next(kind string) map[string]any {
	l.t.Helper()
	for {
		n, err := l.conn.WaitForNotification(testContext(l.t))
		if err != nil {
			l.t.Fatalf("waiting for an event of kind %s: %v", kind, err)
		}
		var e map[string]any
		must(l.t, json.Unmarshal([]byte(n.Payload), &e))
		if e["kind"] == kind {
			return e
		}
	}
}

func TestEventsTellStateChanges(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	l, db := startListener(t, url), openDatabase(t, url)
	i := improvement(1)
	must(t, s.MirrorImprovement(ctx, i))
	e := l.next("improvement")
	for field, want := range map[string]any{
		"v": 1.0, "cluster": "test", "namespace": "shop", "name": i.Name, "improvement_id": i.ImprovementID.String(),
		"status": "created", "archive_status": "pending",
	} {
		if e[field] != want {
			t.Errorf("%s = %v, want %v, in %v", field, e[field], want, e)
		}
	}
	revision := func() string {
		return db.text("SELECT concat_ws('/', writer_epoch, revision) FROM dgm.v_improvements WHERE improvement_id = $1", i.ImprovementID)
	}
	if got, want := fmt.Sprintf("%.0f/%.0f", e["epoch"], e["revision"]), revision(); got != want {
		t.Errorf("epoch and revision = %s, want those of the row, %s", got, want)
	}

	// What changes no status is not told.
	i.Priority = "High"
	must(t, s.MirrorImprovement(ctx, i))
	i.ArchiveStatus, i.WorkspaceStatus = lifecycle.ArchiveRunning, "testing"
	must(t, s.MirrorImprovement(ctx, i))
	if e := l.next("improvement"); e["archive_status"] != "running" || e["status"] != "testing" {
		t.Errorf("the next event is %v, want the next status", e)
	}
	must(t, s.MirrorPolicy(ctx, policy(1, "a")))
	if e := l.next("bandit_policy"); e["name"] != "policy-001" {
		t.Errorf("event %v, want one of policy-001", e)
	}
	must(t, s.Tombstone(ctx, KindImprovementWorkspace, i.Namespace, i.Name, ""))
	if e := l.next("improvement"); e["deleted"] != true || e["name"] != i.Name {
		t.Errorf("event %v, want the deletion of %s", e, i.Name)
	}
}

// What cannot be told is dropped and said: nobody waits for it.
func TestEventsNeverHoldUpTheWriter(t *testing.T) {
	t.Parallel()
	c, log := testConfig(migratedDatabase(t)), make(chan string, 100)
	c.Log = funcr.New(func(_, line string) {
		if strings.Contains(line, "Events were not told") {
			log <- line
		}
	}, funcr.Options{})
	ctx := testContext(t)
	s := startReady(t, c)
	sess := s.session.Load()
	flood := make([]*request, 3*eventQueueLength) // more than the queue takes, faster than it is sent
	for n := range flood {
		flood[n] = &request{kind: KindBanditPolicy, object: policy(n).Object}
	}
	sess.announce(flood)
	if line := <-log; !strings.Contains(line, "too many at once") {
		t.Errorf("logged %s, want that events were dropped because they were too many", line)
	}
	large := policy(1, "a") // an event of it is more than PostgreSQL lets through
	large.Name = strings.Repeat("n", 2*maxEvent)
	sess.announce([]*request{{kind: KindBanditPolicy, object: large.Object}})
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	must(t, s.Ready())
}

func TestConfigurationEventsNameKeysAndNoValues(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	startReady(t, testConfig(url))
	l, db := startListener(t, url), openDatabase(t, url)
	db.exec(`INSERT INTO dgm.system_configurations (key, value) VALUES ('a.b', 'PLAIN'), ('c', 'PLAIN')`)
	check := func(kind string, keys ...any) {
		t.Helper()
		e := l.next(kind)
		if got, _ := e["keys"].([]any); !slices.Equal(got, keys) {
			t.Errorf("keys = %v, want %v", e["keys"], keys)
		}
		if strings.Contains(fmt.Sprint(e), "PLAIN") {
			t.Errorf("the event tells a value: %v", e)
		}
	}
	check("configuration", "a.b", "c")
	db.exec(`UPDATE dgm.system_configurations SET value = 'PLAIN2' WHERE key = 'c'`)
	check("configuration", "c")
	db.exec(`UPDATE dgm.system_configurations SET value = 'PLAIN3' WHERE key = 'nobody has it'`)
	db.exec(`DELETE FROM dgm.system_configurations WHERE key = 'a.b'`)
	check("configuration", "a.b")
	db.exec(`INSERT INTO dgm.known_constitutions (hash, version) VALUES ('0123456789abcdef', '2')`)
	check("constitution", "0123456789abcdef")
	// More keys than a payload holds: none are named, which means any.
	db.exec(`INSERT INTO dgm.system_configurations (key, value) SELECT 'key_' || n, 'PLAIN' FROM generate_series(1, 1000) n`)
	check("configuration")
}

func TestSettingsAreTakenUpAtOnce(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	receiveFirst(t, s.Store)
	began := time.Now()
	db.exec(`INSERT INTO dgm.system_configurations AS c (key, value, value_type) VALUES ('max_concurrent_improvements', '7', 'integer')
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`)
	if keys := receiveKeys(t, s.Store); !slices.Equal(keys, []string{"max_concurrent_improvements"}) {
		t.Errorf("keys = %v", keys)
	}
	if got := s.Settings().MaxConcurrent; got != 7 {
		t.Errorf("MaxConcurrent = %d, want 7 by the time the change is delivered", got)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s, which the poll may do as well", took)
	}
	// Lost while the connection is away: the new one says that anything may have changed.
	db.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN dgm_events%' AND pid <> pg_backend_pid()`)
	if keys := receiveKeys(t, s.Store); len(keys) != 0 {
		t.Errorf("after a new connection %v are named, want none", keys)
	}
}

// receiveFirst receives what the start delivers: once for the connection that
// listens, once for the first look at the schema, or for both together.
func receiveFirst(t *testing.T, s *Store) {
	t.Helper()
	eventually(t, "the schema was looked at", func() error {
		if s.SchemaDrift().CheckedAt.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
	for first := true; ; first = false {
		select {
		case keys := <-s.ConfigurationChanged():
			if len(keys) != 0 {
				t.Fatalf("a delivery of the start names %v, want none: anything may have changed before", keys)
			}
		case <-time.After(time.Second):
			if !first {
				return
			}
		}
	}
}

func receiveKeys(t *testing.T, s *Store) []string {
	t.Helper()
	select {
	case keys := <-s.ConfigurationChanged():
		return keys
	case <-testContext(t).Done():
		t.Fatal("no change was delivered")
	}
	return nil
}

func TestUnreceivedKeysAreJoined(t *testing.T) {
	t.Parallel()
	s := New(testConfig(""))
	s.configurationMayHaveChanged([]string{"b"})
	s.configurationMayHaveChanged([]string{"a", "b"})
	if got := <-s.ConfigurationChanged(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("keys = %v, want a and b", got)
	}
	s.configurationMayHaveChanged([]string{"b"})
	s.configurationMayHaveChanged(nil)
	s.configurationMayHaveChanged([]string{"c"})
	if got := <-s.ConfigurationChanged(); len(got) != 0 {
		t.Errorf("keys = %v, want none, which means any", got)
	}
	for i := range mostKeys + 1 {
		s.configurationMayHaveChanged([]string{fmt.Sprint(i)})
	}
	if got := <-s.ConfigurationChanged(); len(got) != 0 {
		t.Errorf("%d keys, want none for so many, which means any", len(got))
	}
}

// Anybody may send events: a flood of them is taken in few gulps, and none is lost.
func TestAFloodOfEventsIsJoined(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	stranger := openDatabase(t, pgtest.ReadonlyURL(url))
	receiveFirst(t, s.Store)
	const events = 10*listenJoined + 1
	stranger.exec(`SELECT pg_notify('dgm_events', '{"v": 1, "kind": "configuration", "keys": ["k' || i || '"]}') FROM generate_series(1, $1::integer) i`, events)
	heard, deliveries := map[string]bool{}, 0
	for len(heard) < events {
		deliveries++
		keys := receiveKeys(t, s.Store)
		if len(keys) == 0 {
			break // joined to "any", since nobody received for a while
		}
		for _, key := range keys {
			heard[key] = true
		}
	}
	if deliveries > events/listenJoined+10 {
		t.Errorf("%d events in %d deliveries", events, deliveries)
	}
}

// A connection on which nothing was heard for a while can still be listened to.
func TestListeningGoesOnAfterSilence(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	l, db := startListener(t, url), openDatabase(t, url)
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := l.conn.WaitForNotification(ctx); !errors.Is(err, context.DeadlineExceeded) || l.conn.IsClosed() {
		t.Fatalf("after a wait in vain: error %v, connection closed %v", err, l.conn.IsClosed())
	}
	must(t, ping(testContext(t), l.conn))
	db.exec(`SELECT pg_notify('dgm_events', '{"kind":"x"}')`)
	l.next("x")
}
