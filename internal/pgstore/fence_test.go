// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

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
