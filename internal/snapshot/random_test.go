package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdvalue "sigs.k8s.io/structured-merge-diff/v6/value"
)

// Random objects follow one schema, told by the name of the field: "keyed" lists have the merge key "name", "set"
// lists are sets, "list" is atomic and so is the map "whole". Everything else is a map or a scalar.
var (
	mapFields = []string{"a", "b", "odd./~1", "keyed", "set", "list", "whole", "map"}
	itemNames = []string{"x", "y", "z", "8080", "true"}
	scalars   = []any{
		int64(0), int64(1), int64(1) << 60, 0.5, true, false, nil, "", "text", "5", "a\x00b", "ü→", "<&>", "two\nlines\n",
		strings.Repeat("long", 300),
	}
)

type generator struct{ t *rapid.T }

func (g generator) number(limit int) int { return rapid.IntRange(0, limit-1).Draw(g.t, "n") }

func (g generator) scalar() any { return rapid.SampledFrom(scalars).Draw(g.t, "scalar") }

func (g generator) object() map[string]any {
	return map[string]any{
		"apiVersion": "example.org/v1", "kind": "Thing",
		"metadata": map[string]any{"name": "thing", "namespace": "shop", "uid": "u1", "resourceVersion": "7"},
		"spec":     g.fields(3),
	}
}

func (g generator) fields(depth int) map[string]any {
	out := map[string]any{}
	for range g.number(5) {
		name := rapid.SampledFrom(mapFields).Draw(g.t, "field")
		out[name] = g.value(name, depth)
	}
	return out
}

func (g generator) value(field string, depth int) any {
	switch {
	case field == "keyed":
		list := []any{}
		for _, name := range g.some(itemNames) {
			list = append(list, g.item(name, depth))
		}
		return list
	case field == "set":
		list := []any{}
		for _, name := range g.some(itemNames) {
			list = append(list, name)
		}
		return list
	case field == "list":
		return slices.Repeat([]any{g.scalar()}, g.number(3))
	case field == "whole":
		return map[string]any{"p": g.scalar(), "q": g.scalar()}
	case field == "map" && depth > 0:
		return g.fields(depth - 1)
	}
	return g.scalar()
}

func (g generator) item(name string, depth int) map[string]any {
	item := map[string]any{}
	if depth > 0 {
		item = g.fields(depth - 1)
	}
	item["name"] = name
	return item
}

func (g generator) some(names []string) []string {
	return rapid.Permutation(names).Draw(g.t, "items")[:g.number(len(names)+1)]
}

// edited returns a copy with a few random edits anywhere in the spec.
func (g generator) edited(object map[string]any) map[string]any {
	out := clone(object).(map[string]any)
	for range 1 + g.number(4) {
		g.edit(out["spec"].(map[string]any), 3)
	}
	return out
}

func (g generator) edit(fields map[string]any, depth int) {
	if depth > 0 && g.number(3) > 0 && g.editInside(fields, depth) {
		return
	}
	name := rapid.SampledFrom(mapFields).Draw(g.t, "field")
	if g.number(3) == 0 {
		delete(fields, name)
		return
	}
	fields[name] = g.value(name, depth)
}

func (g generator) editInside(fields map[string]any, depth int) bool {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(name string) bool { return name != "map" && name != "keyed" })
	if len(names) == 0 {
		return false
	}
	name := rapid.SampledFrom(names).Draw(g.t, "inside")
	switch inner := fields[name].(type) {
	case map[string]any:
		g.edit(inner, depth-1)
		return true
	case []any:
		fields[name] = g.editList(inner, depth-1)
		return true
	}
	return false
}

func (g generator) editList(list []any, depth int) []any {
	switch g.number(4) {
	case 0:
		if len(list) > 0 {
			at := g.number(len(list))
			return slices.Delete(slices.Clone(list), at, at+1)
		}
	case 1:
		if len(list) > 0 {
			item := list[g.number(len(list))].(map[string]any)
			name := item["name"]
			g.edit(item, depth)
			item["name"] = name
			return list
		}
	case 2:
		if len(list) > 1 {
			return rapid.Permutation(list).Draw(g.t, "order")
		}
	}
	for _, name := range itemNames {
		if !slices.ContainsFunc(list, func(item any) bool { return item.(map[string]any)["name"] == name }) {
			return slices.Insert(slices.Clone(list), g.number(len(list)+1), any(g.item(name, depth)))
		}
	}
	return list
}

// owned adds the ownership entry that a server would write for an object of the schema.
func owned(object map[string]any) *unstructured.Unstructured {
	set := &fieldpath.Set{}
	own(set, nil, "", object["spec"])
	raw, err := set.ToJSON()
	if err != nil {
		panic(fmt.Sprintf("ownership of a random object: %v", err))
	}
	out := &unstructured.Unstructured{Object: clone(object).(map[string]any)}
	out.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: "someone", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "example.org/v1",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)),
	}})
	return out
}

func own(set *fieldpath.Set, path fieldpath.Path, name string, value any) {
	if len(path) == 0 {
		path = fieldpath.MakePathOrDie("spec")
	}
	set.Insert(path.Copy())
	switch typed := value.(type) {
	case map[string]any:
		if name == "whole" {
			return
		}
		for field, item := range typed {
			own(set, append(path.Copy(), fieldpath.FieldNameElement(field)), field, item)
		}
	case []any:
		for _, item := range typed {
			switch name {
			case "keyed":
				key := fieldpath.KeyElement(smdvalue.Field{Name: "name", Value: smdvalue.NewValueInterface(item.(map[string]any)["name"])})
				own(set, append(path.Copy(), key), "", item)
			case "set":
				set.Insert(append(path.Copy(), fieldpath.ValueElement(smdvalue.NewValueInterface(item))))
			}
		}
	}
}

// leaves flattens an object of the schema, by itself and not with the code under test: text of the path → value.
func leaves(object map[string]any) map[string]any {
	out := map[string]any{}
	flatten(out, Path{{Field: "spec"}}, "", object["spec"])
	return out
}

func flatten(out map[string]any, path Path, name string, value any) {
	switch typed := value.(type) {
	case map[string]any:
		if name == "whole" {
			break
		}
		for field, item := range typed {
			flatten(out, path.Child(Element{Field: field}), field, item)
		}
		return
	case []any:
		if name != "keyed" && name != "set" {
			break
		}
		for _, item := range typed {
			element, _ := elementOf(item, map[string][]string{"keyed": {"name"}}[name])
			flatten(out, path.Child(element), "", item)
		}
		return
	}
	out[path.String()] = value
}
