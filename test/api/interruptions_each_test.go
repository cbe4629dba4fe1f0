// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// end is how an interruption ends.
type end struct {
	// says is the cell of the table in docs/lifecycle.md.
	says string
	// waits is the reason for which it waits until the interruption is over; empty
	// when it does not.
	waits string
	// phase and reason are where it ends; no phase: the object is gone.
	phase  dgmv1alpha1.Phase
	reason string
	// live is TTL in the two ConfigMaps; empty: as it was when it was interrupted.
	live string
	// rows are the statuses, in the archive and of the workspace, of each attempt.
	rows string
}

func (e end) afterWaitingFor(reason string) end {
	e.waits, e.says = reason, "waits (`"+reason+"`); "+e.says
	return e
}

func (e end) saying(prefix string) end {
	e.says = prefix + e.says
	return e
}

func (e end) living(live string) end {
	e.live = live
	return e
}

func (e end) withRows(rows string) end {
	e.rows = rows
	return e
}

func failed(reason string) end {
	return end{says: "Failed (`" + reason + "`)", phase: dgmv1alpha1.PhaseFailed, reason: reason, live: "5/5", rows: "failed|failed|1"}
}

var (
	kept   = end{says: "Completed", phase: dgmv1alpha1.PhaseCompleted, reason: dgmv1alpha1.ReasonCompleted, live: "60/60", rows: "completed|completed|1"}
	undone = end{says: "RolledBack", phase: dgmv1alpha1.PhaseRolledBack, reason: dgmv1alpha1.ReasonRolledBack, live: "5/5", rows: "rolled_back|failed|1"}

	goneUntouched = end{says: "gone, nothing changed", live: "5/5", rows: "failed|failed|1"}
	goneUndone    = end{says: "put back, gone", live: "5/5", rows: "rolled_back|failed|1"}
	goneKept      = end{says: "gone, kept", live: "60/60", rows: "completed|completed|1"}
	letGo         = end{says: "gone", rows: "failed|failed|1"}
)

// ends are how an interruption ends in each group of phases.
type ends [8]end

// groups are the columns of the table: phases in which all ends alike.
var groups = [8]struct {
	name    string
	columns []string
}{
	{"Pending", []string{"Pending"}},
	{"Preparing", []string{"Preparing"}},
	{"Testing, Validating, AwaitingApproval", []string{"Testing", "Validating", "AwaitingApproval"}},
	{"Applying, nothing changed yet", []string{"Applying, nothing changed"}},
	{"Applying", []string{"Applying, half changed", "Applying, all changed"}},
	{"Observing", []string{"Observing"}},
	{"Completed, watched", []string{"Completed, watched"}},
	{"RollingBack", []string{"RollingBack"}},
}

// of is how it ends in a column.
func (e ends) of(column string) end {
	for i, group := range groups {
		for _, name := range group.columns {
			if name == column {
				return e[i]
			}
		}
	}
	panic("no group has the column " + column)
}

// going is how what nothing interrupts ends.
var going = ends{kept, kept, kept, kept, kept, kept, kept, undone}

// held is going, where everything before the changes are made waits.
func held(reason string) ends {
	e := going
	for i := range 4 {
		e[i] = e[i].afterWaitingFor(reason)
	}
	return e
}

// interruption happens to an improvement that is held; then it is let go on, and
// then the interruption is over.
type interruption struct {
	// name is the row of the table in docs/lifecycle.md.
	name string
	do   func(c *cell)
	// over ends what does not pass by itself; nil: nothing.
	over func(c *cell)
	// staysHeld: it is not let go on before it has ended.
	staysHeld bool
	ends      ends
}

