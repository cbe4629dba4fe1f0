package snapshot_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/acgs/dgm-operator/internal/snapshot"
	"github.com/acgs/dgm-operator/test/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

const ours = "dgm-operator"

// The objects are created by a client that applies and by one that updates: ownership differs.
var creators = map[string]func(context.Context, client.Client, *unstructured.Unstructured) error{
	"applied": func(ctx context.Context, c client.Client, object *unstructured.Unstructured) error {
		return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("gitops"))
	},
	"created": func(ctx context.Context, c client.Client, object *unstructured.Unstructured) error {
		return c.Create(ctx, object, client.FieldOwner("kubectl-create"))
	},
}

func TestP2_EveryChangeIsTakenBackExactly(t *testing.T) {
	c := newClient(t)
	for creator, create := range creators {
		for _, change := range changes {
			t.Run(creator+"/"+change.name, func(t *testing.T) {
				before := createObject(t, c, change.object, create)
				after := before.DeepCopy()
				patch := client.RawPatch(change.patchType, toJSON(t, change.patch))
				must(t, c.Patch(t.Context(), after, patch, client.FieldOwner(ours), client.DryRunAll))
				plan, err := snapshot.NewObjectPlan(change.name, before, after, ours)
				must(t, err)
				plan = stored(t, plan)
				must(t, plan.Prove())
				if plan.Empty() {
					t.Fatal("the patch changes nothing")
				}

				live := forward(t, c, plan, before)
				if !reflect.DeepEqual(bare(live), bare(after)) {
					t.Fatalf("applied\n%v\nthe dry run said\n%v", bare(live), bare(after))
				}
				if !plan.Compare(live).AllAfter() {
					t.Fatalf("after applying: %+v", plan.Compare(live))
				}
				live = inverse(t, c, plan, live)
				if !reflect.DeepEqual(bare(live), bare(before)) {
					t.Fatalf("restored\n%v\nbefore\n%v", bare(live), bare(before))
				}
				live = returnOwnership(t, c, plan, live)
				if got, want := owners(live), owners(before); got != want {
					t.Fatalf("ownership after the return\n%s\nbefore\n%s", got, want)
				}
				assertAtRest(t, plan, live)
			})
		}
	}
}

