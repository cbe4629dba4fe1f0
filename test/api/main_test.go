// SPDX-License-Identifier: Apache-2.0

// Package api tests the operator against a real API server and a real
// PostgreSQL: the manager is a process of its own, with its real rights.
package api

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/crashtest"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// atOnce is how many tests run beside each other: most of their time they wait.
const atOnce = "16"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	code := m.Run()
	kubetest.Stop()
	operatortest.RemoveBinary()
	os.Exit(code)
}

// world is what a test works in: a cluster, a database, and mostly an operator.
type world struct {
	*testing.T
	client.Client
	server    *pgtest.Server
	url       string
	operator  *operatortest.Operator
	namespace string
	// alone is the way to the API server of an operator that sees the improvements of
	// this namespace only; nil: it sees all, and is elected.
	alone *rest.Config
}

// newWorld makes a world with a database and a namespace of its own, and no
// operator yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	operatortest.Install(t)
	server := pgtest.Shared(t)
	return newWorldOn(t, server, server.Database(t))
}

// newOwnWorld is newWorld for a test that runs beside others: its operator sees
// its namespace only, and is not elected. It must not change what all share, such
// as admission policies, the keyset or the outbox.
func newOwnWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	server := pgtest.Shared(t)
	return newOwnWorldOn(t, server, server.Database(t))
}

// newOwnWorldOn is newOwnWorld, after t.Parallel, with a database of one's own.
func newOwnWorldOn(t *testing.T, server *pgtest.Server, url string) *world {
	t.Helper()
	w := newWorldOn(t, server, url)
	w.alone = (&crashtest.Gate{}).APIServer(t, operatortest.ClusterConfig(t), w.namespace)
	return w
}

func newWorldOn(t *testing.T, server *pgtest.Server, url string) *world {
	t.Helper()
	operatortest.Install(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, dgmv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	config := kubetest.Start(t)
	config.QPS = -1
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Client: c, server: server, url: url, namespace: kubetest.Namespace(t)}
	w.tenant("improver", "configmaps")
	t.Cleanup(w.removeAll)
	w.removeLease() // the operator of the test before was killed
	return w
}

// start starts the operator and waits until it is ready.
func (w *world) start(args ...string) *operatortest.Operator {
	w.Helper()
	w.operator = w.launch("replica-0", args...)
	w.operator.WaitReady(w)
	return w.operator
}

func (w *world) launch(name string, args ...string) *operatortest.Operator {
	w.Helper()
	var operator *operatortest.Operator
	w.Cleanup(func() { w.onlyKnownTransitions(operator.Log()) }) // when it has ended
	operator = w.run(name, args...)
	return operator
}

// run is launch for an operator that may be started while the test ends.
func (w *world) run(name string, args ...string) *operatortest.Operator {
	w.Helper()
	args = append([]string{fmt.Sprintf("--leader-elect=%t", w.alone == nil)}, args...)
	return operatortest.Start(w.T, operatortest.Options{DatabaseURL: w.url, ClusterName: "test", Name: name, Args: args, Cluster: w.alone})
}

// seen is where the world's operator sees improvements and policies.
func (w *world) seen() client.InNamespace {
	if w.alone != nil {
		return client.InNamespace(w.namespace)
	}
	return ""
}

// onlyKnownTransitions holds what an operator did to the lifecycle that is documented.
func (w *world) onlyKnownTransitions(log string) {
	w.Helper()
	for line := range strings.Lines(log) {
		var moved struct {
			Message string            `json:"msg"`
			From    dgmv1alpha1.Phase `json:"from"`
			To      dgmv1alpha1.Phase `json:"phase"`
		}
		if json.Unmarshal([]byte(line), &moved) == nil && moved.Message == "Improvement moved" && !lifecycle.CanFollow(moved.From, moved.To) {
			w.Errorf("an improvement moved from %q to %s, which internal/lifecycle does not know", moved.From, moved.To)
		}
	}
}

// removeAll removes every object of the test, so that the next one's operator
// does not see it. Nobody is there any more to take finalizers off.
func (w *world) removeAll() {
	ctx := context.Background()
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := w.List(ctx, &list, w.seen()); err != nil {
		w.Errorf("list what is left: %v", err)
	}
	for i := range list.Items {
		item := &list.Items[i]
		if len(item.Finalizers) > 0 {
			base := item.DeepCopy()
			item.Finalizers = nil
			_ = w.Patch(ctx, item, client.MergeFrom(base))
		}
		_ = w.Delete(ctx, item)
	}
	var policies dgmv1alpha1.BanditPolicyList
	if err := w.List(ctx, &policies, w.seen()); err != nil {
		w.Errorf("list what is left: %v", err)
	}
	for i := range policies.Items {
		_ = w.Delete(ctx, &policies.Items[i])
	}
	if w.alone != nil {
		return
	}
	if err := w.DeleteAllOf(ctx, &dgmv1alpha1.SystemConfiguration{}); err != nil {
		w.Errorf("delete the settings that are left: %v", err)
	}
}

// tenant makes a ServiceAccount that may get and patch a resource, and lets the
// operator act as it.
func (w *world) tenant(account string, resources ...string) {
	w.Helper()
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: account}})
	w.create(&rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: account},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: resources, Verbs: []string{"get", "patch"}},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "patch"}},
		},
	})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: account}},
	})
	w.optIn()
}

