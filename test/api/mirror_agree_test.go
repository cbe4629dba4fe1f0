// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// rowsOfPhase are the statuses, of the archive and of the workspace, that
// docs/lifecycle.md gives each phase; an attempt that was Completed keeps its
// archive row on the way back.
var rowsOfPhase = map[dgmv1alpha1.Phase][2]string{
	dgmv1alpha1.PhasePending:          {"pending", "created"},
	dgmv1alpha1.PhasePreparing:        {"pending", "active"},
	dgmv1alpha1.PhaseTesting:          {"running", "testing"},
	dgmv1alpha1.PhaseValidating:       {"running", "validating"},
	dgmv1alpha1.PhaseAwaitingApproval: {"running", "validating"},
	dgmv1alpha1.PhaseApplying:         {"running", "validating"},
	dgmv1alpha1.PhaseObserving:        {"running", "validating"},
	dgmv1alpha1.PhaseCompleted:        {"completed", "completed"},
	dgmv1alpha1.PhaseRollingBack:      {"running", "validating"},
	dgmv1alpha1.PhaseRolledBack:       {"rolled_back", "failed"},
	dgmv1alpha1.PhaseFailed:           {"failed", "failed"},
}

// improvementRow is what the database says of an attempt.
type improvementRow struct {
	ID, ArchiveUID, UID, Archive, Workspace, Phase, Configuration string
	ArchiveGeneration, Generation                                 int64
	ArchiveDeleted, Deleted                                       bool
}

const improvementRows = `SELECT a.improvement_id::text, a.uid, coalesce(w.uid, ''), a.status, coalesce(w.status, ''),
	coalesce(a.metadata->>'phase', ''), coalesce(w.configuration::text, ''), a.generation, coalesce(w.generation, 0),
	a.deleted_at IS NOT NULL, w.deleted_at IS NOT NULL
	FROM dgm.dgm_archive a LEFT JOIN dgm.improvement_workspaces w USING (improvement_id)`

// armRow is what the database says of an arm of a policy.
type armRow struct {
	UID, Arm, Threshold string
	Generation          int64
	Deleted             bool
}

const armRows = `SELECT uid, arm_id, coalesce(safety_threshold::text, ''), coalesce(generation, 0), deleted_at IS NOT NULL FROM dgm.bandit_states WHERE cluster IS NOT NULL`

// mirrored is the cluster and the database at one moment.
type mirrored struct {
	improvements []dgmv1alpha1.ImprovementWorkspace
	policies     []dgmv1alpha1.BanditPolicy
	rows         map[string]improvementRow // by improvement id
	arms         map[string][]armRow       // by uid
}

func (w *world) observeMirror() (mirrored, error) {
	var m mirrored
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var improvements dgmv1alpha1.ImprovementWorkspaceList
	var policies dgmv1alpha1.BanditPolicyList
	if err := errors.Join(w.List(ctx, &improvements, w.seen()), w.List(ctx, &policies, w.seen())); err != nil {
		return m, err
	}
	m.improvements, m.policies = improvements.Items, policies.Items
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return m, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := collect[improvementRow](ctx, conn, improvementRows)
	if err != nil {
		return m, err
	}
	m.rows = make(map[string]improvementRow, len(rows))
	for _, row := range rows {
		m.rows[row.ID] = row
	}
	arms, err := collect[armRow](ctx, conn, armRows)
	m.arms = map[string][]armRow{}
	for _, arm := range arms {
		m.arms[arm.UID] = append(m.arms[arm.UID], arm)
	}
	return m, err
}

