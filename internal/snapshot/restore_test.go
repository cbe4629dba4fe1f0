package snapshot

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// thing makes an object of the schema in random_test.go: "keyed" lists have the merge key "name", "set" lists are
// sets, "list" and "whole" are atomic.
func thing(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	manifest := "apiVersion: example.org/v1\nkind: Thing\n" +
		"metadata: {name: thing, namespace: shop, uid: u1, resourceVersion: \"7\"}\nspec: " + spec
	return owned(object(t, manifest).Object)
}

func specOf(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	data, err := yaml.Marshal(object.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestP2_RestoreAmongForeignEdits(t *testing.T) {
	for _, test := range []struct {
		name, before, after, live, restored string
		left                                string // "path: reason", comma-separated
	}{
		{
			name:   "a value that another changed is left alone",
			before: `{a: 1, b: 1}`, after: `{a: 2, b: 2}`, live: `{a: 2, b: 3}`, restored: `{a: 1, b: 3}`,
			left: "spec.b: changed by another since",
		},
		{
			name:   "a value that another removed stays removed",
			before: `{a: 1}`, after: `{a: 2}`, live: `{b: 0}`, restored: `{b: 0}`, left: "spec.a: changed by another since",
		},
		{
			name:   "a value that another put back needs nothing",
			before: `{a: 1}`, after: `{a: 2}`, live: `{a: 1}`, restored: `{a: 1}`,
		},
		{
			name:   "null and absent differ",
			before: `{a: null}`, after: `{b: null}`, live: `{b: null}`, restored: `{a: null}`,
		},
		{
			name:   "a created map that another emptied is another's",
			before: `{}`, after: `{map: {a: 1}}`, live: `{map: {}}`, restored: `{map: {}}`, left: "spec.map: changed by another since",
		},
		{
			name:   "a created list that another emptied is another's",
			before: `{}`, after: `{keyed: [{name: x}]}`, live: `{keyed: []}`, restored: `{keyed: []}`, left: "spec.keyed: changed by another since",
		},
		{
			name:   "a map that another emptied is another's also when its shape is known from another item",
			before: `{keyed: [{name: x}, {name: "y", map: {a: 1}}]}`, after: `{keyed: [{name: x, map: {a: 1}}, {name: "y", map: {a: 1}}]}`,
			live: `{keyed: [{name: x, map: {}}, {name: "y", map: {a: 1}}]}`, restored: `{keyed: [{name: x, map: {}}, {name: "y", map: {a: 1}}]}`,
			left: "spec.keyed[name=x].map: changed by another since",
		},
		{
			name:   "items of a removed list come back around those of another",
			before: `{keyed: [{name: a}, {name: b}, {name: c}]}`, after: `{}`, live: `{keyed: [{name: b}]}`,
			restored: `{keyed: [{name: a}, {name: b}, {name: c}]}`,
		},
		{
			name:   "a list with the same key twice on both sides is one value",
			before: `{keyed: [{name: a, b: 1}, {name: a, b: 2}]}`, after: `{keyed: [{name: a, b: 1}, {name: a, b: 3}]}`,
			live: `{keyed: [{name: a, b: 1}, {name: a, b: 3}]}`, restored: `{keyed: [{name: a, b: 1}, {name: a, b: 2}]}`,
		},
		{
			name:   "an empty map where the change removed one is another's",
			before: `{map: {a: 1}}`, after: `{}`, live: `{map: {}}`, restored: `{map: {}}`, left: "spec.map: changed by another since",
		},
		{
			name:   "of a created map only what another added stays",
			before: `{}`, after: `{map: {a: 1, map: {b: 2}}}`, live: `{map: {a: 1, map: {b: 2}, z: 9}}`, restored: `{map: {z: 9}}`,
			left: "spec.map.z: added by another inside a part that this change created or removed",
		},
		{
			name:   "an empty map that was there before stays",
			before: `{map: {}}`, after: `{map: {a: 1}}`, live: `{map: {a: 1}}`, restored: `{map: {}}`,
		},
		{
			name:   "a removed map comes back into what another made meanwhile",
			before: `{map: {a: 1, b: 2}}`, after: `{}`, live: `{map: {a: 5, z: 9}}`, restored: `{map: {a: 5, b: 2, z: 9}}`,
			left: "spec.map.a: changed by another since, spec.map.z: added by another inside a part that this change created or removed",
		},
		{
			name:   "a parent that another removed is made again",
			before: `{map: {a: 1, b: 2}}`, after: `{map: {b: 2}}`, live: `{}`, restored: `{map: {a: 1}}`,
		},
		{
			name:   "a part of a list item that another removed is not brought back",
			before: `{keyed: [{name: x, a: 1, b: 1}]}`, after: `{keyed: [{name: x, b: 2}]}`, live: `{keyed: []}`, restored: `{keyed: []}`,
			left: "spec.keyed[name=x].a: the list item that it belongs to is not there, spec.keyed[name=x].b: the list item that it belongs to is not there",
		},
		{
			name:   "an added item into which another wrote is left alone as a whole",
			before: `{keyed: []}`, after: `{keyed: [{name: x, a: 1}]}`, live: `{keyed: [{name: x, a: 1, b: 2}]}`,
			restored: `{keyed: [{name: x, a: 1, b: 2}]}`, left: "spec.keyed[name=x]: changed by another since",
		},
		{
			name:   "of a created list the items of others stay",
			before: `{}`, after: `{keyed: [{name: x}, {name: "y"}]}`, live: `{keyed: [{name: z}, {name: "y"}, {name: x}]}`,
			restored: `{keyed: [{name: z}]}`,
			left:     "spec.keyed[name=z]: added by another inside a part that this change created or removed",
		},
		{
			name:   "items come back to their neighbours among the items of others",
			before: `{keyed: [{name: a}, {name: b}, {name: c}, {name: d}]}`, after: `{keyed: [{name: b}, {name: d}]}`,
			live:     `{keyed: [{name: v}, {name: b}, {name: w}, {name: d}]}`,
			restored: `{keyed: [{name: v}, {name: a}, {name: b}, {name: c}, {name: w}, {name: d}]}`,
		},
		{
			name:   "the last item comes back behind its predecessor",
			before: `{set: [a, b]}`, after: `{set: [a]}`, live: `{set: [a, z]}`, restored: `{set: [a, b, z]}`,
		},
		{
			name:   "an atomic list is one value",
			before: `{list: [1, 2]}`, after: `{list: [1, 3]}`, live: `{list: [1, 3, 4]}`, restored: `{list: [1, 3, 4]}`,
			left: "spec.list: changed by another since",
		},
		{
			name:   "an atomic map is one value",
			before: `{whole: {p: 1}}`, after: `{whole: {p: 2}}`, live: `{whole: {p: 2, q: 1}}`, restored: `{whole: {p: 2, q: 1}}`,
			left: "spec.whole: changed by another since",
		},
		{
			name:   "a list whose items changed places is one value",
			before: `{keyed: [{name: a}, {name: b}]}`, after: `{keyed: [{name: b}, {name: a}]}`,
			live: `{keyed: [{name: b}, {name: a}]}`, restored: `{keyed: [{name: a}, {name: b}]}`,
		},
		{
			name:   "a list with the same key twice is one value",
			before: `{keyed: [{name: a}]}`, after: `{keyed: [{name: a}, {name: a, b: 1}]}`,
			live: `{keyed: [{name: a}, {name: a, b: 1}]}`, restored: `{keyed: [{name: a}]}`,
		},
		{
			name:   "an item whose key another gave to a second one is left alone",
			before: `{keyed: [{name: a, b: 1}]}`, after: `{keyed: [{name: a, b: 2}]}`,
			live: `{keyed: [{name: a, b: 2}, {name: a}]}`, restored: `{keyed: [{name: a, b: 2}, {name: a}]}`,
			left: "spec.keyed[name=a].b: several list items have the same merge key",
		},
		{
			name:   "a parent of another type is left alone",
			before: `{map: {a: 1}}`, after: `{map: {a: 2}}`, live: `{map: text}`, restored: `{map: text}`,
			left: "spec.map.a: a part on the way has another type",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := newPlan(t, thing(t, test.before), thing(t, test.after))
			live := thing(t, test.live)
			inverse, left, err := plan.Inverse(live)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := specOf(t, patched(t, live, inverse)), specOf(t, thing(t, test.restored)); got != want {
				t.Errorf("restored to\n%s\nnot to\n%s", got, want)
			}
			var reasons []string
			for _, report := range left {
				reasons = append(reasons, report.Path+": "+report.Reason)
			}
			if got := strings.Join(reasons, ", "); got != test.left {
				t.Errorf("left alone %q, not %q", got, test.left)
			}
		})
	}
}

func TestP4_AnotherObjectOfTheSameNameIsNotTouched(t *testing.T) {
	plan := newPlan(t, thing(t, `{a: 1}`), thing(t, `{a: 2}`))
	other := thing(t, `{a: 2}`)
	other.SetUID("u2")
	_, _, err := plan.Inverse(other)
	_, forwardErr := plan.Forward(other)
	_, ownershipErr := plan.ReturnOwnership(other, manager)
	for _, err := range []error{err, forwardErr, ownershipErr} {
		if !errors.Is(err, ErrReplaced) {
			t.Errorf("answered %v", err)
		}
	}
	if comparison := plan.Compare(other); !comparison.Replaced || comparison.AllAfter() || comparison.AllBefore() {
		t.Errorf("compared as %+v", comparison)
	}
}

func TestP4_PatchesCarryTheResourceVersion(t *testing.T) {
	plan := newPlan(t, thing(t, `{a: 1}`), thing(t, `{a: 2}`))
	patch, err := plan.Forward(thing(t, `{a: 1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"op":"replace","path":"/metadata/resourceVersion","value":"7"},{"op":"replace","path":"/spec/a","value":2}]`
	if string(patch) != want {
		t.Errorf("patch %s", patch)
	}
	unversioned := thing(t, `{a: 1}`)
	unversioned.SetResourceVersion("")
	if _, err := plan.Forward(unversioned); err == nil {
		t.Error("a patch without precondition was made")
	}
}

func TestMergeKeysOfAnotherVersionDoNotCount(t *testing.T) {
	before, after := thing(t, `{keyed: [{name: x, a: 1}]}`), thing(t, `{keyed: [{name: x, a: 2}]}`)
	for _, object := range []*unstructured.Unstructured{before, after} {
		object.SetManagedFields(append(object.GetManagedFields(), metav1.ManagedFieldsEntry{
			Manager: "old", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "example.org/v0", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:keyed":{"k:{\"id\":1}":{".":{}}}}}`),
		}))
	}
	if got := newPlan(t, before, after).Paths[0].Path.String(); got != "spec.keyed[name=x].a" {
		t.Errorf("touched path %s", got)
	}
}

func TestP2_DamagedPlansAreNotProven(t *testing.T) {
	for name, damage := range map[string]func(*ObjectPlan){
		"the value after":     func(p *ObjectPlan) { *p.Paths[0].After = Value(`3`) },
		"the value before":    func(p *ObjectPlan) { *p.Paths[0].Before = Value(`3`) },
		"a path is missing":   func(p *ObjectPlan) { p.Paths = p.Paths[1:] },
		"the state before":    func(p *ObjectPlan) { p.Before = []byte(`{"spec":{"a":1,"b":8}}`) },
		"the state is no map": func(p *ObjectPlan) { p.Before = []byte(`[]`) },
		"the digest":          func(p *ObjectPlan) { p.AfterDigest = Digest(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			plan := newPlan(t, thing(t, `{a: 1, b: 1}`), thing(t, `{a: 2, b: 2}`))
			if err := plan.Prove(); err != nil {
				t.Fatal(err)
			}
			damage(&plan)
			if err := plan.Prove(); err == nil {
				t.Error("a damaged plan was proven")
			}
		})
	}
}

func TestRefusedChanges(t *testing.T) {
	for name, edit := range map[string]func(map[string]any){
		"metadata.name":            func(o map[string]any) { o["metadata"].(map[string]any)["name"] = "other" },
		"metadata.namespace":       func(o map[string]any) { delete(o["metadata"].(map[string]any), "namespace") },
		"metadata.uid":             func(o map[string]any) { o["metadata"].(map[string]any)["uid"] = "u2" },
		"metadata.ownerReferences": func(o map[string]any) { o["metadata"].(map[string]any)["ownerReferences"] = []any{} },
		"metadata.finalizers":      func(o map[string]any) { o["metadata"].(map[string]any)["finalizers"] = []any{"x"} },
		"metadata.deletionTimestamp": func(o map[string]any) {
			o["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-01T00:00:00Z"
		},
		"kind":       func(o map[string]any) { o["kind"] = "Other" },
		"apiVersion": func(o map[string]any) { o["apiVersion"] = "example.org/v2" },
	} {
		t.Run(name, func(t *testing.T) {
			before, after := thing(t, `{a: 1}`), thing(t, `{a: 2}`)
			edit(after.Object)
			_, err := NewObjectPlan("x", before, after, manager)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), name) {
				t.Errorf("answered %v", err)
			}
		})
	}
	secret := object(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, uid: u}\ndata: {a: AA==}")
	if _, err := NewObjectPlan("x", secret, secret, manager); !errors.Is(err, ErrRefused) {
		t.Errorf("a Secret: %v", err)
	}
}

func TestWhatTheServerManagesIsNoChange(t *testing.T) {
	before, after := thing(t, `{a: 1.0, b: 1e3}`), thing(t, `{a: 1, b: 1000}`)
	after.SetResourceVersion("8")
	after.SetGeneration(2)
	after.Object["status"] = map[string]any{"ready": true}
	if plan := newPlan(t, before, after); !plan.Empty() {
		t.Errorf("changes: %v", Plan{Objects: []ObjectPlan{plan}}.Diff())
	}
}

func TestLargePlansAreFast(t *testing.T) {
	data := func(value string) map[string]any {
		out := map[string]any{}
		for i := range 8000 {
			out[fmt.Sprintf("key.%d", i)] = value
		}
		return out
	}
	before, after := object(t, configMap), object(t, configMap)
	before.Object["data"], after.Object["data"] = data("5"), data("60")
	start := time.Now()
	plan := newPlan(t, before, after)
	inverse, _, err := plan.Inverse(after)
	if err != nil {
		t.Fatal(err)
	}
	whole := Plan{Objects: []ObjectPlan{plan}}
	if shared := whole.Overlaps(whole); len(shared) != 8000 {
		t.Errorf("%d shared paths", len(shared))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("8,000 paths took %s", took)
	}
	if got := patched(t, after, inverse); !reflect.DeepEqual(got.Object, before.Object) {
		t.Error("not restored")
	}
}
