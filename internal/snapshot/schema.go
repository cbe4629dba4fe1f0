package snapshot

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// node is what managedFields tell about the shape of one place in an object; all items of a list share one node.
// A nil node is a place that nobody is known to own: a map is then merged and a list is one value.
type node struct {
	fields map[string]*node
	item   *node
	keys   []string // names of the merge keys, sorted
	set    bool
	mixed  bool // the entries contradict each other, so the list is one value
	owned  bool // somebody owns the value itself, not only parts of it
}

// learnShape reads the ownership entries of the objects that were written in the object's own API version: the
// paths of another version may differ.
func learnShape(objects ...*unstructured.Unstructured) (*node, error) {
	root := &node{}
	for _, object := range objects {
		for _, entry := range object.GetManagedFields() {
			if entry.APIVersion != object.GetAPIVersion() {
				continue
			}
			set, err := fieldSet(entry)
			if err != nil {
				return nil, err
			}
			set.Iterate(root.learn)
		}
	}
	return root, nil
}

func fieldSet(entry metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	set := &fieldpath.Set{}
	if entry.FieldsV1 == nil {
		return set, nil
	}
	if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err != nil {
		return nil, fmt.Errorf("managedFields of manager %q: %w", entry.Manager, err)
	}
	return set, nil
}

func (n *node) learn(path fieldpath.Path) {
	for _, element := range path {
		n = n.step(element)
	}
	n.owned = true
}

func (n *node) step(element fieldpath.PathElement) *node {
	if element.FieldName != nil {
		if n.fields == nil {
			n.fields = map[string]*node{}
		}
		if n.fields[*element.FieldName] == nil {
			n.fields[*element.FieldName] = &node{}
		}
		return n.fields[*element.FieldName]
	}
	if n.item == nil {
		n.item = &node{}
	}
	switch {
	case element.Key != nil:
		var names []string
		for _, field := range *element.Key {
			names = append(names, field.Name)
		}
		slices.Sort(names)
		if n.keys != nil && !slices.Equal(n.keys, names) {
			n.mixed = true
		}
		n.keys = names
	case element.Value != nil:
		n.set = true
	default:
		n.mixed = true
	}
	return n.item
}

func (n *node) field(name string) *node {
	if n == nil {
		return nil
	}
	return n.fields[name]
}

func (n *node) listItem() *node {
	if n == nil {
		return nil
	}
	return n.item
}

// atomicMap says whether a map is one value: it is owned as a whole and no part of it by anyone.
func (n *node) atomicMap() bool {
	return n != nil && n.owned && len(n.fields) == 0
}

// identify names the items of a list; false when the list is one value: it has no merge keys, or two items have the
// same.
func (n *node) identify(list []any) ([]Element, bool) {
	if n == nil || n.mixed || (n.keys == nil) == !n.set {
		return nil, false
	}
	seen := map[string]bool{}
	out := make([]Element, len(list))
	for i, item := range list {
		element, ok := elementOf(item, n.keys)
		if !ok || seen[element.String()] {
			return nil, false
		}
		seen[element.String()] = true
		out[i] = element
	}
	return out, true
}

// elementOf names an item by the given merge keys, or, without keys, by its value.
func elementOf(item any, keys []string) (Element, bool) {
	if len(keys) == 0 {
		switch item.(type) {
		case map[string]any, []any:
			return Element{}, false
		}
		value, err := some(item).pointer()
		return Element{Value: value}, err == nil
	}
	fields, ok := item.(map[string]any)
	if !ok {
		return Element{}, false
	}
	element := Element{}
	for _, name := range keys {
		value, err := some(fields[name]).pointer()
		if err != nil {
			return Element{}, false
		}
		element.Keys = append(element.Keys, KeyField{Name: name, Value: *value})
	}
	return element, true
}
