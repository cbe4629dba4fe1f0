package snapshot

import (
	"errors"
	"reflect"
	"slices"
)

var (
	errItemGone  = errors.New("the list item that it belongs to is not there")
	errAmbiguous = errors.New("several list items have the same merge key")
	errOtherType = errors.New("a part on the way has another type")
)

// editor changes decoded objects by path. Parents that are missing are created; list items get the place among
// their neighbours that order gives them.
type editor struct {
	// order returns the items' path elements of the list at a path in the order to restore.
	order func(list Path) []string
}

// apply replaces the value at the path by what change makes of it. Without change in presence or value it leaves
// the object as it is.
func (e editor) apply(object map[string]any, path Path, change func(maybe) maybe) error {
	_, err := e.at(some(object), nil, path, change)
	return err
}

func (e editor) at(current maybe, base, rest Path, change func(maybe) maybe) (maybe, error) {
	if len(rest) == 0 {
		return change(current), nil
	}
	if rest[0].isField() {
		return e.inMap(current, base, rest, change)
	}
	return e.inList(current, base, rest, change)
}

func (e editor) inMap(current maybe, base, rest Path, change func(maybe) maybe) (maybe, error) {
	fields := map[string]any{}
	if current.present {
		var ok bool
		if fields, ok = current.value.(map[string]any); !ok {
			return current, errOtherType
		}
	}
	name := rest[0].Field
	changed, err := e.at(get(fields, name), base.Child(rest[0]), rest[1:], change)
	if err != nil {
		return current, err
	}
	if !changed.present {
		delete(fields, name)
		return current, nil
	}
	fields[name] = changed.value
	return some(fields), nil
}

func (e editor) inList(current maybe, base, rest Path, change func(maybe) maybe) (maybe, error) {
	list := []any{}
	if current.present {
		var ok bool
		if list, ok = current.value.([]any); !ok {
			return current, errOtherType
		}
	}
	at, err := find(list, rest[0])
	if err != nil {
		return current, err
	}
	item := maybe{}
	if at >= 0 {
		item = some(list[at])
	} else if len(rest) > 1 {
		return current, errItemGone
	}
	changed, err := e.at(item, base.Child(rest[0]), rest[1:], change)
	switch {
	case err != nil:
		return current, err
	case changed.present && at >= 0:
		list[at] = changed.value
	case changed.present:
		list = insert(list, rest[0], changed.value, e.order(base))
	case at >= 0:
		list = slices.Delete(slices.Clone(list), at, at+1)
	default:
		return current, nil
	}
	return some(list), nil
}

// find returns the position of the item, -1 when it is not there. A list can have thousands of items, of each of which
// a path leads through it: nothing is encoded or allocated for an item.
func find(list []any, element Element) (int, error) {
	matches, err := element.matcher()
	if err != nil {
		return -1, err
	}
	found := -1
	for i, item := range list {
		if !matches(item) {
			continue
		}
		if found >= 0 {
			return -1, errAmbiguous
		}
		found = i
	}
	return found, nil
}

// matcher returns what tells whether a decoded item is the one that the element names, as elementOf would.
func (e Element) matcher() (func(item any) bool, error) {
	if len(e.Keys) == 0 {
		wanted, err := e.Value.maybe()
		return func(item any) bool { return isScalar(item) && wanted.present && item == wanted.value }, err
	}
	wanted := make([]any, len(e.Keys))
	for i, key := range e.Keys {
		value, err := key.Value.maybe()
		if err != nil {
			return nil, err
		}
		wanted[i] = value.value
	}
	return func(item any) bool {
		fields, ok := item.(map[string]any)
		for i := 0; ok && i < len(wanted); i++ {
			ok = reflect.DeepEqual(fields[e.Keys[i].Name], wanted[i])
		}
		return ok
	}, nil
}

func isScalar(item any) bool {
	switch item.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// insert puts an item right behind the nearest of its predecessors in order that is in the list, else before the
// nearest of its successors, else at the end.
func insert(list []any, element Element, item any, order []string) []any {
	place := map[string]int{}
	for i, other := range list {
		if candidate, ok := elementOf(other, keyNames(element)); ok {
			place[candidate.String()] = i
		}
	}
	self := slices.Index(order, element.String())
	for i := self - 1; i >= 0; i-- {
		if at, ok := place[order[i]]; ok {
			return slices.Insert(slices.Clone(list), at+1, item)
		}
	}
	for i := self + 1; i < len(order); i++ {
		if at, ok := place[order[i]]; ok {
			return slices.Insert(slices.Clone(list), at, item)
		}
	}
	return append(slices.Clone(list), item)
}

func keyNames(element Element) []string {
	names := make([]string, len(element.Keys))
	for i, key := range element.Keys {
		names[i] = key.Name
	}
	return names
}

// itemsAt names the items of the list at a path by the kind of merge key that like has.
func itemsAt(object map[string]any, list Path, like Element) []string {
	var out []string
	// Looking never fails and never changes the object.
	_ = editor{}.apply(object, list, func(found maybe) maybe {
		items, _ := found.value.([]any)
		for _, item := range items {
			if element, ok := elementOf(item, keyNames(like)); ok {
				out = append(out, element.String())
			}
		}
		return found
	})
	return out
}
