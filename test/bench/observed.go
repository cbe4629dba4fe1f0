// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
)

// An observed improvement asks again each observedInterval: half of its window.
const (
	observedWindow   = 20 * time.Second
	observedInterval = 10 * time.Second
	observedSettle   = 5 * time.Second
)

// observedQueries: the second one has no data, so that an improvement stays in
// Observing and asks both again.
var observedQueries = []string{"avg(avg_over_time(latency[2s]))", "avg(avg_over_time(errors[2s]))"}

// tenants are namespaces that have opted in, of as many objects as share one.
type tenants struct {
	client     client.Client
	namespaces []string
}

const perTenant = 500

// newTenants makes namespaces for so many objects.
func newTenants(h *harness, admin client.Client, objects int) (*tenants, error) {
	t := &tenants{client: admin}
	for range (objects + perTenant - 1) / perTenant {
		namespace := kubetest.Namespace(h)
		t.namespaces = append(t.namespaces, namespace)
		if err := optIn(h.ctx, admin, namespace); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// optIn makes an account that may change ConfigMaps, and lets the operator act
// as it.
func optIn(ctx context.Context, admin client.Client, namespace string) error {
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	for _, object := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: named("improver")},
		&rbacv1.Role{ObjectMeta: named("improver"), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "patch"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: named("improver"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "improver"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "improver"}},
		},
		&rbacv1.RoleBinding{
			ObjectMeta: named("dgm-tenant"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dgm-tenant"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "dgm-system", Name: "dgm-operator"}},
		},
	} {
		if err := admin.Create(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// create makes improvements from first up to end, each with a ConfigMap of its
// own that it changes.
func (t *tenants) create(ctx context.Context, clients, first, end int, edit func(*dgmv1alpha1.ImprovementWorkspace)) error {
	return each(ctx, clients, end-first, func(ctx context.Context, i int) error {
		w := workspace(t.namespaces[(first+i)/perTenant], first+i)
		w.Spec.Suspend = nil
		w.Spec.Target.Ref = dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: w.Name}
		w.Spec.Changes[0].TargetRef = w.Spec.Target.Ref
		edit(w)
		if err := t.client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name}, Data: map[string]string{"CACHE_TTL": "5"},
		}); err != nil {
			return err
		}
		return t.client.Create(ctx, w)
	})
}

func dryRun(w *dgmv1alpha1.ImprovementWorkspace) { w.Spec.Mode = dgmv1alpha1.ModeDryRun }

func observed(w *dgmv1alpha1.ImprovementWorkspace) {
	for i, name := range []string{"latency", "errors"} {
		w.Spec.Metrics = append(w.Spec.Metrics, dgmv1alpha1.Metric{
			Name: name, Type: "latency", Direction: dgmv1alpha1.Decrease, MaxRegression: "50%", MinSamples: 2,
			Prometheus: &dgmv1alpha1.PrometheusSource{Source: "default", Query: observedQueries[i]},
		})
	}
	w.Spec.Observe = &dgmv1alpha1.Observe{
		Window: dgmv1alpha1.Duration(observedWindow.String()), Interval: dgmv1alpha1.Duration(observedInterval.String()), Warmup: "0s", Deadline: "24h",
	}
}

// all reads every improvement.
func (t *tenants) all(ctx context.Context) ([]dgmv1alpha1.ImprovementWorkspace, error) {
	var items []dgmv1alpha1.ImprovementWorkspace
	for _, namespace := range t.namespaces {
		var list dgmv1alpha1.ImprovementWorkspaceList
		if err := t.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
		items = append(items, list.Items...)
	}
	return items, nil
}

// await waits until so many improvements are in a phase, and in the database.
func (t *tenants) await(ctx context.Context, phase dgmv1alpha1.Phase, want int) error {
	for deadline := time.Now().Add(3 * syncTimeout); ; {
		items, err := t.all(ctx)
		if err != nil {
			return err
		}
		found, other := 0, ""
		for i := range items {
			if items[i].Status.Phase == phase && isSynced(&items[i]) {
				found++
			} else {
				other = fmt.Sprintf("%s is %s: %+v", items[i].Name, items[i].Status.Phase, items[i].Status.Conditions)
			}
		}
		if found == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d improvements are %s; %s", found, want, phase, other)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// quiet is the next span of at least a length in which no window of an observed
// improvement grows, so that nothing new is there to be written.
func quiet(items []dgmv1alpha1.ImprovementWorkspace, length time.Duration) (from, to time.Time) {
	first, last := time.Now().Add(24*time.Hour), time.Time{}
	for i := range items {
		if o := items[i].Status.Observation; items[i].Status.Phase == dgmv1alpha1.PhaseObserving && o != nil && o.WindowStart != nil {
			if first.After(o.WindowStart.Time) {
				first = o.WindowStart.Time
			}
			if last.Before(o.WindowStart.Time) {
				last = o.WindowStart.Time
			}
		}
	}
	// A moment for what the growth before has had written, and its statistics.
	const calm = 30 * time.Second
	for span := observedWindow; ; span *= 2 {
		from, to = last.Add(span+observedSettle+calm), first.Add(2*span+observedSettle)
		if earliest := time.Now(); from.Before(earliest) {
			from = earliest
		}
		if to.Sub(from) >= length {
			return from, from.Add(length)
		}
	}
}
