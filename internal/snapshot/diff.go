package snapshot

import (
	"maps"
	"slices"
	"strings"
)

// PathChange is one touched path with its value before and after; nil means that there is nothing at the path.
// A part that the change creates or removes as a whole is one path.
type PathChange struct {
	Path   Path   `json:"path"`
	Before *Value `json:"before,omitempty"`
	After  *Value `json:"after,omitempty"`
}

// ListOrder holds the order after the change of a list to which the change adds items.
type ListOrder struct {
	Path  Path     `json:"path"`
	Items []string `json:"items"` // the items' path elements, such as [name=checkout]
}

type difference struct {
	paths  []PathChange
	orders []ListOrder
	err    error
}

// diff lists what differs between two objects.
func diff(shape *node, before, after map[string]any) ([]PathChange, []ListOrder, error) {
	d := &difference{}
	d.walk(shape, nil, some(before), some(after))
	slices.SortFunc(d.paths, func(a, b PathChange) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	slices.SortFunc(d.orders, func(a, b ListOrder) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	return d.paths, d.orders, d.err
}

func (d *difference) walk(n *node, path Path, before, after maybe) {
	if before.equal(after) {
		return
	}
	if before.present && after.present {
		beforeMap, ok1 := before.value.(map[string]any)
		afterMap, ok2 := after.value.(map[string]any)
		if ok1 && ok2 && !n.atomicMap() {
			d.walkMaps(n, path, beforeMap, afterMap)
			return
		}
		beforeList, ok1 := before.value.([]any)
		afterList, ok2 := after.value.([]any)
		if ok1 && ok2 && d.walkLists(n, path, beforeList, afterList) {
			return
		}
	}
	d.add(path, before, after)
}

func (d *difference) walkMaps(n *node, path Path, before, after map[string]any) {
	for _, name := range unionKeys(before, after) {
		d.walk(n.field(name), path.Child(Element{Field: name}), get(before, name), get(after, name))
	}
}

// walkLists compares by merge key; false when the lists have to be compared as one value. So are lists whose common
// items changed places: an order has no path of its own.
func (d *difference) walkLists(n *node, path Path, before, after []any) bool {
	beforeItems, ok1 := n.identify(before)
	afterItems, ok2 := n.identify(after)
	if !ok1 || !ok2 {
		return false
	}
	afterIndex, beforeIndex := index(afterItems), index(beforeItems)
	if !slices.Equal(common(beforeItems, afterIndex), common(afterItems, beforeIndex)) {
		return false
	}
	grown := false
	for i, element := range beforeItems {
		other := maybe{}
		if j, ok := afterIndex[element.String()]; ok {
			other = some(after[j])
		}
		d.walk(n.listItem(), path.Child(element), some(before[i]), other)
	}
	for j, element := range afterItems {
		if _, ok := beforeIndex[element.String()]; !ok {
			d.add(path.Child(element), maybe{}, some(after[j]))
			grown = true
		}
	}
	if grown {
		d.orders = append(d.orders, ListOrder{Path: path, Items: texts(afterItems)})
	}
	return true
}

func (d *difference) add(path Path, before, after maybe) {
	beforeValue, err := before.pointer()
	if err != nil {
		d.err = err
	}
	afterValue, err := after.pointer()
	if err != nil {
		d.err = err
	}
	d.paths = append(d.paths, PathChange{Path: path, Before: beforeValue, After: afterValue})
}

func get(object map[string]any, name string) maybe {
	value, ok := object[name]
	return maybe{value: value, present: ok}
}

func unionKeys(a, b map[string]any) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

func index(elements []Element) map[string]int {
	out := make(map[string]int, len(elements))
	for i, element := range elements {
		out[element.String()] = i
	}
	return out
}

func common(elements []Element, in map[string]int) []string {
	var out []string
	for _, text := range texts(elements) {
		if _, ok := in[text]; ok {
			out = append(out, text)
		}
	}
	return out
}

func texts(elements []Element) []string {
	out := make([]string, len(elements))
	for i, element := range elements {
		out[i] = element.String()
	}
	return out
}
