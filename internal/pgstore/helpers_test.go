// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/pgtest"
)

const testTimeout = 180 * time.Second

var testKeyset = func() tink.AEAD {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		panic(err)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		panic(err)
	}
	return primitive
}()

// testConfig is that of a store that migrates as a member of dgm_owner and works
// as a member of dgm_service.
func testConfig(url string) Config {
	return Config{
		URL:          func() (string, error) { return pgtest.ServiceURL(url), nil },
		MigrationURL: func() (string, error) { return pgtest.MigrationURL(url), nil },
		ClusterName:  "test", ClusterUID: "uid-of-kube-system", Holder: "replica-1",
		AEAD: func(context.Context) (tink.AEAD, string, error) { return testKeyset, "key-1", nil },
	}
}

// leader is a store that leads until the test ends or stop is called.
type leader struct {
	*Store
	stop func() error // ends Lead and returns its error
	led  chan error
}

func startLeader(t testing.TB, c Config) *leader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &leader{Store: New(c), led: make(chan error, 1)}
	finished := make(chan struct{})
	go func() {
		l.led <- l.Lead(ctx)
		close(finished)
	}()
	l.stop = func() error {
		cancel()
		<-finished
		return <-l.led
	}
	t.Cleanup(func() {
		cancel()
		<-finished
	})
	return l
}

// startReady is startLeader, and waits until it is ready.
func startReady(t testing.TB, c Config) *leader {
	t.Helper()
	l := startLeader(t, c)
	waitReady(t, l.Store)
	return l
}

func waitReady(t testing.TB, s *Store) {
	t.Helper()
	eventually(t, "the store is ready", s.Ready)
}

// eventually waits for check to return nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// improvement is a complete one; n tells it from others.
func improvement(n int) Improvement {
	return Improvement{
		Object:         Object{Namespace: "shop", Name: fmt.Sprintf("improvement-%05d", n), UID: fmt.Sprintf("uid-%05d", n), Generation: 1},
		ImprovementID:  uuid.NewSHA1(uuid.NameSpaceURL, []byte(fmt.Sprint(n))),
		Attempt:        1,
		MaterialDigest: "digest", Description: "Serve the product list from cache", CreatedBy: "alice",
		Timestamp: time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC), ArchiveStatus: lifecycle.ArchivePending,
		AlgorithmChanges: json.RawMessage(`[{"name":"cache","patch":"data: {CACHE_TTL: \"60\"}"}]`),
		Metadata:         json.RawMessage(fmt.Sprintf(`{"n":%d,"f":1.50}`, n)),
		WorkspaceStatus:  lifecycle.WorkspaceCreated, TargetService: "checkout", ImprovementType: "ConfigurationUpdate", Priority: "Medium",
		Configuration: json.RawMessage(`{"changes":[{"name":"cache","type":"Merge"}]}`),
	}
}

func policy(n int, arms ...string) Policy {
	p := Policy{Object: Object{Namespace: "shop", Name: fmt.Sprintf("policy-%03d", n), UID: fmt.Sprintf("policy-uid-%03d", n), Generation: 1}}
	for _, arm := range arms {
		p.Arms = append(p.Arms, BanditArm{
			AlgorithmType: AlgorithmConservativeBandit, ContextKey: fmt.Sprintf("test/shop/policy-%03d/default", n), ArmID: arm,
			SafetyThreshold: "0.8", RiskTolerance: "0.1", ExplorationData: json.RawMessage(`{"riskScore":"0.2"}`),
		})
	}
	return p
}

// observer is a direct connection, as another service would have it.
type observer struct {
	t    testing.TB
	conn *pgx.Conn
}

func openDatabase(t testing.TB, url string) *observer {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &observer{t: t, conn: conn}
}

func (d *observer) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.conn.Exec(testContext(d.t), sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// text returns the one value that a query yields, as text.
func (d *observer) text(sql string, args ...any) string {
	d.t.Helper()
	var out *string
	err := d.conn.QueryRow(testContext(d.t), "SELECT ("+sql+")::text", args...).Scan(&out)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		d.t.Fatalf("%s: %v", sql, err)
	}
	if out == nil {
		return ""
	}
	return *out
}

func (d *observer) want(expected, sql string, args ...any) {
	d.t.Helper()
	if got := d.text(sql, args...); got != expected {
		d.t.Errorf("%s = %q, want %q", sql, got, expected)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newTestDatabase is an empty database.
func newTestDatabase(t testing.TB) string {
	t.Helper()
	return pgtest.Shared(t).Database(t)
}

var newestSchema struct {
	sync.Once
	database string
}

// migratedDatabase is a database with the newest schema, copied from one that was
// migrated once: migrating takes longer than most tests.
func migratedDatabase(t testing.TB) string {
	t.Helper()
	newestSchema.Do(func() {
		template := newTestDatabase(t)
		m, err := NewMigrator(testContext(t), pgtest.MigrationURL(template))
		must(t, err)
		_, err = m.Up(testContext(t))
		must(t, err)
		must(t, m.Close())
		config, err := pgx.ParseConfig(template)
		must(t, err)
		newestSchema.database = config.Database
	})
	return pgtest.Shared(t).CopyOf(t, newestSchema.database)
}

func int64Text(n int64) string { return fmt.Sprint(n) }
