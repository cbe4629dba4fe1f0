// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/compatv5"
)

// v5 is a replica of the release with schema version 5, which goes on working
// while one of this release has migrated beside it: its statements are those of
// internal/compatv5, which stays as it is.
type v5 struct {
	t        testing.TB
	conn     *pgx.Conn
	epoch    int64
	revision int64
}

const v5Cluster = "old"

// v5Attempt is what it says of an attempt.
type v5Attempt struct {
	id                        uuid.UUID
	name, uid, status, reason string
	generation                int64
}

// write is a write transaction of it, which locks the fence first.
func (o *v5) write(do func(context.Context, *compatv5.Queries)) {
	o.t.Helper()
	ctx := testContext(o.t)
	must(o.t, pgx.BeginFunc(ctx, o.conn, func(tx pgx.Tx) error {
		q := compatv5.New(tx)
		fence, err := q.LockFence(ctx, v5Cluster)
		must(o.t, err)
		if fence.Epoch != o.epoch || fence.InRecovery {
			o.t.Fatalf("the fence is %+v, want epoch %d", fence, o.epoch)
		}
		o.revision++
		do(ctx, q)
		return nil
	}))
}

func (o *v5) takeFence() {
	o.t.Helper()
	ctx, q := testContext(o.t), compatv5.New(o.conn)
	_, err := q.ServerIdentity(ctx)
	must(o.t, err)
	highest, err := q.HighestEpoch(ctx, v5Cluster)
	must(o.t, err)
	o.epoch, err = q.NextEpoch(ctx)
	must(o.t, err)
	taken, err := q.TakeFence(ctx, compatv5.TakeFenceParams{Cluster: v5Cluster, ClusterUid: "u", Epoch: o.epoch, Token: uuid.New(), Holder: "old-0"})
	must(o.t, err)
	if taken != 1 || o.epoch <= highest {
		o.t.Fatalf("the fence was not taken with epoch %d above %d", o.epoch, highest)
	}
}

func (o *v5) archiveRows(attempts []v5Attempt) compatv5.UpsertArchiveParams {
	p := compatv5.UpsertArchiveParams{Cluster: v5Cluster, WriterEpoch: o.epoch}
	for _, a := range attempts {
		p.Ids = append(p.Ids, uuid.New())
		p.ImprovementIds = append(p.ImprovementIds, a.id)
		p.ParentImprovementIds, p.Attempts = append(p.ParentImprovementIds, ""), append(p.Attempts, 1)
		p.MaterialDigests = append(p.MaterialDigests, "m")
		p.Timestamps = append(p.Timestamps, pgtype.Timestamptz{Time: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), Valid: true})
		p.Descriptions, p.AlgorithmChangesDocs = append(p.Descriptions, "d"), append(p.AlgorithmChangesDocs, `[{"name": "c"}]`)
		p.PerformanceBeforeDocs, p.PerformanceAfterDocs = append(p.PerformanceBeforeDocs, ""), append(p.PerformanceAfterDocs, "")
		p.ConstitutionalComplianceScores, p.ComplianceDetailsDocs = append(p.ConstitutionalComplianceScores, "0.999"), append(p.ComplianceDetailsDocs, "")
		p.Statuses, p.OutcomeReasons = append(p.Statuses, a.status), append(p.OutcomeReasons, a.reason)
		p.RollbackDataDocs, p.MetadataDocs = append(p.RollbackDataDocs, ""), append(p.MetadataDocs, fmt.Sprintf(`{"phase": %q}`, a.status))
		p.CreatedBys, p.ContentDigests = append(p.CreatedBys, "alice"), append(p.ContentDigests, []byte(a.status+a.reason))
		p.Namespaces, p.Names, p.Uids = append(p.Namespaces, "ns"), append(p.Names, a.name), append(p.Uids, a.uid)
		p.Generations, p.Revisions = append(p.Generations, a.generation), append(p.Revisions, o.revision)
		p.ConstitutionalHashes = append(p.ConstitutionalHashes, "")
	}
	return p
}