func TestP2_ForeignEditsSurviveTheRestore(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, deployment, creators["applied"])
	after := before.DeepCopy()
	patch := `{spec: {replicas: 4, template: {spec: {containers: [{name: checkout, image: "shop/checkout:2", env: [{name: B, $patch: delete}, {name: D, value: "4"}]}]}}}}`
	must(t, c.Patch(t.Context(), after, client.RawPatch(types.StrategicMergePatchType, toJSON(t, patch)), client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("tune", before, after, ours)
	must(t, err)
	live := forward(t, c, plan, before)

	edit := `{spec: {replicas: 7, template: {spec: {containers: [{name: checkout, env: [{name: A, $patch: delete}, {name: E, value: "5"}]}, {name: late, image: i}]}}}}`
	must(t, c.Patch(t.Context(), live, client.RawPatch(types.StrategicMergePatchType, toJSON(t, edit)), client.FieldOwner("someone")))
	restore, left, err := plan.Inverse(live)
	must(t, err)
	if len(left) != 1 || left[0].Path != "spec.replicas" || left[0].Live != "7" || left[0].Before != "2" || left[0].After != "4" {
		t.Fatalf("left alone: %+v", left)
	}
	must(t, c.Patch(t.Context(), live, client.RawPatch(types.JSONPatchType, restore), client.FieldOwner(ours)))
	containers, _, err := unstructured.NestedSlice(live.Object, "spec", "template", "spec", "containers")
	must(t, err)
	first := containers[0].(map[string]any)
	var env []string
	for _, item := range first["env"].([]any) {
		env = append(env, item.(map[string]any)["name"].(string))
	}
	slices.Sort(env)
	if first["image"] != "shop/checkout:1" || !slices.Equal(env, []string{"B", "C", "E"}) || len(containers) != 3 {
		t.Fatalf("restored to %v", containers)
	}
	live = returnOwnership(t, c, plan, live)
	for _, entry := range live.GetManagedFields() {
		if entry.Manager == ours {
			t.Fatalf("our entry is still there: %s", entry.FieldsV1.GetRawString())
		}
	}
}

func TestP2_OwnershipOfWhatIsLeftAloneStays(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, deployment, creators["applied"])
	after := before.DeepCopy()
	patch := `{spec: {replicas: 4, template: {spec: {containers: [{name: side, image: i}]}}}}`
	must(t, c.Patch(t.Context(), after, client.RawPatch(types.StrategicMergePatchType, toJSON(t, patch)), client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("side", before, after, ours)
	must(t, err)
	live := forward(t, c, plan, before)
	edit := `{spec: {template: {spec: {containers: [{name: side, env: [{name: E, value: "5"}]}]}}}}`
	must(t, c.Patch(t.Context(), live, client.RawPatch(types.StrategicMergePatchType, toJSON(t, edit)), client.FieldOwner("someone")))
	restore, left, err := plan.Inverse(live)
	must(t, err)
	if len(left) != 1 || left[0].Path != "spec.template.spec.containers[name=side]" {
		t.Fatalf("left alone: %+v", left)
	}
	live = returnOwnership(t, c, plan, send(t, c, live, restore))
	mine := ""
	for _, line := range strings.Split(owners(live), "\n") {
		if strings.HasPrefix(line, ours) {
			mine += line
		}
	}
	if !strings.Contains(mine, `"f:image"`) || strings.Contains(mine, "replicas") {
		t.Fatalf("we own %s", mine)
	}
}

func TestP4_AStalePatchIsRefused(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, configMap, creators["created"])
	after := before.DeepCopy()
	patch := client.RawPatch(types.MergePatchType, toJSON(t, `{data: {CACHE_TTL: "60"}}`))
	must(t, c.Patch(t.Context(), after, patch, client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("cache", before, after, ours)
	must(t, err)
	forward, err := plan.Forward(before)
	must(t, err)
	edit := client.RawPatch(types.MergePatchType, toJSON(t, `{data: {other: "1"}}`))
	must(t, c.Patch(t.Context(), before.DeepCopy(), edit, client.FieldOwner("someone")))
	err = c.Patch(t.Context(), before.DeepCopy(), client.RawPatch(types.JSONPatchType, forward), client.FieldOwner(ours))
	if !apierrors.IsConflict(err) {
		t.Fatalf("a patch against an older state answered %v, expected a conflict", err)
	}
}

func TestP2_OwnershipKeptByAnEarlierImprovementStays(t *testing.T) {
	c := newClient(t)
	live := createObject(t, c, configMap, creators["applied"])
	must(t, c.Patch(t.Context(), live, client.RawPatch(types.MergePatchType, toJSON(t, `{data: {CACHE_TTL: "30", kept: "1"}}`)), client.FieldOwner(ours)))
	before := live.DeepCopy()
	after := live.DeepCopy()
	must(t, c.Patch(t.Context(), after, client.RawPatch(types.MergePatchType, toJSON(t, `{data: {CACHE_TTL: "60", more: "1"}}`)), client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("second", before, after, ours)
	must(t, err)
	live = inverse(t, c, plan, forward(t, c, plan, live))
	live = returnOwnership(t, c, plan, live)
	if got, want := owners(live), owners(before); got != want {
		t.Fatalf("ownership after the return\n%s\nbefore\n%s", got, want)
	}
}

func TestP2_OwnershipInAnotherVersionIsReturned(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, autoscaler, creators["applied"])
	before.SetAPIVersion("autoscaling/v2")
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(before), before))
	after := before.DeepCopy()
	patch := client.RawPatch(types.MergePatchType, toJSON(t, `{spec: {maxReplicas: 9, minReplicas: 2, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}`))
	must(t, c.Patch(t.Context(), after, patch, client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("scale", before, after, ours)
	must(t, err)
	live := inverse(t, c, plan, forward(t, c, plan, before))
	live = returnOwnership(t, c, plan, live)
	if got, want := owners(live), owners(before); got != want {
		t.Fatalf("ownership after the return\n%s\nbefore\n%s", got, want)
	}
}

// A list without ownership cannot be told apart by merge key and is restored as one value.
func TestP2_ObjectsWithoutManagedFieldsAreRestored(t *testing.T) {
	c := newClient(t)
	live := createObject(t, c, deployment, creators["created"])
	reset := client.RawPatch(types.JSONPatchType, toJSON(t, `[{op: replace, path: /metadata/managedFields, value: [{}]}]`))
	must(t, c.Patch(t.Context(), live, reset, client.FieldOwner("someone")))
	before, after := live.DeepCopy(), live.DeepCopy()
	patch := client.RawPatch(types.JSONPatchType, toJSON(t, `[{op: remove, path: /spec/template/spec/containers/0/env/0}]`))
	must(t, c.Patch(t.Context(), after, patch, client.FieldOwner(ours), client.DryRunAll))
	plan, err := snapshot.NewObjectPlan("env", before, after, ours)
	must(t, err)
	live = inverse(t, c, plan, forward(t, c, plan, before))
	if !reflect.DeepEqual(bare(live), bare(before)) {
		t.Fatalf("restored\n%v\nbefore\n%v", bare(live), bare(before))
	}
	live = returnOwnership(t, c, plan, live)
	for _, entry := range live.GetManagedFields() {
		if entry.Manager == ours {
			t.Fatalf("our entry is still there: %s", entry.FieldsV1.GetRawString())
		}
	}
}

func TestP1_TheClusterStoresTheExactBytes(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, configMap, creators["created"])
	after := before.DeepCopy()
	after.Object["data"].(map[string]any)["html"] = "<a href='x'>&\u2028\x00ü</a>"
	plan, err := snapshot.NewObjectPlan("html", before, after, ours)
	must(t, err)
	data, err := snapshot.Plan{Objects: []snapshot.ObjectPlan{plan}}.Encode()
	must(t, err)
	revision := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: data}, Revision: 1}
	revision.Name, revision.Namespace = "plan", before.GetNamespace()
	must(t, c.Create(t.Context(), revision))

	typed, asJSON := &appsv1.ControllerRevision{}, &unstructured.Unstructured{}
	asJSON.SetAPIVersion("apps/v1")
	asJSON.SetKind("ControllerRevision")
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(revision), typed))
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(revision), asJSON))
	again, err := snapshot.Canonical(asJSON.Object["data"])
	must(t, err)
	if snapshot.Digest(typed.Data.Raw) != snapshot.Digest(data) || snapshot.Digest(again) != snapshot.Digest(data) {
		t.Fatalf("stored\n%s\nread\n%s\nand\n%s", data, typed.Data.Raw, again)
	}
}

