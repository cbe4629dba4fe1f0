// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	kjson "sigs.k8s.io/json"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// Names of the variables that expressions see.
const (
	VariableSpec   = "spec"
	VariablePlan   = "plan"
	VariableBefore = "before"
	VariableAfter  = "after"
	VariableTarget = "target"
	VariableTests  = "tests"
	VariableRisk   = "risk"
)

// Variables are their names, in the order in which they are documented.
func Variables() []string {
	return []string{VariableSpec, VariablePlan, VariableBefore, VariableAfter, VariableTarget, VariableTests, VariableRisk}
}

// Facts are what expressions see, by the names of Variables.
type Facts map[string]any

// Evidence is what Facts are made of.
type Evidence struct {
	Spec *dgmv1alpha1.ImprovementWorkspaceSpec
	Plan snapshot.Plan
	// Unchanged are the objects, by the name of their change, that are as the
	// change wants them already, and so are not in the plan.
	Unchanged map[string]map[string]any
	// Target is the object that spec.target names.
	Target map[string]any
	// Tests are how the tests went, by name.
	Tests map[string]TestResult
}

// TestResult is how a test went.
type TestResult struct {
	Outcome  dgmv1alpha1.TestOutcome `json:"outcome"`
	ExitCode *int32                  `json:"exitCode,omitempty"`
	// Results is the JSON that it ended with; nothing when it gave none.
	Results json.RawMessage `json:"results,omitempty"`
}

// NewFacts makes facts.
func NewFacts(e Evidence) (Facts, error) {
	spec, err := document(e.Spec)
	if err != nil {
		return nil, fmt.Errorf("read the spec: %w", err)
	}
	tests, err := document(e.Tests)
	if err != nil {
		return nil, fmt.Errorf("read the results of the tests: %w", err)
	}
	before, after := map[string]any{}, map[string]any{}
	for name, object := range e.Unchanged {
		before[name], after[name] = object, object
	}
	var objects, touched []any
	for _, object := range e.Plan.Objects {
		if before[object.Change], after[object.Change], err = states(object); err != nil {
			return nil, err
		}
		objects = append(objects, map[string]any{
			"change": object.Change, "apiVersion": object.Ref.APIVersion, "kind": object.Ref.Kind, "name": object.Ref.Name,
		})
		if touched, err = appendTouched(touched, object); err != nil {
			return nil, err
		}
	}
	return Facts{
		VariableSpec: spec, VariableBefore: before, VariableAfter: after, VariableTarget: orEmpty(e.Target), VariableTests: tests,
		VariablePlan: map[string]any{"digest": e.Plan.BeforeDigest(), "objects": slices.Clip(objects), "touched": slices.Clip(touched)},
		VariableRisk: riskOf(e.Spec),
	}, nil
}

func states(object snapshot.ObjectPlan) (before, after any, err error) {
	b, a, err := object.States()
	return b, a, err
}

// riskOf is the risk with its default, and its rank from 0.
func riskOf(spec *dgmv1alpha1.ImprovementWorkspaceSpec) map[string]any {
	level := spec.RiskLevel()
	risk := map[string]any{"level": string(level), "rank": int64(level.Rank()), "notes": ""}
	if spec.Risk != nil {
		risk["notes"] = spec.Risk.Notes
	}
	return risk
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// document is a value as JSON shows it, whole numbers as integers.
func document(value any) (map[string]any, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	decoded, err := decoded(encoded)
	if err != nil {
		return nil, err
	}
	document, _ := decoded.(map[string]any)
	return orEmpty(document), nil
}

func decoded(encoded []byte) (any, error) {
	var value any
	err := kjson.UnmarshalCaseSensitivePreserveInts(encoded, &value)
	return value, err
}

// appendTouched adds each single value that a change sets, and each part that it
// removes.
func appendTouched(list []any, object snapshot.ObjectPlan) ([]any, error) {
	t := toucher{object: object, list: list}
	for _, path := range object.Paths {
		before, err := valueOf(path.Before)
		if err != nil {
			return nil, err
		}
		after, err := valueOf(path.After)
		if err != nil {
			return nil, err
		}
		field := ""
		if n := len(path.Path); n > 0 {
			field = path.Path[n-1].Field
		}
		t.walk(path.Path.String(), field, before, after)
	}
	return t.list, nil
}

func valueOf(v *snapshot.Value) (any, error) {
	if v == nil {
		return nil, nil
	}
	return decoded(*v)
}

type toucher struct {
	object snapshot.ObjectPlan
	list   []any
}

func (t *toucher) walk(path, field string, before, after any) {
	if reflect.DeepEqual(before, after) {
		return
	}
	switch typed := after.(type) {
	case map[string]any:
		was, _ := before.(map[string]any)
		path = named(path, typed)
		for _, name := range unionKeys(was, typed) {
			t.walk(path+"."+name, name, was[name], typed[name])
		}
	case []any:
		t.walkList(path, field, before, typed)
	default:
		t.list = append(t.list, map[string]any{
			"change": t.object.Change, "apiVersion": t.object.Ref.APIVersion, "kind": t.object.Ref.Kind, "name": t.object.Ref.Name,
			"path": path, "field": field, "before": before, "after": after, "added": added(before, after),
		})
	}
}

// walkList compares items of the same name, or else those at the same place.
func (t *toucher) walkList(path, field string, before any, after []any) {
	was, _ := before.([]any)
	known := map[string]any{}
	for _, item := range was {
		if name := nameOf(item); name != "" {
			known[name] = item
		}
	}
	for i, item := range after {
		old := at(was, i)
		if name := nameOf(item); name != "" {
			old = known[name]
			delete(known, name)
		}
		t.walk(path+"["+strconv.Itoa(i)+"]", field, old, item)
	}
	for i := range was {
		name := nameOf(was[i])
		if _, gone := known[name]; gone || (name == "" && i >= len(after)) {
			t.walk(named(path+"["+strconv.Itoa(i)+"]", was[i]), field, was[i], nil)
		}
	}
}

// named is a path whose last item of a list is told by its name, where it has one.
func named(path string, item any) string {
	name := nameOf(item)
	list, index, found := cutLast(strings.TrimSuffix(path, "]"), "[")
	if _, err := strconv.Atoi(index); err != nil || name == "" || !found || !strings.HasSuffix(path, "]") {
		return path
	}
	return list + "[name=" + name + "]"
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

func nameOf(item any) string {
	object, _ := item.(map[string]any)
	name, _ := object["name"].(string)
	return name
}

// added is the text of a value without the lines that were there before.
func added(before, after any) string {
	text, ok := after.(string)
	if !ok {
		return ""
	}
	was, _ := before.(string)
	if was == "" {
		return text
	}
	known := map[string]bool{}
	for line := range strings.Lines(was) {
		known[strings.TrimRight(line, "\r\n")] = true
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); !known[line] {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

func unionKeys(a, b map[string]any) []string {
	keys := make([]string, 0, len(a)+len(b))
	for key := range a {
		keys = append(keys, key)
	}
	for key := range b {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}
