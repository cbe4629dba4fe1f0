// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

const (
	clusterName = "bench"
	syncTimeout = 10 * time.Minute
)

// measureMirror compares the time until new workspaces are in the database and
// say so with that of a bare client that creates them and patches their status.
func measureMirror(h *harness, o options) ([]result, error) {
	c, err := newClient(h)
	if err != nil {
		return nil, err
	}
	if _, err := bareRound(h, c, sizes{objects: min(300, o.objects), clients: o.clients}); err != nil {
		return nil, err // it warms the API server up
	}
	var bare, mirrored []time.Duration
	var ratios, cpu, cpuRatios []float64
	for round := range o.rounds {
		b, err := bareRound(h, c, o.sizes)
		if err != nil {
			return nil, err
		}
		m, err := mirroredRound(h, c, o)
		if err != nil {
			return nil, err
		}
		bare, mirrored = append(bare, b.took), append(mirrored, m.took)
		ratios, cpuRatios = append(ratios, m.took.Seconds()/b.took.Seconds()), append(cpuRatios, m.cpuOfAll.total().Seconds()/b.cpuOfAll.total().Seconds())
		cpu = append(cpu, m.cpu.Seconds()*1000/float64(o.objects))
		if b.statusSize != m.statusSize {
			return nil, fmt.Errorf("the bare client writes a status of %d bytes, the operator one of %d: they do not do the same work", b.statusSize, m.statusSize)
		}
		h.progress("mirror, round %d: bare %.1f s, operator %.1f s, ratio %.2f; CPU time bare %s, operator %s, ratio %.2f",
			round+1, b.took.Seconds(), m.took.Seconds(), ratios[round], b.cpuOfAll, m.cpuOfAll, cpuRatios[round])
	}
	limit := 1.25
	return []result{{
		name: "mirror: time against a bare client", value: median(ratios), atMost: &limit,
		detail: fmt.Sprintf("%s; %d workspaces, bare %s/s, operator %s/s", spread(ratios, "%.2f"), o.objects,
			spread(rates(o.objects, bare), "%.0f"), spread(rates(o.objects, mirrored), "%.0f")),
	}, {
		name: "mirror: CPU time of everything against a bare client", value: median(cpuRatios),
		detail: fmt.Sprintf("%s; the operator's own %s ms each", spread(cpuRatios, "%.2f"), spread(cpu, "%.2f")),
	}}, nil
}

// roundResult is one round of the mirror.
type roundResult struct {
	took       time.Duration
	cpu        time.Duration // of the operator
	cpuOfAll   cpuTimes      // of clients, API server, databases and operator
	statusSize int           // bytes of an object's status as JSON
}

// bareRound creates workspaces and patches the status of each; afterwards it
// deletes them.
func bareRound(h *harness, c client.Client, s sizes) (roundResult, error) {
	namespace := kubetest.Namespace(h)
	cpuBefore, began := readCPUTimes(), time.Now()
	err := each(h.ctx, s.clients, s.objects, func(ctx context.Context, i int) error {
		w := workspace(namespace, i)
		if err := c.Create(ctx, w); err != nil {
			return err
		}
		return patchStatus(ctx, c, w)
	})
	took, cpu := time.Since(began), readCPUTimes().since(cpuBefore)
	if err != nil {
		return roundResult{}, err
	}
	size, err := statusSize(h.ctx, c, namespace)
	return roundResult{took: took, cpuOfAll: cpu, statusSize: size}, errors.Join(err, remove(h.ctx, c, namespace))
}

// mirroredRound creates workspaces and waits until the operator has mirrored
// all; afterwards it deletes them.
func mirroredRound(h *harness, c client.Client, o options) (roundResult, error) {
	database := h.database()
	operator := startOperator(h, database, o)
	if err := waitForFirst(h, c, operator); err != nil {
		return roundResult{}, err
	}
	namespace := kubetest.Namespace(h)
	writes, err := writesOf(h.ctx, kubetest.Start(h))
	if err != nil {
		return roundResult{}, err
	}
	cpuBefore, allBefore := cpuTime(operator.Pid()), readCPUTimes()
	took, err := createAndWait(h, c, o, operator, database, namespace)
	if err != nil {
		return roundResult{}, err
	}
	cpu, all := cpuTime(operator.Pid())-cpuBefore, readCPUTimes().since(allBefore)
	after, err := writesOf(h.ctx, kubetest.Start(h))
	if err != nil {
		return roundResult{}, err
	}
	_, list := after.since(writes)
	h.progress("mirror: API writes of everybody: %s", list)
	size, err := statusSize(h.ctx, c, namespace)
	operator.Stop(h)
	return roundResult{took: took, cpu: cpu, cpuOfAll: all, statusSize: size}, errors.Join(err, remove(h.ctx, c, namespace))
}

// startOperator starts one as it is installed; tests shorten its lease.
func startOperator(h *harness, database string, o options) *operatortest.Operator {
	return operatortest.Start(h, operatortest.Options{
		DatabaseURL: database, ClusterName: clusterName, Args: append([]string{"--lease-duration=15s"}, strings.Fields(o.managerArgs)...),
	})
}

// waitForFirst waits until a first object is mirrored: an operator says that it
// is ready before it leads.
func waitForFirst(h *harness, c client.Client, operator *operatortest.Operator) error {
	operator.WaitReady(h)
	ctx, cancel := whileRunning(h.ctx, operator)
	defer cancel(nil)
	namespace := kubetest.Namespace(h)
	if err := c.Create(ctx, workspace(namespace, 0)); err != nil {
		return err
	}
	if _, err := waitForSynced(ctx, c, namespace, 1); err != nil {
		return fmt.Errorf("%w; the operator's log ends:\n%s", err, operator.LogTail())
	}
	return remove(ctx, c, namespace)
}

// createAndWait returns the time from the first create until the last object
// says that the database holds it, having checked that it does.
func createAndWait(h *harness, c client.Client, o options, operator *operatortest.Operator, database, namespace string) (time.Duration, error) {
	ctx, cancel := whileRunning(h.ctx, operator)
	defer cancel(nil)
	clock := newRevisionClock(c, namespace)
	var sampler sync.WaitGroup
	began := time.Now()
	ended, err := func() (time.Time, error) {
		if err := each(ctx, o.clients, o.objects, func(ctx context.Context, i int) error { return c.Create(ctx, workspace(namespace, i)) }); err != nil {
			return time.Time{}, err
		}
		sampler.Go(func() { clock.run(ctx) })
		if err := waitForRows(ctx, database, namespace, o.objects); err != nil {
			return time.Time{}, err
		}
		last, err := waitForSynced(ctx, c, namespace, o.objects)
		if err != nil {
			return time.Time{}, err
		}
		return clock.waitFor(ctx, last)
	}()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	sampler.Wait()
	if err != nil {
		return 0, fmt.Errorf("%w; the operator's log ends:\n%s", err, operator.LogTail())
	}
	return ended.Sub(began), nil
}

// whileRunning returns a context that ends when the operator does.
func whileRunning(ctx context.Context, operator *operatortest.Operator) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-operator.Exited():
			cancel(errors.New("the operator has ended"))
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

const liveRows = `SELECT count(*) FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id)
	WHERE w.cluster = $1 AND w.namespace = $2 AND w.deleted_at IS NULL AND a.deleted_at IS NULL`

func waitForRows(ctx context.Context, database, namespace string, want int) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for deadline := time.Now().Add(syncTimeout); ; {
		var found int
		if err := conn.QueryRow(ctx, liveRows, clusterName, namespace).Scan(&found); err != nil {
			return err
		}
		if found == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d workspaces are in the database after %s", found, want, syncTimeout)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// waitForSynced waits until every object says that it is in the database and
// returns the revision of the last one to do so.
func waitForSynced(ctx context.Context, c client.Client, namespace string, want int) (last int64, err error) {
	for deadline := time.Now().Add(syncTimeout); ; {
		synced, last, err := countSynced(ctx, c, namespace)
		if err != nil {
			return 0, err
		}
		if synced == want {
			return last, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("only %d of %d workspaces say that they are in the database after %s", synced, want, syncTimeout)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func countSynced(ctx context.Context, c client.Client, namespace string) (synced int, last int64, err error) {
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return 0, 0, err
	}
	for i := range list.Items {
		revision, err := strconv.ParseInt(list.Items[i].ResourceVersion, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		last = max(last, revision)
		if isSynced(&list.Items[i]) {
			synced++
		}
	}
	return synced, last, nil
}

// revisionClock notes when the API server's revision was seen at what. That way
// the end of a round is known without watching the objects, which would cost the
// API server as much as a second operator.
type revisionClock struct {
	client    client.Client
	namespace string // in which nobody makes ConfigMaps

	mu   sync.Mutex
	seen []sighting
	err  error
}

type sighting struct {
	revision int64
	at       time.Time
}

func newRevisionClock(c client.Client, namespace string) *revisionClock {
	return &revisionClock{client: c, namespace: namespace}
}

const revisionInterval = 20 * time.Millisecond

func (r *revisionClock) run(ctx context.Context) {
	for sleep(ctx, revisionInterval) == nil {
		var list corev1.ConfigMapList
		err := r.client.List(ctx, &list, client.InNamespace(r.namespace))
		at := time.Now()
		revision, parseErr := strconv.ParseInt(list.ResourceVersion, 10, 64)
		r.mu.Lock()
		if err = errors.Join(err, parseErr); err != nil {
			r.err = err
		} else {
			r.seen = append(r.seen, sighting{revision, at})
		}
		r.mu.Unlock()
	}
}

// waitFor returns when a revision, or a later one, was first seen.
func (r *revisionClock) waitFor(ctx context.Context, revision int64) (time.Time, error) {
	for {
		at, err := r.first(revision)
		if err != nil || !at.IsZero() {
			return at, err
		}
		if err := sleep(ctx, revisionInterval); err != nil {
			return time.Time{}, err
		}
	}
}

func (r *revisionClock) first(revision int64) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		if s.revision >= revision {
			return s.at, nil
		}
	}
	return time.Time{}, r.err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func statusSize(ctx context.Context, c client.Client, namespace string) (int, error) {
	var w dgmv1alpha1.ImprovementWorkspace
	if err := c.Get(ctx, client.ObjectKeyFromObject(workspace(namespace, 0)), &w); err != nil {
		return 0, err
	}
	encoded, err := json.Marshal(w.Status)
	return len(encoded), err
}

func remove(ctx context.Context, c client.Client, namespace string) error {
	return c.DeleteAllOf(ctx, &dgmv1alpha1.ImprovementWorkspace{}, client.InNamespace(namespace))
}