func forward(t *testing.T, c client.Client, plan snapshot.ObjectPlan, live *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	patch, err := plan.Forward(live)
	must(t, err)
	return send(t, c, live, patch)
}

func inverse(t *testing.T, c client.Client, plan snapshot.ObjectPlan, live *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	patch, left, err := plan.Inverse(live)
	must(t, err)
	if len(left) > 0 {
		t.Fatalf("left alone: %+v", left)
	}
	return send(t, c, live, patch)
}

func returnOwnership(t *testing.T, c client.Client, plan snapshot.ObjectPlan, live *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	patch, err := plan.ReturnOwnership(live, ours)
	must(t, err)
	if patch == nil {
		return live
	}
	return send(t, c, live, patch)
}

func send(t *testing.T, c client.Client, live *unstructured.Unstructured, patch []byte) *unstructured.Unstructured {
	t.Helper()
	answer := live.DeepCopy()
	if err := c.Patch(t.Context(), answer, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(ours)); err != nil {
		t.Fatalf("patch %s: %v", patch, err)
	}
	return answer
}

func assertAtRest(t *testing.T, plan snapshot.ObjectPlan, live *unstructured.Unstructured) {
	t.Helper()
	if !plan.Compare(live).AllBefore() {
		t.Fatalf("after restoring: %+v", plan.Compare(live))
	}
	patch, left, err := plan.Inverse(live)
	if patch != nil || left != nil || err != nil {
		t.Fatalf("a second restore: %s %v %v", patch, left, err)
	}
	patch, err = plan.ReturnOwnership(live, ours)
	if patch != nil || err != nil {
		t.Fatalf("a second return of ownership: %s %v", patch, err)
	}
}

// stored sends a plan through its stored form.
func stored(t *testing.T, object snapshot.ObjectPlan) snapshot.ObjectPlan {
	t.Helper()
	data, err := snapshot.Plan{Objects: []snapshot.ObjectPlan{object}}.Encode()
	must(t, err)
	plan, err := snapshot.Decode(data)
	must(t, err)
	return plan.Objects[0]
}

func createObject(t *testing.T, c client.Client, manifest string, create func(context.Context, client.Client, *unstructured.Unstructured) error) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	must(t, object.UnmarshalJSON(toJSON(t, manifest)))
	object.SetNamespace(kubetest.Namespace(t))
	must(t, create(t.Context(), c, object))
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(object.GroupVersionKind())
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(object), live))
	return live
}

// bare is the object apart from what the server manages.
func bare(object *unstructured.Unstructured) map[string]any {
	out := object.DeepCopy()
	out.SetManagedFields(nil)
	out.SetResourceVersion("")
	out.SetGeneration(0)
	delete(out.Object, "status")
	return out.Object
}

// owners writes managedFields without times, sorted.
func owners(object *unstructured.Unstructured) string {
	entries := object.GetManagedFields()
	lines := make([]string, len(entries))
	for i, entry := range entries {
		lines[i] = fmt.Sprintf("%s %s %s %q %s", entry.Manager, entry.Operation, entry.APIVersion, entry.Subresource, entry.FieldsV1.GetRawString())
	}
	slices.SortFunc(lines, cmp.Compare[string])
	return strings.Join(lines, "\n")
}

func newClient(t *testing.T) client.Client {
	t.Helper()
	config := kubetest.Start(t)
	installWidgets(t, config)
	c, err := client.New(config, client.Options{})
	must(t, err)
	return c
}

func installWidgets(t *testing.T, config *rest.Config) {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	must(t, json.Unmarshal(toJSON(t, widgetCRD), crd))
	_, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}})
	must(t, err)
}

func toJSON(t *testing.T, text string) []byte {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	must(t, err)
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
