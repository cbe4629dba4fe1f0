package snapshot

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
)

// operation is one operation of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// MarshalJSON leaves the value out of removals only: null is a value.
func (o operation) MarshalJSON() ([]byte, error) {
	fields := map[string]any{"op": o.Op, "path": o.Path}
	if o.Op != "remove" {
		fields["value"] = o.Value
	}
	return json.Marshal(fields)
}

// jsonPatch returns the patch from one object to another, nil when they are equal. It starts by writing the
// resourceVersion of the first, which makes the server answer 409 when the object is no longer the one compared.
func jsonPatch(live, desired map[string]any) ([]byte, error) {
	operations := patchMap(nil, "", live, desired)
	if len(operations) == 0 {
		return nil, nil
	}
	return guarded(live, operations)
}

func guarded(live map[string]any, operations []operation) ([]byte, error) {
	metadata, _ := live["metadata"].(map[string]any)
	version, _ := metadata["resourceVersion"].(string)
	if version == "" {
		return nil, errors.New("the live object has no resourceVersion: pass it as the API server returned it")
	}
	guard := operation{Op: "replace", Path: "/metadata/resourceVersion", Value: version}
	return json.Marshal(append([]operation{guard}, operations...))
}

func patchMap(operations []operation, pointer string, live, desired map[string]any) []operation {
	for _, name := range unionKeys(live, desired) {
		at := pointer + "/" + escapePointer(name)
		old, wanted := get(live, name), get(desired, name)
		switch {
		case !wanted.present:
			operations = append(operations, operation{Op: "remove", Path: at})
		case !old.present:
			operations = append(operations, operation{Op: "add", Path: at, Value: wanted.value})
		default:
			operations = patchValue(operations, at, old.value, wanted.value)
		}
	}
	return operations
}

// patchValue replaces a list that changes its length as a whole: positions then cannot be mistaken, and the
// precondition guarantees that nothing in between is overwritten.
func patchValue(operations []operation, pointer string, live, desired any) []operation {
	if reflect.DeepEqual(live, desired) {
		return operations
	}
	liveMap, ok1 := live.(map[string]any)
	desiredMap, ok2 := desired.(map[string]any)
	if ok1 && ok2 {
		return patchMap(operations, pointer, liveMap, desiredMap)
	}
	liveList, ok1 := live.([]any)
	desiredList, ok2 := desired.([]any)
	if ok1 && ok2 && len(liveList) == len(desiredList) {
		for i := range liveList {
			operations = patchValue(operations, pointer+"/"+strconv.Itoa(i), liveList[i], desiredList[i])
		}
		return operations
	}
	return append(operations, operation{Op: "replace", Path: pointer, Value: desired})
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// escapePointer writes a name as a token of a JSON pointer (RFC 6901).
func escapePointer(name string) string { return pointerEscapes.Replace(name) }
