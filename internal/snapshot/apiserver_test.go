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

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, labels: {app: checkout}}
spec:
  replicas: 2
  selector: {matchLabels: {app: checkout}}
  template:
    metadata: {labels: {app: checkout}}
    spec:
      nodeSelector: {zone: a}
      containers:
      - name: checkout
        image: shop/checkout:1
        args: [--port, "8080"]
        env: [{name: A, value: "1"}, {name: B, value: "2"}, {name: C, value: "3"}]
        ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53, protocol: TCP}]
        volumeMounts: [{name: config, mountPath: /etc/config}, {name: tmp, mountPath: /tmp}]
      - {name: proxy, image: "shop/proxy:1"}
      volumes:
      - {name: config, configMap: {name: checkout-config}}
      - {name: tmp, emptyDir: {}}
`

const service = `
apiVersion: v1
kind: Service
metadata: {name: checkout}
spec:
  selector: {app: checkout}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`

const configMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config}
data: {CACHE_TTL: "5", odd.name: "x", big.txt: "one\ntwo\n"}
binaryData: {blob: AAEC}
`

const widget = `
apiVersion: example.org/v1
kind: Widget
metadata: {name: checkout}
spec:
  routes:
  - {host: a, port: 1, weight: 0.5, rules: [one, two]}
  - {host: a, port: 2, weight: 1}
  - {host: b, port: 1, nullable: null}
  tags: [red, green, blue]
  atomicList: [{k: 1}, {k: 2}]
  atomicMap: {a: 1, b: 2}
  free: {list: [{name: x, v: 1}, {name: z, v: 2}], deep: {er: 1}}
`

// Each case is a patch to one of the objects.
var changes = []struct {
	name, object string
	patchType    types.PatchType
	patch        string
}{
	{"image", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: "shop/checkout:2"}]}}}}`},
	{"env add and change", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, env: [{name: B, value: "20"}, {name: D, value: "4"}]}]}}}}`},
	{"env remove first and last", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, env: [{name: A, $patch: delete}, {name: C, $patch: delete}]}]}}}}`},
	{"env remove all", deployment, types.MergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: i, env: null}, {name: proxy, image: i}]}}}}`},
	{"env reorder", deployment, types.JSONPatchType, `[{op: move, from: /spec/template/spec/containers/0/env/2, path: /spec/template/spec/containers/0/env/0}]`},
	{"env insert in the middle", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0/env/1, value: {name: AB, value: "x"}}]`},
	{"env with the same name twice", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0/env/1, value: {name: C, value: "x"}}]`},
	{"env to a reference", deployment, types.JSONPatchType, `[{op: replace, path: /spec/template/spec/containers/0/env/1, value: {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}}]`},
	{"args", deployment, types.MergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: i, args: [a, b, c]}, {name: proxy, image: i}]}}}}`},
	{"ports with two keys", deployment, types.JSONPatchType, `[{op: remove, path: /spec/template/spec/containers/0/ports/1}, {op: replace, path: /spec/template/spec/containers/0/ports/1/name, value: domain}]`},
	{"container added first", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0, value: {name: first, image: i}}]`},
	{"container removed", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: proxy, $patch: delete}]}}}}`},
	{"container renamed", deployment, types.JSONPatchType, `[{op: replace, path: /spec/template/spec/containers/0/name, value: renamed}]`},
	{"volumes", deployment, types.JSONPatchType, `[{op: remove, path: /spec/template/spec/volumes/0}, {op: remove, path: /spec/template/spec/containers/0/volumeMounts/0}]`},
	{"resources and probe created", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, resources: {limits: {cpu: 500m}}, livenessProbe: {httpGet: {path: /, port: 8080}}}]}}}}`},
	{"strategy replaced", deployment, types.MergePatchType, `{spec: {strategy: {type: Recreate, rollingUpdate: null}}}`},
	{"node selector", deployment, types.MergePatchType, `{spec: {template: {spec: {nodeSelector: {zone: null, disk: ssd}}}}}`},
	{"annotations and labels created", deployment, types.MergePatchType, `{metadata: {annotations: {"example.org/note": "~ü"}, labels: {app: null}}}`},
	{"several places", deployment, types.MergePatchType, `{spec: {replicas: 5, paused: true, template: {metadata: {annotations: {"example.org/b": b}}}}}`},
	{"service port added", service, types.StrategicMergePatchType, `{spec: {ports: [{name: metrics, port: 9090}]}}`},
	{"service port removed", service, types.JSONPatchType, `[{op: remove, path: /spec/ports/1}]`},
	{"service target port and selector", service, types.MergePatchType, `{spec: {selector: {app: null, tier: x}, sessionAffinity: ClientIP}}`},
	{"data changed, added, removed", configMap, types.MergePatchType, `{data: {CACHE_TTL: "60", new: "", odd.name: null}}`},
	{"data removed as a whole", configMap, types.MergePatchType, `{data: null, binaryData: {blob: null, other: AQ==}}`},
	{"binary data", configMap, types.MergePatchType, `{binaryData: {blob: BAUG}}`},
	{"text", configMap, types.MergePatchType, `{data: {big.txt: "one\n2\nthree\n"}}`},
	{"widget item", widget, types.JSONPatchType, `[{op: replace, path: /spec/routes/0/weight, value: 0.75}, {op: remove, path: /spec/routes/1}]`},
	{"widget null and integer float", widget, types.JSONPatchType, `[{op: remove, path: /spec/routes/2/nullable}, {op: replace, path: /spec/routes/1/weight, value: 2}]`},
	{"widget set", widget, types.JSONPatchType, `[{op: remove, path: /spec/tags/1}, {op: add, path: /spec/tags/0, value: pink}]`},
	{"widget atomic", widget, types.MergePatchType, `{spec: {atomicList: [{k: 3}], atomicMap: {b: null, c: 1}}}`},
	{"widget without schema", widget, types.JSONPatchType, `[{op: remove, path: /spec/free/list/0}, {op: remove, path: /spec/free/deep/er}]`},
	{"widget routes removed", widget, types.JSONPatchType, `[{op: remove, path: /spec/routes}]`},
	{"widget routes emptied", widget, types.JSONPatchType, `[{op: replace, path: /spec/routes, value: []}]`},
}

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
				if !reflect.DeepEqual(comparable(live), comparable(after)) {
					t.Fatalf("applied\n%v\nthe dry run said\n%v", comparable(live), comparable(after))
				}
				if !plan.Compare(live).AllAfter() {
					t.Fatalf("after applying: %+v", plan.Compare(live))
				}
				live = inverse(t, c, plan, live)
				if !reflect.DeepEqual(comparable(live), comparable(before)) {
					t.Fatalf("restored\n%v\nbefore\n%v", comparable(live), comparable(before))
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
			t.Fatalf("our entry is still there: %s", entry.FieldsV1.Raw)
		}
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

const autoscaler = `
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: checkout}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: checkout}, maxReplicas: 5, targetCPUUtilizationPercentage: 80}
`

func TestP2_OwnershipInAnotherVersionIsReturned(t *testing.T) {
	c := newClient(t)
	before := createObject(t, c, autoscaler, creators["applied"])
	before.SetAPIVersion("autoscaling/v2")
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(before), before))
	after := before.DeepCopy()
	patch := client.RawPatch(types.MergePatchType, toJSON(t, `{spec: {maxReplicas: 9, minReplicas: 2}}`))
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
	if !reflect.DeepEqual(comparable(live), comparable(before)) {
		t.Fatalf("restored\n%v\nbefore\n%v", comparable(live), comparable(before))
	}
	live = returnOwnership(t, c, plan, live)
	for _, entry := range live.GetManagedFields() {
		if entry.Manager == ours {
			t.Fatalf("our entry is still there: %s", entry.FieldsV1.Raw)
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

// comparable is the object apart from what the server manages.
func comparable(object *unstructured.Unstructured) map[string]any {
	bare := object.DeepCopy()
	bare.SetManagedFields(nil)
	bare.SetResourceVersion("")
	bare.SetGeneration(0)
	delete(bare.Object, "status")
	return bare.Object
}

// owners writes managedFields without times, sorted.
func owners(object *unstructured.Unstructured) string {
	entries := object.GetManagedFields()
	lines := make([]string, len(entries))
	for i, entry := range entries {
		lines[i] = fmt.Sprintf("%s %s %s %q %s", entry.Manager, entry.Operation, entry.APIVersion, entry.Subresource, entry.FieldsV1.Raw)
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

const widgetCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, listKind: WidgetList, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              routes:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [host, port]
                items:
                  type: object
                  required: [host, port]
                  properties:
                    host: {type: string}
                    port: {type: integer}
                    weight: {type: number}
                    nullable: {type: string, nullable: true}
                    rules: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              atomicList: {type: array, x-kubernetes-list-type: atomic, items: {type: object, properties: {k: {type: integer}}}}
              atomicMap: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: integer}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

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
