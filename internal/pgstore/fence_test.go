// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
	"github.com/acgs/dgm-operator/test/pgtest"
)

func TestP4_DeposedLeaderCannotWrite(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	db, ctx := openDatabase(t, url), testContext(t)
	old := startReady(t, testConfig(url))
	must(t, old.MirrorImprovement(ctx, improvement(1)))
	second := testConfig(url)
	second.Holder = "replica-2"
	newer := startReady(t, second)

	i := improvement(1)
	i.Description = "from the deposed leader"
	if err := old.MirrorImprovement(ctx, i); !errors.Is(err, ErrDeposed) {
		t.Errorf("MirrorImprovement of the deposed leader = %v, want ErrDeposed", err)
	}
	if err := <-old.led; !errors.Is(err, ErrDeposed) {
		t.Errorf("Lead of the deposed leader = %v, want ErrDeposed", err)
	}
	for what, err := range map[string]error{
		"MirrorPolicy": old.MirrorPolicy(ctx, policy(1, "a")),
		"Tombstone":    old.Tombstone(ctx, KindImprovementWorkspace, "shop", i.Name, ""),
		"Ready":        old.Ready(),
	} {
		if !errors.Is(err, ErrDeposed) {
			t.Errorf("%s of the deposed leader = %v, want ErrDeposed", what, err)
		}
	}
	db.want("0", "SELECT count(*) FROM dgm.dgm_archive WHERE description LIKE '%deposed%' OR deleted_at IS NOT NULL")
	i.Description = "from the new leader"
	must(t, newer.MirrorImprovement(ctx, i))
	db.want("from the new leader", "SELECT description FROM dgm.dgm_archive")
	db.want("replica-2", "SELECT holder FROM dgm.writer_fences")
}

// Whoever reads the fence is told the same by each thing that takes the right away.
func TestFenceIsJudgedByEachOfItsParts(t *testing.T) {
	t.Parallel()
	held := fence{epoch: 7, token: uuid.New()}
	at := server{identity: "server/1", incarnation: "1/2/3"}
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		change func(*fenceState)
		err    error
		want   error
	}{
		"all as it was":            {func(*fenceState) {}, nil, nil},
		"the row is gone":          {func(s *fenceState) { *s = fenceState{} }, pgx.ErrNoRows, errFenceLost},
		"it cannot be read":        {func(*fenceState) {}, broken, broken},
		"a standby":                {func(s *fenceState) { s.InRecovery = true }, nil, errStandby},
		"a later leader":           {func(s *fenceState) { s.Epoch, s.Token = 8, uuid.New() }, nil, ErrDeposed},
		"a later one, elsewhere":   {func(s *fenceState) { s.Epoch, s.Identity = 8, "server/2" }, nil, ErrDeposed},
		"another server":           {func(s *fenceState) { s.Identity = "server/2" }, nil, errServerChanged},
		"an earlier epoch":         {func(s *fenceState) { s.Epoch = 6 }, nil, errFenceLost},
		"the epoch of another one": {func(s *fenceState) { s.Token = uuid.New() }, nil, errFenceLost},
		"tables made anew":         {func(s *fenceState) { s.Incarnation = "1/2/4" }, nil, errRestored},
	} {
		state := fenceState{Epoch: held.epoch, Token: held.token, Identity: at.identity, Incarnation: at.incarnation}
		c.change(&state)
		if err := held.check(at, state, c.err); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	s := &session{fence: held, server: at}
	state := fenceState{Epoch: held.epoch, Token: held.token, Identity: at.identity, Incarnation: at.incarnation, WalPosition: 100}
	must(t, s.checkFence(50, state, nil))
	if err := s.checkFence(101, state, nil); !errors.Is(err, errServerChanged) {
		t.Errorf("a log that became shorter: %v", err)
	}
	if seen := s.walPosition.Load(); seen != 100 {
		t.Errorf("the log is known up to %d, want 100", seen)
	}
}