// interruptions are those of one improvement.
func interruptions() []interruption {
	return []interruption{
		{
			name: "deleted", do: func(c *cell) { c.deleted(c.ttl) },
			ends: ends{goneUntouched, goneUntouched, goneUntouched, goneUndone, goneUndone, goneUndone, goneKept, goneUndone},
		},
		{
			name: "suspended, for some time",
			do:   func(c *cell) { c.merge(`{"spec":{"suspend":true}}`) }, over: func(c *cell) { c.merge(`{"spec":{"suspend":false}}`) },
			ends: held(dgmv1alpha1.ReasonSuspended),
		},
		{
			name: "the namespace is frozen, for some time",
			do:   func(c *cell) { c.freeze("true") }, over: func(c *cell) { c.freeze("false"); c.look() },
			ends: held(dgmv1alpha1.ReasonFrozen),
		},
		{
			name: "what it changes is edited", do: (*cell).editMaterial,
			ends: ends{
				kept.saying("taken over; ").living("90/90"), kept.saying("refused; "), kept.saying("refused; "), kept.saying("refused; "), kept.saying("refused; "), kept.saying("refused; "),
				kept.saying("next attempt; ").living("90/90").withRows("completed|completed|1\ncompleted|completed|2"), undone.saying("refused; "),
			},
		},
		{name: "its priority is edited", do: func(c *cell) { c.merge(`{"spec":{"priority":"High"}}`) }, ends: going},
		{
			name: "abort", do: func(c *cell) { c.merge(`{"metadata":{"annotations":{"dgm.acgs.io/abort":"now"}}}`) },
			ends: ends{failed(dgmv1alpha1.ReasonAborted), failed(dgmv1alpha1.ReasonAborted), failed(dgmv1alpha1.ReasonAborted), undone, undone, undone, kept, undone},
		},
		{
			name: "rollback", do: func(c *cell) { c.merge(`{"metadata":{"annotations":{"dgm.acgs.io/rollback":"now"}}}`) },
			ends: ends{kept, kept, kept, undone, undone, undone, undone, undone},
		},
		{
			name: "the account has no rights, for some time",
			do:   func(c *cell) { c.withdrawn = true; c.setRights() }, over: func(c *cell) { c.withdrawn = false; c.setRights(); c.look() },
			ends: ends{
				kept.afterWaitingFor(dgmv1alpha1.ReasonForbidden), kept.afterWaitingFor(dgmv1alpha1.ReasonForbidden), kept.afterWaitingFor(dgmv1alpha1.ReasonForbidden),
				undone.afterWaitingFor(dgmv1alpha1.ReasonRollbackForbidden), undone.afterWaitingFor(dgmv1alpha1.ReasonRollbackForbidden), kept.afterWaitingFor(dgmv1alpha1.ReasonRollbackForbidden), kept, undone.afterWaitingFor(dgmv1alpha1.ReasonRollbackForbidden),
			},
		},
		{
			name: "a changed object is deleted", do: func(c *cell) { c.deleteConfigMap("one") },
			ends: ends{
				failed(dgmv1alpha1.ReasonTargetNotFound).living("-/5"), failed(dgmv1alpha1.ReasonTargetNotFound).living("-/5"), failed(dgmv1alpha1.ReasonTargetGone).living("-/5"),
				failed(dgmv1alpha1.ReasonTargetGone).living("-/5"), failed(dgmv1alpha1.ReasonTargetGone).living("-/5"), failed(dgmv1alpha1.ReasonTargetGone).living("-/5"), kept.living("-/60"),
				failed(dgmv1alpha1.ReasonTargetGone).living("-/5").withRows("completed|failed|1"),
			},
		},
		{
			name: "its namespace is deleted", do: (*cell).endNamespace, staysHeld: true,
			ends: ends{letGo, letGo, letGo, letGo, letGo, letGo, letGo.withRows("completed|completed|1"), letGo.withRows("completed|failed|1")},
		},
	}
}

func (c *cell) editMaterial() {
	c.Helper()
	var changes []map[string]any
	for _, change := range c.ttl.Spec.Changes {
		changes = append(changes, map[string]any{
			"name": change.Name, "type": change.Type, "targetRef": change.TargetRef, "patch": `data: {TTL: "90"}`,
		})
	}
	err := c.patch(c.ttl, indented(c.world, map[string]any{"spec": map[string]any{"changes": changes}}))
	if refused := c.column.phase.IsActive(); refused != apierrors.IsInvalid(err) || (err != nil && !refused) {
		c.Errorf("the edit in %s is answered by: %v", c.column.phase, err)
	}
}

// endNamespace deletes the namespace, and in it, as the namespace controller would,
// the operator's right to act there, and the improvement.
func (c *cell) endNamespace() {
	c.Helper()
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: "dgm-tenant"}},
		c.ttl.DeepCopy(),
	} {
		if err := c.Delete(context.Background(), object); err != nil {
			c.Fatal(err)
		}
	}
}

// suffer interrupts what is held, and checks how it ends.
func (c *cell) suffer(i interruption) {
	c.Helper()
	want := i.ends.of(c.column.name)
	if want.live == "" {
		want.live = c.live()
	}
	i.do(c)
	if !i.staysHeld {
		c.letGo(want)
	}
	c.waits(want)
	if i.over != nil {
		i.over(c)
	}
	c.ends(want)
}