// workspaceRows leaves out the columns that may be null: shorter arrays are
// filled up with nulls.
func (o *v5) workspaceRows(attempts []v5Attempt) compatv5.UpsertWorkspacesParams {
	p := compatv5.UpsertWorkspacesParams{Cluster: v5Cluster, WriterEpoch: o.epoch}
	for _, a := range attempts {
		status := map[string]string{"pending": "created", "running": "validating", "completed": "completed"}[a.status]
		if status == "" {
			status = "failed"
		}
		p.Ids, p.ImprovementIds = append(p.Ids, uuid.New()), append(p.ImprovementIds, a.id)
		p.Descriptions, p.Statuses, p.TargetServices = append(p.Descriptions, "d"), append(p.Statuses, status), append(p.TargetServices, "shop")
		p.ConfigurationDocs, p.ComplianceValidated = append(p.ConfigurationDocs, "{}"), append(p.ComplianceValidated, true)
		p.Namespaces, p.Names, p.Uids = append(p.Namespaces, "ns"), append(p.Names, a.name), append(p.Uids, a.uid)
		p.Generations, p.Revisions = append(p.Generations, a.generation), append(p.Revisions, o.revision)
	}
	return p
}

// mirror writes attempts as that release does, and returns how many archive rows
// were written.
func (o *v5) mirror(attempts ...v5Attempt) (archived int64) {
	o.t.Helper()
	o.write(func(ctx context.Context, q *compatv5.Queries) {
		rows := o.archiveRows(attempts)
		var err error
		archived, err = q.UpsertArchive(ctx, rows)
		must(o.t, err)
		_, err = q.UpsertWorkspaces(ctx, o.workspaceRows(attempts))
		must(o.t, err)
		must(o.t, q.TouchFinalArchive(ctx, compatv5.TouchFinalArchiveParams{
			WriterEpoch: o.epoch, ImprovementIds: rows.ImprovementIds, Uids: rows.Uids, Generations: rows.Generations, Revisions: rows.Revisions,
		}))
		newer, err := q.NewerImprovements(ctx, compatv5.NewerImprovementsParams{ImprovementIds: rows.ImprovementIds, WriterEpoch: o.epoch})
		must(o.t, err)
		if len(newer) > 0 {
			o.t.Errorf("rows of a newer leader: %v", newer)
		}
		changed, err := q.ChangedArchive(ctx, compatv5.ChangedArchiveParams(rows))
		must(o.t, err)
		changedWorkspaces, err := q.ChangedWorkspaces(ctx, compatv5.ChangedWorkspacesParams(o.workspaceRows(attempts)))
		must(o.t, err)
		if len(changed)+len(changedWorkspaces) > 0 {
			o.t.Errorf("just written, and yet to be changed: %v, %v", changed, changedWorkspaces)
		}
	})
	return archived
}

// touch is mirror of a final row, whose content differs and stays.
func (o *v5) touch(a v5Attempt) (archived int64) {
	o.t.Helper()
	o.write(func(ctx context.Context, q *compatv5.Queries) {
		rows := o.archiveRows([]v5Attempt{a})
		var err error
		archived, err = q.UpsertArchive(ctx, rows)
		must(o.t, err)
		must(o.t, q.TouchFinalArchive(ctx, compatv5.TouchFinalArchiveParams{
			WriterEpoch: o.epoch, ImprovementIds: rows.ImprovementIds, Uids: rows.Uids, Generations: rows.Generations, Revisions: rows.Revisions,
		}))
	})
	return archived
}

