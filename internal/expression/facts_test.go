// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/acgs/dgm-operator/internal/snapshot"
)

func TestTouched(t *testing.T) {
	for name, test := range map[string]struct{ before, after, want string }{
		"a value":             {`{a: 1}`, `{a: 2}`, "spec.a: 1 -> 2"},
		"a part set":          {`{}`, `{a: {b: 1, c: [x, z]}}`, "spec.a.b: <nil> -> 1; spec.a.c[0]: <nil> -> x; spec.a.c[1]: <nil> -> z"},
		"a part removed":      {`{a: {b: {c: 1}}}`, `{a: {}}`, "spec.a.b: map[c:1] -> <nil>"},
		"an item by its name": {`{env: [{name: A, value: "1"}]}`, `{env: [{name: A, value: "1"}, {name: B, value: "2"}]}`, "spec.env[name=B].name: <nil> -> B; spec.env[name=B].value: <nil> -> 2"},
		"a number for a text": {`{a: "1"}`, `{a: 1}`, "spec.a: 1 -> 1"},
		"a list for a map":    {`{a: {b: 1}}`, `{a: [1]}`, "spec.a[0]: <nil> -> 1"},
	} {
		t.Run(name, func(t *testing.T) {
			object := func(spec string) *unstructured.Unstructured {
				manifest := "{apiVersion: v1, kind: Widget, metadata: {name: w, uid: u}, spec: " + spec + "}"
				var value map[string]any
				if err := yaml.Unmarshal([]byte(manifest), &value); err != nil {
					t.Fatal(err)
				}
				return &unstructured.Unstructured{Object: value}
			}
			change, err := snapshot.NewObjectPlan("change", object(test.before), object(test.after), "dgm-operator")
			if err != nil {
				t.Fatal(err)
			}
			facts, err := NewFacts(Evidence{Spec: spec(), Plan: snapshot.Plan{Objects: []snapshot.ObjectPlan{change}}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, item := range facts[VariablePlan].(map[string]any)["touched"].([]any) {
				touched := item.(map[string]any)
				got = append(got, fmt.Sprintf("%v: %v -> %v", touched["path"], touched["before"], touched["after"]))
			}
			if strings.Join(got, "; ") != test.want {
				t.Errorf("%s, want %s", strings.Join(got, "; "), test.want)
			}
			after := facts[VariableAfter].(map[string]any)["change"].(map[string]any)
			if want := object(test.after).Object["spec"]; fmt.Sprint(after["spec"]) != fmt.Sprint(want) {
				t.Errorf("after is %v, want %v", after["spec"], want)
			}
		})
	}
}

func TestAddedAreTheLinesThatAreNew(t *testing.T) {
	if got := added("a\nsecret\nb\n", "a\r\nsecret\nc\nb"); got != "c" {
		t.Errorf("%q", got)
	}
	if got := added(nil, "a\nb"); got != "a\nb" {
		t.Errorf("%q", got)
	}
	if got := added("a", int64(3)); got != "" {
		t.Errorf("%q", got)
	}
}