// waits checks that it waits, and that nothing is changed meanwhile.
func (c *cell) waits(want end) {
	c.Helper()
	if want.waits == "" {
		return
	}
	c.until("it waits for "+want.waits, func() error {
		if ready := conditionOf(c.refresh(c.ttl), dgmv1alpha1.ConditionReady); ready.Reason != want.waits {
			return errorf("it is %s: %s: %s", c.refresh(c.ttl).Status.Phase, ready.Reason, ready.Message)
		}
		return nil
	})
	phase := c.refresh(c.ttl).Status.Phase
	if live := c.live(); !phase.MayHaveApplied() && phase != dgmv1alpha1.PhaseRollingBack && live != "5/5" {
		c.Errorf("while it waits, TTL is %s", live)
	}
}

// ends checks the object, what it has changed, its rows, its sandbox and its events.
func (c *cell) ends(want end) {
	c.Helper()
	c.until("it ends "+want.says, func() error {
		now := c.now()
		switch {
		case want.phase == "" && now == nil:
			return nil
		case want.phase == "" || now == nil:
			return errorf("the object is %+v", now)
		}
		ready := conditionOf(now, dgmv1alpha1.ConditionReady)
		if now.Status.Phase != want.phase || ready.Reason != want.reason || now.Status.Attempt != int32(1+strings.Count(want.rows, "\n")) {
			return errorf("it is %s in attempt %d: %s: %s", now.Status.Phase, now.Status.Attempt, ready.Reason, ready.Message)
		}
		return nil
	})
	if live := c.live(); live != want.live {
		c.Errorf("TTL is %s, want %s", live, want.live)
	}
	c.until("its rows", func() error {
		got, err := c.tryQuery(`SELECT a.status, w.status, a.attempt FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id)
			WHERE w.namespace = $1 AND (w.deleted_at IS NOT NULL) = $2 ORDER BY a.attempt`, c.namespace, want.phase == "")
		if err != nil || got != want.rows {
			return errorf("the rows are %q, want %q: %v", got, want.rows, err)
		}
		return nil
	})
	c.noSandbox()
	c.toldOnce(want)
}

func (c *cell) noSandbox() {
	c.Helper()
	c.until("no sandbox is left", func() error {
		var list corev1.NamespaceList
		if err := c.List(context.Background(), &list, client.HasLabels{dgmv1alpha1.LabelSandbox}); err != nil {
			return err
		}
		for i := range list.Items {
			if strings.HasPrefix(list.Items[i].Annotations[dgmv1alpha1.AnnotationSandboxOf], c.namespace+"/") {
				return errorf("%s is left", list.Items[i].Name)
			}
		}
		return nil
	})
}

// toldOnce checks that one event says how it ended. A namespace that ends takes none.
func (c *cell) toldOnce(want end) {
	c.Helper()
	if want.phase == "" {
		return
	}
	c.until("its end is told once", func() error {
		var list eventsv1.EventList
		if err := c.List(context.Background(), &list, client.InNamespace(c.namespace)); err != nil {
			return err
		}
		told := 0
		for i := range list.Items {
			if e := &list.Items[i]; e.Reason == want.reason && e.Action == string(want.phase) {
				told++
				if e.Series != nil {
					told += int(e.Series.Count)
				}
			}
		}
		if attempts := 1 + strings.Count(want.rows, "\n"); told != attempts {
			return errorf("%s is told %d times, in %d attempts", want.reason, told, attempts)
		}
		return nil
	})
}

// TestInterruptions interrupts an improvement in every phase by everything that
// can happen to it alone, and then one in every phase by a freeze of all
// (docs/lifecycle.md).
func TestInterruptions(t *testing.T) {
	w := newWorld(t)
	w.lead(longLease...)
	l := w.lab()
	// P1, P2, P3, P8, P10: what each interruption must not break, is in how it ends.
	all, phases := interruptions(), columns()
	inParallel(30, len(all)*len(phases), func(n int) {
		i, column := all[n/len(phases)], phases[n%len(phases)]
		t.Run(i.name+"/"+column.name, func(t *testing.T) { l.cell(t, column).suffer(i) })
	})
	p := l.inEveryPhase()
	freeze := setting("freeze", "true")
	w.create(freeze)
	w.stands(freeze, dgmv1alpha1.ReasonApplied)
	p.letGo(rowFrozen)
	p.each("waits", func(c *cell) { c.waits(together()[rowFrozen].of(c.column.name)) })
	w.remove(freeze)
	p.end(rowFrozen)
}
