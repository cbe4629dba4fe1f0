// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

func TestP7_NothingIsAppliedWithoutTheAdmissionPolicy(t *testing.T) {
	w := newWorld(t)
	binding := &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "dgm-improvement-serviceaccount"}}
	if err := w.Delete(context.Background(), binding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { operatortest.Install(t) })
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config")
	w.create(ttl)
	waiting := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonAdmissionPolicyMissing)
	w.says(message(waiting), "ValidatingAdmissionPolicyBinding dgm-improvement-serviceaccount is not installed", "config/admission")
	w.values(map[string]string{"config": "5"})

	time.Sleep(time.Until(waiting.CreationTimestamp.Add(1100 * time.Millisecond))) // creation times count seconds
	operatortest.Install(t)
	w.eventually("it was not judged, and says so when the policy is back", func() error {
		w.nudge(ttl)
		if said := message(w.refresh(ttl)); !strings.Contains(said, "delete it and create it again") {
			return errorf("it says %q", said)
		}
		return nil
	})
	w.values(map[string]string{"config": "5"})

	again := w.improvement("again", "config")
	w.create(again)
	w.reaches(again, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
}

// user is a client of somebody who may edit improvements in the namespace, and
// what else the rules say.
func (w *world) user(name string, rules ...rbacv1.PolicyRule) client.Client {
	w.Helper()
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}
	bind := func(role rbacv1.RoleRef) {
		w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, GenerateName: "user-"}, RoleRef: role, Subjects: subjects})
	}
	for _, role := range []string{"dgm-editor", "dgm-viewer"} {
		bind(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role})
	}
	if len(rules) > 0 {
		w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Rules: rules})
		bind(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name})
	}
	c, err := client.New(kubetest.UserConfig(w, name), client.Options{Scheme: w.Scheme(), Mapper: w.RESTMapper()})
	if err != nil {
		w.Fatal(err)
	}
	w.eventually(name+" may edit improvements", func() error {
		var list dgmv1alpha1.ImprovementWorkspaceList
		return c.List(context.Background(), &list, client.InNamespace(w.namespace))
	})
	return c
}