func (o *v5) tombstone(names ...string) {
	o.t.Helper()
	namespaces, keep := make([]string, len(names)), make([]string, len(names))
	for i := range names {
		namespaces[i] = "ns"
	}
	o.write(func(ctx context.Context, q *compatv5.Queries) {
		pending := compatv5.PendingTombstonesImprovementsParams{Namespaces: namespaces, Names: names, KeepUids: keep, Cluster: v5Cluster}
		before, err := q.PendingTombstonesImprovements(ctx, pending)
		must(o.t, err)
		_, err = q.TombstoneArchive(ctx, compatv5.TombstoneArchiveParams{
			WriterEpoch: o.epoch, Revision: o.revision, Cluster: v5Cluster, Namespaces: namespaces, Names: names, KeepUids: keep,
		})
		must(o.t, err)
		_, err = q.TombstoneWorkspaces(ctx, compatv5.TombstoneWorkspacesParams{
			WriterEpoch: o.epoch, Revision: o.revision, Cluster: v5Cluster, Namespaces: namespaces, Names: names, KeepUids: keep,
		})
		must(o.t, err)
		after, err := q.PendingTombstonesImprovements(ctx, pending)
		must(o.t, err)
		if len(before) != len(names) || len(after) != 0 {
			o.t.Errorf("%d deletions were to be recorded, %d are left", len(before), len(after))
		}
	})
}

func (o *v5) snapshot(id uuid.UUID) {
	o.t.Helper()
	o.write(func(ctx context.Context, q *compatv5.Queries) {
		row := compatv5.InsertSnapshotParams{
			ImprovementID: id, Revision: o.revision, WriterEpoch: o.epoch, Format: "v1", Sha256: strings.Repeat("ab", 32), PlainSize: 3, KeyID: "k", Bytes: []byte("abc"),
		}
		for _, want := range []int64{1, 0} { // the second finds it there
			inserted, err := q.InsertSnapshot(ctx, row)
			must(o.t, err)
			if inserted != want {
				o.t.Errorf("%d snapshots were inserted, want %d", inserted, want)
			}
		}
		digest, err := q.SnapshotDigest(ctx, id)
		must(o.t, err)
		stored, err := q.Snapshot(ctx, id)
		must(o.t, err)
		without, err := q.WithoutSnapshot(ctx, []uuid.UUID{id, uuid.Nil})
		must(o.t, err)
		if digest != row.Sha256 || string(stored.Bytes) != "abc" || !slices.Equal(without, []uuid.UUID{uuid.Nil}) {
			o.t.Errorf("the snapshot is %+v with digest %s; without one are %v", stored, digest, without)
		}
	})
}

func (o *v5) arms(names ...string) {
	o.t.Helper()
	o.write(func(ctx context.Context, q *compatv5.Queries) {
		p := compatv5.UpsertArmsParams{Cluster: v5Cluster, WriterEpoch: o.epoch}
		for _, name := range names {
			p.Ids, p.AlgorithmTypes = append(p.Ids, uuid.New()), append(p.AlgorithmTypes, "ucb1")
			p.ContextKeys, p.ArmIds = append(p.ContextKeys, "old/ns/p/default"), append(p.ArmIds, name)
			p.SafetyThresholds, p.RiskTolerances = append(p.SafetyThresholds, "0.8"), append(p.RiskTolerances, "0.1")
			p.Namespaces, p.Names, p.Uids = append(p.Namespaces, "ns"), append(p.Names, "p"), append(p.Uids, "policy")
			p.Generations, p.Revisions = append(p.Generations, 1), append(p.Revisions, o.revision)
		}
		_, err := q.UpsertArms(ctx, p)
		must(o.t, err)
		must(o.t, q.TombstoneStrayArms(ctx, compatv5.TombstoneStrayArmsParams{
			WriterEpoch: o.epoch, Revision: o.revision, PolicyUids: []string{"policy"}, Cluster: v5Cluster,
			Uids: p.Uids, AlgorithmTypes: p.AlgorithmTypes, ContextKeys: p.ContextKeys, ArmIds: p.ArmIds,
		}))
		changed, err := q.ChangedArms(ctx, compatv5.ChangedArmsParams(p))
		must(o.t, err)
		stray, err := q.StrayArms(ctx, compatv5.StrayArmsParams{
			PolicyUids: []string{"policy"}, Cluster: v5Cluster, Uids: p.Uids, AlgorithmTypes: p.AlgorithmTypes, ContextKeys: p.ContextKeys, ArmIds: p.ArmIds,
		})
		must(o.t, err)
		newer, err := q.NewerArms(ctx, compatv5.NewerArmsParams{PolicyUids: []string{"policy"}, Cluster: v5Cluster, WriterEpoch: o.epoch})
		must(o.t, err)
		if len(changed)+len(stray)+len(newer) > 0 {
			o.t.Errorf("just written, and yet changed %v, stray %v, newer %v", changed, stray, newer)
		}
	})
}

