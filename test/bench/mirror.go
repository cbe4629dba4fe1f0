// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

const clusterName = "bench"

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
	var ratios, cpuRatios, own []float64
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
		ratios, cpuRatios = append(ratios, m.took.Seconds()/b.took.Seconds()), append(cpuRatios, m.cpu.total().Seconds()/b.cpu.total().Seconds())
		own = append(own, m.cpu["manager"].Seconds()*1000/float64(o.objects))
		if b.statusSize != m.statusSize {
			return nil, fmt.Errorf("the bare client writes a status of %d bytes, the operator one of %d: they do not do the same work", b.statusSize, m.statusSize)
		}
		h.progress("mirror, round %d: bare %.1f s, operator %.1f s, ratio %.2f; CPU time bare %s, operator %s, ratio %.2f",
			round+1, b.took.Seconds(), m.took.Seconds(), ratios[round], b.cpu, m.cpu, cpuRatios[round])
	}
	limit := 1.25
	return []result{{
		name: "mirror: time against a bare client", value: median(ratios), atMost: &limit,
		detail: fmt.Sprintf("%s; %d workspaces, bare %s/s, operator %s/s", spread(ratios, "%.2f"), o.objects,
			spread(rates(o.objects, bare), "%.0f"), spread(rates(o.objects, mirrored), "%.0f")),
	}, {
		name: "mirror: CPU time of everything against a bare client", value: median(cpuRatios),
		detail: fmt.Sprintf("%s; the operator's own %s ms each", spread(cpuRatios, "%.2f"), spread(own, "%.2f")),
	}}, nil
}

// roundResult is one round of the mirror.
type roundResult struct {
	took       time.Duration
	cpu        cpuTimes // of clients, API server, databases and operator
	statusSize int      // bytes of an object's status as JSON
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
	return roundResult{took: took, cpu: cpu, statusSize: size}, errors.Join(err, remove(h.ctx, c, namespace))
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
	m, err := createAndWait(h, c, o, operator, database, namespace)
	if err != nil {
		return roundResult{}, err
	}
	after, err := writesOf(h.ctx, kubetest.Start(h))
	if err != nil {
		return roundResult{}, err
	}
	_, list := after.since(writes)
	h.progress("mirror: API writes of everybody: %s", list)
	size, err := statusSize(h.ctx, c, namespace)
	operator.Stop(h)
	return roundResult{took: m.took, cpu: m.cpu, statusSize: size}, errors.Join(err, remove(h.ctx, c, namespace))
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

// mirrored is what it took to have workspaces in the database.
type mirrored struct {
	took time.Duration
	cpu  cpuTimes // of everything
}

// createAndWait creates workspaces and returns what it took until the last one
// said that the database holds it, having checked that it does.
func createAndWait(h *harness, c client.Client, o options, operator *operatortest.Operator, database, namespace string) (mirrored, error) {
	ctx, cancel := whileRunning(h.ctx, operator)
	defer cancel(nil)
	clock := newRevisionClock(c, namespace)
	var sampler sync.WaitGroup
	before, began := readCPUTimes(), time.Now()
	var m mirrored
	err := func() error {
		if err := each(ctx, o.clients, o.objects, func(ctx context.Context, i int) error { return c.Create(ctx, workspace(namespace, i)) }); err != nil {
			return err
		}
		sampler.Go(func() { clock.run(ctx) })
		if err := waitForRows(ctx, database, namespace, o.objects); err != nil {
			return err
		}
		if err := clock.waitForRest(ctx); err != nil {
			return err
		}
		m.cpu = readCPUTimes().since(before)
		last, err := waitForSynced(ctx, c, namespace, o.objects)
		if err != nil {
			return err
		}
		ended, err := clock.waitFor(ctx, last)
		m.took = ended.Sub(began)
		return err
	}()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	sampler.Wait()
	if err != nil {
		return m, fmt.Errorf("%w; the operator's log ends:\n%s", err, operator.LogTail())
	}
	return m, nil
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