func TestP8_NobodyNamesAnAccountThatHeMayNotImpersonate(t *testing.T) {
	w := newWorld(t)
	w.start()

	w.scenario("without the right", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		mallory := w.user("mallory")
		err := mallory.Create(context.Background(), w.improvement("ttl", "config"))
		if !apierrors.IsForbidden(err) {
			t.Fatalf("the answer is %v, want Forbidden", err)
		}
		w.says(err.Error(), "user mallory may not act as ServiceAccount "+w.namespace+"/improver", "grant the verb impersonate on serviceaccounts/improver")

		ttl := w.improvement("ttl", "config", suspended)
		w.create(ttl)
		for _, edit := range []string{
			`{"spec":{"changes":[{"name":"cache","targetRef":{"apiVersion":"v1","kind":"ConfigMap","name":"config"},"patch":"data: {CACHE_TTL: \"1\"}"}]}}`,
			`{"spec":{"serviceAccountName":"other"}}`,
			`{"spec":{"target":{"ref":{"name":"other"}}}}`,
			`{"spec":{"mode":"DryRun"}}`,
			`{"spec":{"risk":{"level":"Low"}}}`,
			`{"spec":{"approval":{"policy":"Never"}}}`,
			`{"spec":{"safetyChecks":[{"name":"none","expression":"true"}]}}`,
			`{"spec":{"constitutionRef":{"expectedHash":"cdd01ef066bc6cf2"}}}`,
		} {
			err := mallory.Patch(context.Background(), ttl.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(edit)))
			if !apierrors.IsForbidden(err) {
				w.Errorf("%s: the answer is %v, want Forbidden", edit, err)
			}
		}
		if err := mallory.Patch(context.Background(), ttl.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"priority":"High"}}`))); err != nil {
			w.Errorf("priority asks for nothing anew: %v", err)
		}
	})

	w.scenario("with the right", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		alice := w.user("alice", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{"improver"}, Verbs: []string{"impersonate"}})
		ttl := w.improvement("ttl", "config")
		w.eventually("alice may name it", func() error { return alice.Create(context.Background(), ttl) })
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.synced(ttl)
		w.rows("alice", "SELECT created_by FROM dgm.dgm_archive WHERE namespace = $1", w.namespace)
	})

	w.scenario("in a namespace that has not opted in", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.optOut()
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonNamespaceNotOptedIn)
		w.says(message(waiting), "kubectl create rolebinding dgm-tenant --namespace="+w.namespace+" --clusterrole=dgm-tenant --serviceaccount=dgm-system:dgm-operator")
		w.optIn()
		w.eventually("it goes on", func() error {
			w.nudge(ttl)
			if phase := w.refresh(ttl).Status.Phase; phase != dgmv1alpha1.PhaseCompleted {
				return errorf("it is %s", phase)
			}
			return nil
		})
	})

	w.scenario("an account that does not exist", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.ServiceAccountName = "nobody" })
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonForbidden)
		w.says(message(waiting), "ServiceAccount nobody may not get ConfigMap/config", "Role in namespace "+w.namespace)
	})
}

// What the operator itself may not do: it has no rights on what its users own.
func TestP8_TheOperatorItselfMayDoLittle(t *testing.T) {
	w := newWorld(t)
	may := func(namespace, group, resource, name, verb string) bool {
		t.Helper()
		resource, subresource, _ := strings.Cut(resource, "/")
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: operatortest.User, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:dgm-system", "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Group: group, Resource: resource, Subresource: subresource, Name: name, Verb: verb,
			},
		}}
		if err := w.Create(context.Background(), review); err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	change := []string{"create", "update", "patch", "delete", "deletecollection"}
	for _, test := range []struct {
		namespace, group, resource, name string
		verbs                            []string
	}{
		{w.namespace, "", "secrets", "", all},
		{"dgm-system", "", "secrets", "", []string{"get", "list", "watch", "update", "patch", "delete"}},
		{"dgm-system", "", "secrets", "dgm-database", all[:3]},
		{"dgm-system", "", "secrets", "dgm-operator-keyset", []string{"list", "watch", "update", "patch", "delete"}},
		{w.namespace, "", "configmaps", "", all},
		{w.namespace, "", "services", "", all},
		{w.namespace, "", "pods", "", all},
		{w.namespace, "", "pods/exec", "", all},
		{w.namespace, "apps", "deployments", "", all},
		{w.namespace, "apps", "controllerrevisions", "", []string{"list", "watch", "update", "patch", "delete"}},
		{"default", "apps", "controllerrevisions", "", all}, // it has not opted in
		{w.namespace, "batch", "jobs", "", all},
		// It makes and deletes sandboxes, and binds its own role there: what keeps it to
		// these is the policy that TestP8_TheOperatorsRightToMakeNamespacesEndsAtSandboxes proves.
		{"", "", "namespaces", "", []string{"update", "patch", "deletecollection"}},
		{"", "", "nodes", "", all},
		{w.namespace, "rbac.authorization.k8s.io", "rolebindings", "", []string{"get", "list", "watch", "update", "patch", "delete", "deletecollection", "bind", "escalate"}},
		{"", "rbac.authorization.k8s.io", "clusterrolebindings", "", all},
		{"", "rbac.authorization.k8s.io", "clusterroles", "", append(slices.Clone(all), "bind", "escalate")},
		{"", "admissionregistration.k8s.io", "validatingadmissionpolicies", "dgm-improvement-serviceaccount", change},
		{"", "apiextensions.k8s.io", "customresourcedefinitions", "", change},
		{w.namespace, "", "serviceaccounts/token", "improver", []string{"create"}},
		{w.namespace, "", "serviceaccounts", "improver", []string{"impersonate"}},
		{"default", "authentication.k8s.io", "serviceaccounts", "default", []string{"impersonate:serviceaccount"}},
		{"", "", "users", "admin", []string{"impersonate"}},
		{"", "", "groups", "system:masters", []string{"impersonate"}},
		{w.namespace, "dgm.acgs.io", "improvementworkspaces", "", []string{"create", "update", "delete", "deletecollection"}},
		{w.namespace, "dgm.acgs.io", "banditpolicies", "", change},
	} {
		for _, verb := range test.verbs {
			if may(test.namespace, test.group, test.resource, test.name, verb) {
				t.Errorf("the operator may %s %s %q of group %q in namespace %q", verb, test.resource, test.name, test.group, test.namespace)
			}
		}
	}
	if !may("dgm-system", "", "secrets", "dgm-operator-keyset", "get") || !may(w.namespace, "authentication.k8s.io", "serviceaccounts", "improver", "impersonate:serviceaccount") {
		t.Error("the review denies what the operator certainly may: it proves nothing")
	}
}

func TestP9_SpecAndMetadataStayTheUsers(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Labels = map[string]string{"app.kubernetes.io/part-of": "shop"}
		object.Annotations = map[string]string{"example.com/ticket": "42"}
	})
	w.create(ttl)
	policy := &dgmv1alpha1.BanditPolicy{}
	if err := json.Unmarshal([]byte(policyManifest), policy); err != nil {
		t.Fatal(err)
	}
	policy.Namespace = w.namespace
	w.create(policy)
	created, commanded := users(w, ttl), map[string]string{}
	command := func(annotation string) {
		commanded[annotation] = "1"
		w.annotate(ttl, annotation, "1")
	}
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	command(dgmv1alpha1.AnnotationRollback)
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
	command(dgmv1alpha1.AnnotationRetry)
	w.attempt(ttl, 2, dgmv1alpha1.PhaseCompleted)
	end := w.synced(ttl)
	annotations := maps.Clone(created.Annotations)
	maps.Copy(annotations, commanded)
	created.Annotations = annotations
	if diff := cmp.Diff(created, users(w, end)); diff != "" {
		t.Errorf("spec and metadata (-created +at the end):\n%s", diff)
	}
	w.eventually("the policy is accepted", func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(policy), policy); err != nil || len(policy.Status.Conditions) == 0 {
			return errorf("status is %+v, %v", policy.Status, err)
		}
		return nil
	})
	if policy.Generation != 1 {
		t.Errorf("the policy is at generation %d", policy.Generation)
	}
	for _, object := range []client.Object{end, policy} {
		entries := 0
		for _, entry := range object.GetManagedFields() {
			if strings.HasPrefix(entry.Manager, "manager") {
				entries++
				w.ownsOnlyStatus(object, entry)
			}
		}
		if entries == 0 {
			t.Errorf("%T: the operator owns nothing: %+v", object, object.GetManagedFields())
		}
	}
}

const policyManifest = `{"metadata":{"name":"tuning"},"spec":{"algorithm":{"type":"ConservativeBandit"},"contexts":[{"name":"default"}],
	"baseline":{"arm":"keep","reward":"0.5"},"safety":{"threshold":"0.8","riskTolerance":"0.1"},"arms":[{"name":"keep"},{"name":"cache"}]}}`

// users is what belongs to the user of an improvement.
func users(w *world, object *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	fresh := w.refresh(object)
	return &dgmv1alpha1.ImprovementWorkspace{
		ObjectMeta: metav1.ObjectMeta{Name: fresh.Name, Labels: fresh.Labels, Annotations: fresh.Annotations, OwnerReferences: fresh.OwnerReferences, Generation: fresh.Generation},
		Spec:       fresh.Spec,
	}
}

// ownsOnlyStatus checks that a field manager owns nothing but status or finalizers.
func (w *world) ownsOnlyStatus(object client.Object, entry metav1.ManagedFieldsEntry) {
	w.Helper()
	var fields map[string]map[string]any
	if err := json.Unmarshal([]byte(entry.FieldsV1.GetRawString()), &fields); err != nil {
		w.Fatal(err)
	}
	for top, inside := range fields {
		for name := range inside {
			if top == "f:status" || (top == "f:metadata" && (name == "f:finalizers" || name == ".")) {
				continue
			}
			w.Errorf("%T: %s owns %s.%s", object, entry.Manager, top, name)
		}
	}
}

func TestP8_OnlyTheTargetsNamespaceIsReached(t *testing.T) {
	w := newWorld(t)
	w.start()
	// The account may do everything everywhere; the operator may act as it here only.
	w.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "mighty-" + w.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: w.namespace, Name: "improver"}},
	})
	ttl := w.improvement("ttl", "config", func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Target.Ref = dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: w.namespace}
		object.Spec.Changes[0].TargetRef = object.Spec.Target.Ref
		object.Spec.Changes[0].Patch = `metadata: {labels: {taken: over}}`
	})
	w.create(ttl)
	failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonChangeRefused)
	w.says(message(failed), "Namespace is not a namespaced kind")
	var namespace corev1.Namespace
	if err := w.Get(context.Background(), client.ObjectKey{Name: w.namespace}, &namespace); err != nil || namespace.Labels["taken"] != "" {
		t.Errorf("the namespace has labels %v, %v", namespace.Labels, err)
	}
}