// optIn lets the operator act in the namespace.
func (w *world) optIn() {
	w.Helper()
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "dgm-tenant"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dgm-tenant"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "dgm-system", Name: "dgm-operator"}},
	})
}

func (w *world) create(object client.Object) {
	w.Helper()
	if err := w.Create(context.Background(), object); err != nil {
		w.Fatalf("create %T %s: %v", object, object.GetName(), err)
	}
}

// configMap makes a ConfigMap in the test's namespace.
func (w *world) configMap(name string, data map[string]string) *corev1.ConfigMap {
	w.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Data: data}
	w.create(object)
	return object
}

// data reads a ConfigMap's data.
func (w *world) data(name string) map[string]string {
	w.Helper()
	var object corev1.ConfigMap
	if err := w.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: name}, &object); err != nil {
		w.Fatal(err)
	}
	return object.Data
}

// improvement is one that sets CACHE_TTL to 60 in the ConfigMap of that name;
// the ConfigMap is its target as well, so that no workload is needed.
func (w *world) improvement(name, configMap string, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
	object := &dgmv1alpha1.ImprovementWorkspace{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: dgmv1alpha1.ImprovementWorkspaceSpec{
			Description: "cache for a minute",
			Type:        dgmv1alpha1.ConfigurationUpdate,
			Target: dgmv1alpha1.Target{
				Service: "service-of-" + name,
				Ref:     dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: configMap},
			},
			ServiceAccountName: "improver",
			Changes: []dgmv1alpha1.Change{{
				Name: "cache", Patch: `data: {CACHE_TTL: "60"}`,
				TargetRef: dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: configMap},
			}},
		},
	}
	for _, edit := range edits {
		edit(object)
	}
	return object
}

func suspended(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Suspend = new(true) }

// refresh reads an improvement anew.
func (w *world) refresh(object *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	fresh := &dgmv1alpha1.ImprovementWorkspace{}
	if err := w.Get(context.Background(), client.ObjectKeyFromObject(object), fresh); err != nil {
		w.Fatal(err)
	}
	return fresh
}

// annotate sets an annotation, as kubectl annotate --overwrite does.
func (w *world) annotate(object *dgmv1alpha1.ImprovementWorkspace, key, value string) {
	w.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	if err := w.Patch(context.Background(), object.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		w.Fatal(err)
	}
}

// patch merges a JSON document into an improvement.
func (w *world) patch(object *dgmv1alpha1.ImprovementWorkspace, patch string) error {
	return w.Patch(context.Background(), object.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)))
}

// eventually waits until a check passes; the check returns what is wrong still.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	w.eventuallyIn(45*time.Second, what, check)
}

func (w *world) eventuallyIn(limit time.Duration, what string, check func() error) {
	w.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log := ""
			if w.operator != nil {
				log = "\nthe operator's log ends:\n" + w.operator.LogTail()
			}
			w.Fatalf("%s: %v%s", what, err, log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// reaches waits until an improvement is in a phase, for a reason if one is
// given, and returns it.
func (w *world) reaches(object *dgmv1alpha1.ImprovementWorkspace, phase dgmv1alpha1.Phase, reason string) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	var fresh *dgmv1alpha1.ImprovementWorkspace
	w.eventually(object.Name+" reaches "+string(phase)+" "+reason, func() error {
		fresh = w.refresh(object)
		ready := meta.FindStatusCondition(fresh.Status.Conditions, dgmv1alpha1.ConditionReady)
		if ready == nil || fresh.Status.Phase != phase || (reason != "" && ready.Reason != reason) {
			return fmt.Errorf("it is %s: %+v", fresh.Status.Phase, ready)
		}
		return nil
	})
	return fresh
}

// synced waits until the database holds an improvement's state, and returns it.
func (w *world) synced(object *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	var fresh *dgmv1alpha1.ImprovementWorkspace
	w.eventually(object.Name+" is synced", func() error {
		fresh = w.refresh(object)
		condition := meta.FindStatusCondition(fresh.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
		if condition == nil || condition.Status != metav1.ConditionTrue || condition.ObservedGeneration != fresh.Generation {
			return fmt.Errorf("DatabaseSynced is %+v", condition)
		}
		return nil
	})
	return fresh
}

// query returns the only value of a query as text, "" for no row or null.
func (w *world) query(sql string, args ...any) string {
	w.Helper()
	value, err := w.tryQuery(sql, args...)
	if err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
	return value
}

func (w *world) tryQuery(sql string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return "", err
	}
	values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		columns, err := row.Values()
		texts := make([]string, len(columns))
		for i, column := range columns {
			if column != nil {
				texts[i] = fmt.Sprint(column)
			}
		}
		return strings.Join(texts, "|"), err
	})
	return strings.Join(values, "\n"), err
}

// rows waits until a query returns what is wanted.
func (w *world) rows(want, sql string, args ...any) {
	w.Helper()
	w.eventually(sql, func() error {
		got, err := w.tryQuery(sql, args...)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the rows are %q, want %q", got, want)
		}
		return nil
	})
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }
