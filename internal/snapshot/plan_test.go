package snapshot

import (
	"encoding/json"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const manager = "dgm-operator"

// object reads a manifest.
func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return out
}

// patched applies a JSON patch as the API server does.
func patched(t *testing.T, live *unstructured.Unstructured, patch []byte) *unstructured.Unstructured {
	t.Helper()
	return patchedObject(t, live, patch)
}

// failing is what *testing.T and *rapid.T have in common.
type failing interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func patchedObject(t failing, live *unstructured.Unstructured, patch []byte) *unstructured.Unstructured {
	if patch == nil {
		return live
	}
	operations, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("patch %s: %v", patch, err)
	}
	data, err := json.Marshal(live.Object)
	if err != nil {
		t.Fatal(err)
	}
	result, err := operations.Apply(data)
	if err != nil {
		t.Fatalf("apply patch %s to %s: %v", patch, data, err)
	}
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(result); err != nil {
		t.Fatal(err)
	}
	return out
}

const configMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config, namespace: shop, uid: u1, resourceVersion: "7"}
data: {CACHE_TTL: "5", MODE: fast}
`

func newPlan(t *testing.T, before, after *unstructured.Unstructured) ObjectPlan {
	t.Helper()
	plan, err := NewObjectPlan("cache", before, after, manager)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestStatesAreTheWholeObjectBeforeAndAfter(t *testing.T) {
	before, after := object(t, configMap), object(t, configMap)
	after.Object["data"] = map[string]any{"CACHE_TTL": "60", "MODE": "fast"}
	was, becomes, err := newPlan(t, before, after).States()
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]map[string]any{"5": was, "60": becomes} {
		if ttl, _, _ := unstructured.NestedString(want, "data", "CACHE_TTL"); ttl != state || want["kind"] != "ConfigMap" {
			t.Errorf("the state is %v; want a ConfigMap with CACHE_TTL %s", want, state)
		}
	}
	becomes["data"] = nil
	if was["data"] == nil {
		t.Error("the states share memory")
	}
}

func TestP2_ForwardThenInverseIsIdentity(t *testing.T) {
	before, after := object(t, configMap), object(t, configMap)
	after.Object["data"] = map[string]any{"CACHE_TTL": "60", "NEW/~": "x\x00"}
	plan := newPlan(t, before, after)
	forward, err := plan.Forward(before)
	if err != nil {
		t.Fatal(err)
	}
	applied := patched(t, before, forward)
	if got, want := applied.Object, after.Object; !some(got).equal(some(want)) {
		t.Fatalf("applied %v, want %v", got, want)
	}
	inverse, left, err := plan.Inverse(applied)
	if err != nil || len(left) > 0 {
		t.Fatal(err, left)
	}
	if got := patched(t, applied, inverse); !some(got.Object).equal(some(before.Object)) {
		t.Fatalf("restored %v, want %v", got, before)
	}
	t.Log("\n" + Plan{Objects: []ObjectPlan{plan}}.Diff())
}