// Two leaders that begin at once: the one that drew the later epoch has the fence,
// whichever comes last, and the other one knows.
func TestP4_ALeaderThatDrewTheEarlierEpochGivesWay(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := New(testConfig(url))
	pool, err := pgxpool.New(ctx, url)
	must(t, err)
	defer pool.Close()
	first, err := s.takeFence(ctx, pool, 0)
	must(t, err)
	// Its epoch is above what it knows of, and below that of who came meanwhile.
	later := first.epoch + 1_000_000
	db.exec("UPDATE dgm.writer_fences SET epoch = $1", later)
	if _, err := s.takeFence(ctx, pool, first.epoch); !errors.Is(err, ErrDeposed) {
		t.Errorf("takeFence of a leader that was deposed = %v, want ErrDeposed", err)
	}
	db.want(int64Text(later), "SELECT epoch FROM dgm.writer_fences")
	must(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := dbsql.New(tx).TakeFence(ctx, dbsql.TakeFenceParams{Cluster: "test", ClusterUid: "uid-of-kube-system", Epoch: first.epoch + 1, Token: uuid.New()})
		if rows != 0 {
			t.Errorf("an earlier epoch took the fence")
		}
		return err
	}))
	// A new leader comes above every epoch that any row knows of.
	for table, insert := range map[string]string{
		"dgm_archive": "INSERT INTO dgm.dgm_archive (improvement_id, description, status, cluster, writer_epoch) VALUES (gen_random_uuid(), 'd', 'pending', 'test', $1)",
		"improvement_workspaces": `WITH a AS (INSERT INTO dgm.dgm_archive (improvement_id, description, status) VALUES (gen_random_uuid(), 'd', 'pending') RETURNING improvement_id)
			INSERT INTO dgm.improvement_workspaces (improvement_id, name, status, cluster, writer_epoch) SELECT improvement_id, 'n', 'created', 'test', $1 FROM a`,
		"bandit_states":         "INSERT INTO dgm.bandit_states (algorithm_type, context_key, arm_id, cluster, writer_epoch) VALUES ('ucb1', 'c', 'a', 'test', $1)",
		"system_configurations": "INSERT INTO dgm.system_configurations (key, value, cluster, writer_epoch) VALUES ('of_epoch', 'v', 'test', $1)",
	} {
		later += 1_000_000
		db.exec(insert, later)
		taken, err := s.takeFence(ctx, pool, 0)
		must(t, err)
		if taken.epoch <= later {
			t.Errorf("the epoch %d is not above %d, which a row of %s has", taken.epoch, later, table)
		}
		later = taken.epoch
	}
	// And above the one that it held itself, of which no row is left.
	taken, err := s.takeFence(ctx, pool, later+1_000_000)
	must(t, err)
	if taken.epoch <= later+1_000_000 {
		t.Errorf("the epoch %d is not above the one that was held", taken.epoch)
	}
	// The sequence goes on from there for other clusters, too.
	db.want("true", "SELECT last_value >= $1::bigint FROM dgm.writer_epoch", taken.epoch)

	// In a new database there is no row to wait for each other at.
	db.exec("DELETE FROM dgm.writer_fences")
	db.exec("BEGIN")
	db.exec("INSERT INTO dgm.writer_fences (cluster, cluster_uid, epoch, token, holder) VALUES ('test', 'uid-of-kube-system', $1, gen_random_uuid(), 'another')", taken.epoch+1_000_000)
	lost := make(chan error, 1)
	go func() {
		_, err := s.takeFence(ctx, pool, 0)
		lost <- err
	}()
	observing := openDatabase(t, url)
	eventually(t, "the second leader waits", func() error {
		if observing.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == "0" {
			return errors.New("it does not")
		}
		return nil
	})
	db.exec("COMMIT")
	if err := <-lost; !errors.Is(err, ErrDeposed) {
		t.Errorf("takeFence of the one that drew the earlier epoch = %v, want ErrDeposed", err)
	}
	db.want("another", "SELECT holder FROM dgm.writer_fences")
}