func collect[T any](ctx context.Context, conn *pgx.Conn, sql string) ([]T, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// agree waits until the database holds each object exactly, tombstones of what
// is gone and nothing else, and each object says so.
func (w *world) agree() {
	w.Helper()
	w.eventuallyIn(90*time.Second, "the database agrees with the cluster", func() error {
		m, err := w.observeMirror()
		if err != nil {
			return err
		}
		return m.disagreement()
	})
}

// disagreement is the first thing on which cluster and database differ.
func (m mirrored) disagreement() error {
	live := map[string]bool{}
	for i := range m.improvements {
		object := &m.improvements[i]
		live[string(object.UID)] = true
		if !saysSynced(object.Status.Conditions, object.Generation) {
			return fmt.Errorf("%s does not say that it is synced: %+v", object.Name, object.Status.Conditions)
		}
		if err := m.checkImprovement(object); err != nil {
			return err
		}
	}
	for i := range m.policies {
		object := &m.policies[i]
		live[string(object.UID)] = true
		if !saysSynced(object.Status.Conditions, object.Generation) {
			return fmt.Errorf("policy %s does not say that it is synced: %+v", object.Name, object.Status.Conditions)
		}
		if err := m.checkPolicy(object); err != nil {
			return err
		}
	}
	for _, row := range m.rows {
		if !live[row.ArchiveUID] && (!row.ArchiveDeleted || !row.Deleted) {
			return fmt.Errorf("%+v is of an object that is gone, and no tombstone", row)
		}
		if !live[row.ArchiveUID] && (row.Archive == "pending" || row.Archive == "running") {
			return fmt.Errorf("%+v is a tombstone and goes on for ever", row)
		}
	}
	for uid, arms := range m.arms {
		for _, arm := range arms {
			if !live[uid] && !arm.Deleted {
				return fmt.Errorf("arm %+v is of a policy that is gone, and no tombstone", arm)
			}
		}
	}
	return nil
}

func saysSynced(conditions []metav1.Condition, generation int64) bool {
	synced := meta.FindStatusCondition(conditions, dgmv1alpha1.ConditionDatabaseSynced)
	return synced != nil && synced.Status == metav1.ConditionTrue && synced.ObservedGeneration == generation
}

func (m mirrored) checkImprovement(object *dgmv1alpha1.ImprovementWorkspace) error {
	row, found := m.rows[object.Status.ImprovementID]
	if !found {
		return fmt.Errorf("%s: attempt %q has no row", object.Name, object.Status.ImprovementID)
	}
	want := improvementRow{
		ID: row.ID, Configuration: row.Configuration,
		ArchiveUID: string(object.UID), UID: string(object.UID),
		Archive: rowsOfPhase[object.Status.Phase][0], Workspace: rowsOfPhase[object.Status.Phase][1],
		Phase: string(object.Status.Phase), ArchiveGeneration: object.Generation, Generation: object.Generation,
	}
	if wasCompleted := object.Status.KeptAt != nil; wasCompleted && object.Status.Phase != dgmv1alpha1.PhaseRolledBack {
		want.Archive, want.Phase = "completed", row.Phase // final until it is rolled back
	}
	if row != want {
		return fmt.Errorf("%s: the row is\n%+v, want\n%+v", object.Name, row, want)
	}
	if !sameJSON(row.Configuration, object.Spec) {
		return fmt.Errorf("%s: the row's configuration is %s, the spec %+v", object.Name, row.Configuration, object.Spec)
	}
	return nil
}

func sameJSON(document string, value any) bool {
	encoded, err := json.Marshal(value)
	var a, b any
	return err == nil && json.Unmarshal(encoded, &a) == nil && json.Unmarshal([]byte(document), &b) == nil && reflect.DeepEqual(a, b)
}

func (m mirrored) checkPolicy(object *dgmv1alpha1.BanditPolicy) error {
	rows := map[string]armRow{}
	for _, arm := range m.arms[string(object.UID)] {
		if !arm.Deleted {
			rows[arm.Arm] = arm
		}
	}
	if len(rows) != len(object.Spec.Arms) {
		return fmt.Errorf("policy %s has %d arms, the database %v", object.Name, len(object.Spec.Arms), rows)
	}
	for _, arm := range object.Spec.Arms {
		row, found := rows[arm.Name]
		if !found || row.Generation != object.Generation || !sameDecimal(row.Threshold, string(object.Spec.Safety.Threshold)) {
			return fmt.Errorf("policy %s of generation %d: the row of arm %s is %+v", object.Name, object.Generation, arm.Name, row)
		}
	}
	return nil
}

func sameDecimal(a, b string) bool {
	var x, y float64
	_, errX := fmt.Sscan(a, &x)
	_, errY := fmt.Sscan(b, &y)
	return errX == nil && errY == nil && x == y
}

func (w *world) policy(name string, arms ...string) *dgmv1alpha1.BanditPolicy {
	policy := &dgmv1alpha1.BanditPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec:       dgmv1alpha1.BanditPolicySpec{Algorithm: dgmv1alpha1.Algorithm{Type: dgmv1alpha1.UCB1}},
	}
	for _, arm := range arms {
		policy.Spec.Arms = append(policy.Spec.Arms, dgmv1alpha1.Arm{Name: arm, Description: "arm " + arm})
	}
	return policy
}

// refusedSQL runs SQL that the database must refuse with a code.
func (w *world) refusedSQL(sql, code string) {
	w.Helper()
	_, err := w.tryQuery(sql)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		w.Errorf("%s: %v, want it refused with %s", sql, err, code)
	}
}

// edit merges a JSON document into an object, and may find it gone.
func (w *world) edit(object client.Object, patch string) {
	w.Helper()
	target := object.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy has the type of the original
	err := w.Patch(context.Background(), target, client.RawPatch("application/merge-patch+json", []byte(patch)))
	if err != nil {
		w.Errorf("edit %s: %v", object.GetName(), err)
	}
}

func (w *world) remove(object client.Object) {
	w.Helper()
	if err := w.Delete(context.Background(), object.DeepCopyObject().(client.Object)); err != nil { //nolint:forcetypeassert // a copy has the type of the original
		w.Errorf("delete %s: %v", object.GetName(), err)
	}
}

// inParallel calls do for 0 … n-1 from that many goroutines.
func inParallel(workers, n int, do func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// lead starts the operator and waits until it leads and has migrated; a replica
// that does not lead is ready as soon as the database answers.
func (w *world) lead(args ...string) {
	w.Helper()
	w.operator = w.launch("replica-0", args...)
	w.eventually("the operator leads", func() error { return leads(w.operator) })
}

// kubelet starts the operator and starts it again whenever it ends. kill ends
// the present one without notice.
func (w *world) kubelet(args ...string) (kill func()) {
	w.Helper()
	var mu sync.Mutex
	stopped := false
	operator := w.launch("replica-0", args...)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			<-operator.Exited()
			mu.Lock()
			if stopped {
				mu.Unlock()
				return
			}
			operator = w.run("replica-0", args...)
			mu.Unlock()
		}
	})
	w.Cleanup(func() {
		mu.Lock()
		stopped = true
		operator.Kill()
		mu.Unlock()
		wg.Wait()
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		operator.Kill()
	}
}

func leads(operator *operatortest.Operator) error {
	if !strings.Contains(operator.Log(), "Database is ready") {
		return errors.New("it has not taken the database over")
	}
	return nil
}

func clientKey(object client.Object) client.ObjectKey { return client.ObjectKeyFromObject(object) }

// outbox counts what the operator keeps in the cluster until the database is back.
func (w *world) outbox() int {
	w.Helper()
	var kept corev1.ConfigMapList
	if err := w.List(context.Background(), &kept, client.InNamespace("dgm-system"), client.HasLabels{"dgm.acgs.io/outbox"}); err != nil {
		w.Fatal(err)
	}
	return len(kept.Items)
}
