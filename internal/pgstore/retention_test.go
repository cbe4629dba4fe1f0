// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// ended is improvement n as it ended so long ago.
func ended(n int, archive, workspace string, ago time.Duration) Improvement {
	i := improvement(n)
	at := time.Now().Add(-ago).UTC().Truncate(time.Microsecond)
	i.ArchiveStatus, i.WorkspaceStatus, i.CompletedAt = archive, workspace, &at
	return i
}

const testDay = 24 * time.Hour

func TestRetentionPurgesExactBytesAndKeepsDigests(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	store := startReady(t, testConfig(url))
	ctx, db := testContext(t), openDatabase(t, url)
	running := improvement(3)
	running.ArchiveStatus, running.WorkspaceStatus = lifecycle.ArchiveRunning, lifecycle.WorkspaceValidating
	rollingBack := improvement(4) // it was completed, and its bytes are needed just now
	rollingBack.ArchiveStatus, rollingBack.WorkspaceStatus = lifecycle.ArchiveCompleted, lifecycle.WorkspaceValidating
	all := []Improvement{
		ended(1, lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted, 31*testDay),
		ended(2, lifecycle.ArchiveRolledBack, lifecycle.WorkspaceFailed, 29*testDay),
		running, rollingBack,
		ended(5, lifecycle.ArchiveFailed, lifecycle.WorkspaceFailed, 400*testDay),
	}
	digests := map[int]string{}
	for n, i := range all {
		digest, err := store.SaveSnapshot(ctx, i, []byte("exact bytes"))
		must(t, err)
		digests[n] = digest
	}
	db.exec(`ALTER TABLE dgm.rollback_snapshots DISABLE TRIGGER refuse_update`)
	db.exec(`UPDATE dgm.rollback_snapshots SET created_at = now() - interval '500 days'`)
	db.exec(`ALTER TABLE dgm.rollback_snapshots ENABLE TRIGGER refuse_update`)

	must(t, store.session.Load().purgeSnapshots(ctx))
	for n, purged := range []bool{true, false, false, false, true} {
		_, err := store.LoadSnapshot(ctx, all[n].ImprovementID)
		if errors.Is(err, ErrIntegrity) != purged {
			t.Errorf("snapshot %d: %v, want purged to be %t", n+1, err, purged)
		}
		db.want(digests[n], "SELECT sha256 FROM dgm.rollback_snapshots WHERE improvement_id = $1", all[n].ImprovementID)
		attempt, err := store.NewestAttempt(ctx, all[n].Namespace, all[n].Name)
		must(t, err)
		if attempt.HasSnapshot == purged {
			t.Errorf("snapshot %d: the archive says that it is there: %t", n+1, attempt.HasSnapshot)
		}
	}
	db.want("2", "SELECT count(*) FROM dgm.rollback_snapshots WHERE purged_at IS NOT NULL AND bytes = ''")
	db.want("", "SELECT current_setting('dgm.purging', true)")

	before := db.text("SELECT string_agg(xmin::text, ' ' ORDER BY improvement_id) FROM dgm.rollback_snapshots")
	must(t, store.session.Load().purgeSnapshots(ctx))
	db.want(before, "SELECT string_agg(xmin::text, ' ' ORDER BY improvement_id) FROM dgm.rollback_snapshots")
}

func TestRetentionArchivesWorkspaces(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	store := startReady(t, testConfig(url))
	ctx, db := testContext(t), openDatabase(t, url)
	old, fresh := ended(1, lifecycle.ArchiveCompleted, lifecycle.WorkspaceCompleted, 73*time.Hour), ended(2, lifecycle.ArchiveFailed, lifecycle.WorkspaceFailed, time.Hour)
	statuses := "SELECT string_agg(status, ' ' ORDER BY name) FROM dgm.improvement_workspaces"
	cleanUp := func(enabled string) {
		db.exec("UPDATE dgm.system_configurations SET value = $1 WHERE key = 'workspace_cleanup_enabled'", enabled)
		eventually(t, "the setting is obeyed", func() error {
			if got := fmt.Sprint(store.Settings().ArchiveWorkspaces); got != enabled {
				return fmt.Errorf("workspace_cleanup_enabled is %s", got)
			}
			return nil
		})
	}

	cleanUp("false")
	for _, i := range []Improvement{old, fresh} {
		must(t, store.MirrorImprovement(ctx, i))
	}
	must(t, store.session.Load().archiveWorkspaces(ctx))
	db.want("completed failed", statuses)
	cleanUp("true")
	must(t, store.session.Load().archiveWorkspaces(ctx))
	db.want("archived failed", statuses)

	// The object says completed as ever: that is no reason to write (P12).
	state := "SELECT string_agg(xmin::text, ' ' ORDER BY name) FROM dgm.improvement_workspaces"
	before := db.text(state)
	store.ForgetAllSynced()
	must(t, store.MirrorImprovement(ctx, old))
	must(t, store.session.Load().archiveWorkspaces(ctx))
	db.want(before, state)

	// Another step counts again.
	old.WorkspaceStatus, old.CompletedAt = lifecycle.WorkspaceValidating, nil
	must(t, store.MirrorImprovement(ctx, old))
	db.want("validating failed", statuses)
}