// While a transaction writes, nobody takes the fence; and who has it knows each
// mirrored table from one that was made anew.
func TestP4_AWriteHoldsOffTheNextLeader(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := New(testConfig(url))
	pool, err := pgxpool.New(ctx, url)
	must(t, err)
	defer pool.Close()
	_, err = s.takeFence(ctx, pool, 0)
	must(t, err)
	taken := make(chan error, 1)
	must(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := dbsql.New(tx).LockFence(ctx, "test"); err != nil {
			return err
		}
		go func() {
			_, err := s.takeFence(ctx, pool, 0)
			taken <- err
		}()
		eventually(t, "the next leader waits", func() error {
			select {
			case err := <-taken:
				t.Fatalf("the fence was taken under a transaction that writes: %v", err)
			default:
			}
			if db.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == "0" {
				return errors.New("it does not")
			}
			return nil
		})
		return nil
	}))
	must(t, <-taken)

	incarnations := func() (checked, locked string) {
		t.Helper()
		row, err := dbsql.New(pool).CheckFence(ctx, "test")
		must(t, err)
		lock, err := dbsql.New(pool).LockFence(ctx, "test")
		must(t, err)
		return row.Incarnation, lock.Incarnation
	}
	tables := []string{"rollback_snapshots", "improvement_workspaces", "bandit_states", "system_configurations", "dgm_archive"}
	for _, table := range append(tables, "constitutional_compliance_logs") {
		must(t, db.tryExec("ALTER TABLE dgm."+table+" DISABLE TRIGGER ALL"))
	}
	for _, table := range tables {
		checked, locked := incarnations()
		must(t, db.tryExec("TRUNCATE dgm."+table+" CASCADE"))
		if now, lockedNow := incarnations(); now == checked || lockedNow == locked || now != lockedNow {
			t.Errorf("after %s was emptied the incarnation is %s (locked: %s), and was %s", table, now, lockedNow, checked)
		}
	}
}