// lookups reads what its controllers ask for.
func (o *v5) lookups(live []string) {
	o.t.Helper()
	ctx, q := testContext(o.t), compatv5.New(o.conn)
	improvements, err := q.LiveImprovements(ctx, compatv5.LiveImprovementsParams{Cluster: v5Cluster, PageSize: 100})
	must(o.t, err)
	var names []string
	for _, one := range improvements {
		names = append(names, one.Name)
	}
	if !slices.Equal(names, live) {
		o.t.Errorf("live are %q, want %q", names, live)
	}
	newest, err := q.NewestAttempts(ctx, compatv5.NewestAttemptsParams{Namespaces: []string{"ns"}, Names: []string{"done"}, Cluster: v5Cluster})
	must(o.t, err)
	if len(newest) != 1 || newest[0].Status != "rolled_back" || !newest[0].HasSnapshot {
		o.t.Errorf("the newest attempt of done is %+v", newest)
	}
	policies, err := q.LivePolicies(ctx, compatv5.LivePoliciesParams{Cluster: v5Cluster, PageSize: 100})
	must(o.t, err)
	if len(policies) != 1 {
		o.t.Errorf("live policies are %+v", policies)
	}
	_, err = q.EnsureMetricPartitions(ctx)
	must(o.t, err)
	_, err = q.SettingValues(ctx, []string{"max_improvement_attempts"})
	must(o.t, err)
}

func TestReplicaOfVersion5WorksBesideTheNewestSchema(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"", RoleService} {
		t.Run("as "+role, func(t *testing.T) {
			t.Parallel()
			_, db := newSchema(t)
			conn := openDatabase(t, db.conn.Config().ConnString()).conn
			if role != "" {
				_, err := conn.Exec(testContext(t), "SET ROLE "+role)
				must(t, err)
			}
			old := &v5{t: t, conn: conn}
			old.takeFence()
			done := v5Attempt{id: uuid.New(), name: "done", uid: "1", status: "pending", generation: 1}
			gone := v5Attempt{id: uuid.New(), name: "gone", uid: "2", status: "pending", generation: 1}
			old.mirror(done, gone)
			old.snapshot(done.id)
			for _, status := range []string{"running", "completed"} {
				done.status = status
				old.mirror(done)
			}
			done.generation, done.reason = 2, "edited after its end"
			if archived := old.touch(done); archived != 0 {
				t.Errorf("a final row was written %d times", archived)
			}
			db.want("2", "SELECT generation FROM dgm.dgm_archive WHERE name = 'done'")
			done.status = "rolled_back"
			if archived := old.mirror(done); archived != 1 {
				t.Errorf("completed did not become rolled_back")
			}
			old.arms("keep", "fast")
			old.arms("keep")
			old.tombstone("gone")
			old.lookups([]string{"done"})
			db.want("failed ObjectDeleted", "SELECT status || ' ' || outcome_reason FROM dgm.dgm_archive WHERE name = 'gone'")

			// The newer replica takes over, and the old one sees it.
			c := testConfig(db.conn.Config().ConnString())
			c.ClusterName, c.ClusterUID = v5Cluster, "u"
			startReady(t, c)
			fence, err := compatv5.New(old.conn).CheckFence(testContext(t), v5Cluster)
			must(t, err)
			if fence.Epoch <= old.epoch {
				t.Errorf("the newer replica leads with epoch %d, the old one had %d", fence.Epoch, old.epoch)
			}
		})
	}
}
