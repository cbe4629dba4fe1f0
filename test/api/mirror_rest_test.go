// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

const resyncLine = "Comparing every object with its rows"

func TestP12_AtRestNothingIsWritten(t *testing.T) {
	server := pgtest.Start(t, "autovacuum=off")
	w := newWorldOn(t, server, server.Database(t))
	w.lead(quickTakeover...)
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "without-rights"}})
	w.everyPhase()
	w.agree()
	w.operator.Stop(t)

	// Each resync reconciles every object and compares it with its rows.
	flags := append([]string{"--resync-interval=1s"}, quickTakeover...)
	before, rows, requests := w.versions(), w.rowVersions(), w.writeRequests()
	w.lead(flags...)
	w.resyncs(3)
	w.compareAtRest("a restart", before, rows, requests)

	requests = w.writeRequests()
	const nextTransaction = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`
	transaction := w.query(nextTransaction)
	w.resyncs(5)
	w.compareAtRest("a while at rest", before, rows, requests)
	if got := w.query(nextTransaction); got != transaction {
		t.Errorf("the next transaction that writes was %s and is %s: something was written", transaction, got)
	}
	w.agree()
}

// everyPhase makes some 300 objects and waits until each stays where it is.
func (w *world) everyPhase() {
	w.Helper()
	type group struct {
		name   string
		n      int
		phase  dgmv1alpha1.Phase
		reason string
		edit   func(*dgmv1alpha1.ImprovementWorkspace)
	}
	groups := []group{
		{"suspended", 160, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonSuspended, suspended},
		{"forbidden", 10, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonForbidden, func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.ServiceAccountName = "without-rights"
		}},
		{"completed", 40, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted, func(*dgmv1alpha1.ImprovementWorkspace) {}},
		{"rolledback", 20, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack, func(*dgmv1alpha1.ImprovementWorkspace) {}},
		{"failed", 20, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetNotFound, func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Target.Ref.Name = "no-such-configmap"
		}},
		{"dryrun", 20, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun, func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Mode = dgmv1alpha1.ModeDryRun
		}},
	}
	objects := map[string][]*dgmv1alpha1.ImprovementWorkspace{}
	for _, g := range groups {
		made := make([]*dgmv1alpha1.ImprovementWorkspace, g.n)
		inParallel(8, g.n, func(i int) {
			name := fmt.Sprintf("%s-%d", g.name, i)
			w.configMap(name, map[string]string{"CACHE_TTL": "5"})
			made[i] = w.improvement(name, name, g.edit)
			w.create(made[i])
		})
		objects[g.name] = made
	}
	inParallel(8, 30, func(i int) { w.create(w.policy(fmt.Sprintf("policy-%d", i), "keep", "fast")) })
	for _, object := range objects["rolledback"] {
		w.reaches(object, dgmv1alpha1.PhaseCompleted, "")
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
	}
	for _, g := range groups {
		for _, object := range objects[g.name] {
			w.reaches(object, g.phase, g.reason)
		}
	}
}

// resyncs waits for that many further resyncs of the operator.
func (w *world) resyncs(n int) {
	w.Helper()
	already := strings.Count(w.operator.Log(), resyncLine)
	w.eventually("the operator resyncs", func() error {
		if got := strings.Count(w.operator.Log(), resyncLine) - already; got < n {
			return errorf("%d resyncs, want %d", got, n)
		}
		return nil
	})
}

func (w *world) compareAtRest(what string, versions, rows map[string]string, requests map[string]string) {
	w.Helper()
	if diff := cmp.Diff(versions, w.versions()); diff != "" {
		w.Errorf("%s changed objects (-before +after):\n%s", what, diff)
	}
	if diff := cmp.Diff(rows, w.rowVersions()); diff != "" {
		w.Errorf("%s changed rows (-before +after):\n%s", what, diff)
	}
	if diff := cmp.Diff(requests, w.writeRequests()); diff != "" {
		w.Errorf("%s wrote to the API server (-before +after):\n%s", what, diff)
	}
}

// versions is the resourceVersion of every object of both kinds.
func (w *world) versions() map[string]string {
	w.Helper()
	versions := map[string]string{}
	var improvements dgmv1alpha1.ImprovementWorkspaceList
	var policies dgmv1alpha1.BanditPolicyList
	for _, list := range []client.ObjectList{&improvements, &policies} {
		if err := w.List(context.Background(), list); err != nil {
			w.Fatal(err)
		}
	}
	for i := range improvements.Items {
		versions[improvements.Items[i].Name] = improvements.Items[i].ResourceVersion
	}
	for i := range policies.Items {
		versions[policies.Items[i].Name] = policies.Items[i].ResourceVersion
	}
	return versions
}

// rowVersions is, for each mirrored table, which version of each row is there.
func (w *world) rowVersions() map[string]string {
	w.Helper()
	versions := map[string]string{}
	for _, table := range []string{"dgm_archive", "improvement_workspaces", "bandit_states", "rollback_snapshots", "performance_metrics", "schema_migrations"} {
		versions[table] = w.query(`SELECT count(*), md5(string_agg(concat(t.ctid, t.xmin), ' ' ORDER BY t.ctid)) FROM dgm.` + table + ` t`)
	}
	return versions
}

// requestLine is a line of the API server's metrics that counts a write.
var requestLine = regexp.MustCompile(`^apiserver_request_total\{(.*verb="(?:POST|PUT|PATCH|DELETE|APPLY)".*)\} (\S+)$`)

// writeRequests are the API server's counters of writes, but for dry-runs,
// questions about rights, Leases with the Event about them, and what the API
// server does by itself.
func (w *world) writeRequests() map[string]string {
	w.Helper()
	clients, err := discovery.NewDiscoveryClientForConfig(kubetest.Start(w))
	if err != nil {
		w.Fatal(err)
	}
	metrics, err := clients.RESTClient().Get().AbsPath("/metrics").DoRaw(context.Background())
	if err != nil {
		w.Fatal(err)
	}
	ignored := []string{
		`dry_run="All"`, `group="authorization.k8s.io"`, `group="authentication.k8s.io"`, `group="coordination.k8s.io"`,
		`group="flowcontrol.apiserver.k8s.io"`, `group="",resource="events"`,
	}
	counters := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(metrics)); lines.Scan(); {
		match := requestLine.FindStringSubmatch(lines.Text())
		if len(match) == 3 && !slices.ContainsFunc(ignored, func(label string) bool { return strings.Contains(match[1], label) }) {
			counters[match[1]] = match[2]
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(counters)), func(labels string) bool {
		return strings.Contains(labels, `resource="improvementworkspaces"`) && strings.Contains(labels, `subresource="status"`)
	}) {
		w.Fatalf("no write of a status is counted: the counters are %v", counters)
	}
	return counters
}
