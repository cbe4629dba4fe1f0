// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Every example is one that the API server takes as it stands.
func TestExamplesAreTaken(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	var files []string
	for _, pattern := range []string{"examples/improvements/*.yaml", "config/samples/[^k]*.yaml"} {
		found, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 6 {
		t.Errorf("only %d examples: %v", len(files), files)
	}
	for _, file := range files {
		file, err := filepath.Rel(repository, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range manifests(t, file, ns) {
			if err := client.WithFieldValidation(client.NewDryRunClient(stack.client), client.FieldValidation("Strict")).Create(t.Context(), object); client.IgnoreAlreadyExists(err) != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

func TestAChangeOfTheArchitectureIsApprovedMadeAndWatched(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	customers(t, ns)
	loaded := time.Now()
	w := sample(t, "examples/improvements/two-replicas.yaml", ns)
	w.Spec.Observe.Deadline = "10s"
	create(t, w)
	command := approvalCommand(t, w)
	time.Sleep(time.Until(loaded.Add(baselineTime)))
	newPerson(t, "alice", ns, "dgm-approver").types(t, command)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	d := &appsv1.Deployment{}
	if err := stack.client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "checkout"}, d); err != nil || d.Status.AvailableReplicas != 2 {
		t.Errorf("%d pods are available (%v); want 2", d.Status.AvailableReplicas, err)
	}
	if !w.Watching() || len(w.Status.Metrics) != 2 {
		t.Errorf("it is not watched: %+v", w.Status)
	}
	expectNoSandbox(t, w)
}

func TestP5_ATrialOfTheServicesOwnNumbersIsRevertedWithItsReward(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := sample(t, "examples/improvements/trial.yaml", ns)
	w.Spec.Target.Service = ns
	w.Spec.Observe.Window, w.Spec.Observe.Warmup, w.Spec.Observe.Interval = "6s", "1s", "1s"
	serviceInserts(t, ns)
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	reward, err := strconv.ParseFloat(w.Status.Reward, 64)
	if err != nil || reward < 0.58 || reward > 0.62 {
		t.Errorf("the reward of a fifth is %q, want 0.6", w.Status.Reward)
	}
	if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionSucceeded); c.Reason != dgmv1alpha1.ReasonReverted || c.Status != "True" {
		t.Errorf("Succeeded is %+v", c)
	}
	expectRow(t, []string{"completed", "Reverted", w.Status.Reward}, `SELECT status, outcome_reason, metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectServed(t, ns, "5")
}

// serviceInserts writes what the service of a namespace measures, ten times a
// second: 100 ms, and 80 ms while the list is cached for 30 s.
func serviceInserts(t *testing.T, namespace string) {
	t.Helper()
	url, err := os.ReadFile(filepath.Join(stack.local, "postgres-url"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, strings.TrimSpace(string(url)))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	insert := func(at time.Time, ms float64) {
		_, err := conn.Exec(ctx, `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp")
			VALUES ('p99', 'latency', 'service', $1::double precision, 'ms', $2, '{"path": "/products", "pod": "a"}', $3)`, ms, namespace, at)
		if err != nil && ctx.Err() == nil {
			t.Errorf("insert a sample: %v", err)
		}
	}
	noise := func(i int) float64 { return 1 + 0.01*float64(i*7%5-2) }
	for i := range 100 {
		insert(time.Now().Add(time.Duration(i-100)*100*time.Millisecond), 100*noise(i))
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on it
		for i := 0; ctx.Err() == nil; i++ {
			ms := 100.0
			config := &corev1.ConfigMap{}
			if err := stack.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "checkout-config"}, config); err == nil && config.Data["CACHE_TTL"] == "30" {
				ms = 80
			}
			insert(time.Now(), ms*noise(i))
			time.Sleep(100 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}