// Leaders are changed while both write: what the first was told is committed
// stays readable, and no row goes back to an older epoch.
func TestP4_LeaderChangeUnderLoadNeverGoesBackwards(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	db, ctx := openDatabase(t, url), testContext(t)
	old := startReady(t, testConfig(url))
	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			i := improvement(n)
			for i.Generation = 1; ; i.Generation++ {
				if err := old.MirrorImprovement(ctx, i); err != nil {
					return
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	newer := startReady(t, testConfig(url))
	for n := range 16 {
		i := improvement(n)
		i.Description = "newer"
		must(t, newer.MirrorImprovement(ctx, i))
	}
	group.Wait()
	db.want("16", "SELECT count(*) FROM dgm.dgm_archive WHERE description = 'newer' AND writer_epoch = (SELECT epoch FROM dgm.writer_fences)")
}

func TestP4_RowOfLaterEpochIsNotOverwritten(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	db.exec("UPDATE dgm.dgm_archive SET writer_epoch = writer_epoch + 1000, description = 'later'")
	i := improvement(1)
	i.Description = "earlier"
	if err := s.MirrorImprovement(ctx, i); !errors.Is(err, ErrDeposed) {
		t.Errorf("MirrorImprovement over a row of a later epoch = %v, want ErrDeposed", err)
	}
	db.want("later", "SELECT description FROM dgm.dgm_archive")
	must(t, s.MirrorImprovement(ctx, improvement(2)))

	// A new leader draws an epoch above it, and is heard.
	next := startReady(t, testConfig(url))
	must(t, next.MirrorImprovement(ctx, i))
	db.want("earlier", "SELECT description FROM dgm.dgm_archive WHERE name = 'improvement-00001'")
}

func TestP4_FailoverThatLostCommitsIsResynced(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	<-s.Resyncs()
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	epoch := openDatabase(t, url).text("SELECT epoch FROM dgm.writer_fences")
	backup := server.BaseBackup(t)
	changed := improvement(1)
	changed.Description = "committed, then lost"
	must(t, s.MirrorImprovement(ctx, changed))
	must(t, s.MirrorImprovement(ctx, improvement(2)))

	server.Failover(t, backup)
	select {
	case why := <-s.Resyncs():
		if why != resyncLost {
			t.Fatalf("resync because %q, want because of lost commits", why)
		}
	case <-ctx.Done():
		t.Fatal("no resync after the failover")
	}
	waitReady(t, s.Store)
	db := openDatabase(t, url)
	db.want("1", "SELECT count(*) FROM dgm.dgm_archive")
	// What controllers do on a resync: everything again.
	must(t, s.MirrorImprovement(ctx, changed))
	must(t, s.MirrorImprovement(ctx, improvement(2)))
	db.want("2", "SELECT count(*) FROM dgm.dgm_archive")
	db.want("committed, then lost", "SELECT description FROM dgm.dgm_archive WHERE name = 'improvement-00001'")
	db.want("true", "SELECT epoch > $1::text::bigint FROM dgm.writer_fences", epoch)
}

// A base backup started without promotion keeps system identifier and timeline;
// the log that got shorter gives it away.
func TestP4_RestoreOnTheSameTimelineIsResynced(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	<-s.Resyncs()
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	backup := server.BaseBackup(t)
	for n := range 200 { // more than the log that a restart writes by itself
		i := improvement(n)
		i.Description = strings.Repeat("lost ", 5000)
		must(t, s.MirrorImprovement(ctx, i))
	}
	server.Kill(t)
	server.Restore(t, backup)
	if why := <-s.Resyncs(); why != resyncLost {
		t.Errorf("resync because %q, want because of lost commits", why)
	}
	waitReady(t, s.Store)
	must(t, s.MirrorImprovement(ctx, improvement(7)))
	openDatabase(t, url).want("2", "SELECT count(*) FROM dgm.dgm_archive")
}

func TestP4_LostFenceRowIsTakenAgainAboveAllRows(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	s, db, ctx := startReady(t, testConfig(url)), openDatabase(t, url), testContext(t)
	must(t, s.MirrorImprovement(ctx, improvement(1)))
	db.exec("UPDATE dgm.dgm_archive SET writer_epoch = writer_epoch * 2")
	later := db.text("SELECT writer_epoch FROM dgm.dgm_archive")
	db.exec("DELETE FROM dgm.writer_fences")
	db.exec("SELECT setval('dgm.writer_epoch', 1)")
	i := improvement(1)
	i.Description = "again"
	eventually(t, "the fence is taken again", func() error { return s.MirrorImprovement(ctx, i) })
	db.want("again/true", "SELECT description || '/' || (writer_epoch > $1::text::bigint) FROM dgm.dgm_archive", later)
}

func TestClusterNameOfAnotherClusterIsRefusedUntilAdopted(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	must(t, startReady(t, testConfig(url)).stop())
	other := testConfig(url)
	other.ClusterUID = "uid-of-another-cluster"
	refused := startLeader(t, other)
	eventually(t, "the mismatch is reported", func() error {
		if err := refused.Ready(); err == nil || !strings.Contains(err.Error(), "--adopt-cluster") {
			return errors.Join(errors.New("Ready does not name --adopt-cluster"), err)
		}
		return nil
	})
	select {
	case err := <-refused.led:
		t.Fatalf("Lead returned %v, want it to keep trying", err)
	default:
	}
	must(t, refused.stop())
	other.AdoptCluster = true
	startReady(t, other)
	openDatabase(t, url).want("uid-of-another-cluster", "SELECT cluster_uid FROM dgm.writer_fences")
}

func TestTwoClustersShareOneSchema(t *testing.T) {
	t.Parallel()
	url := newTestDatabase(t)
	ctx := testContext(t)
	first := startReady(t, testConfig(url))
	config := testConfig(url)
	config.ClusterName, config.ClusterUID = "other", "uid-of-other"
	second := startReady(t, config)
	must(t, first.MirrorImprovement(ctx, improvement(1)))
	i := improvement(2)
	i.Name = improvement(1).Name
	must(t, second.MirrorImprovement(ctx, i))
	must(t, second.Tombstone(ctx, KindImprovementWorkspace, i.Namespace, i.Name, ""))
	openDatabase(t, url).want("1", "SELECT count(*) FROM dgm.dgm_archive WHERE cluster = 'test' AND deleted_at IS NULL")
	var seen int
	must(t, second.LiveObjects(context.Background(), KindImprovementWorkspace, func(Object) error { seen++; return nil }))
	if seen != 0 {
		t.Errorf("the second cluster sees %d live objects, want 0", seen)
	}
}
