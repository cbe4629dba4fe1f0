// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	celast "github.com/google/cel-go/common/ast"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Uses reports whether an expression looks at a variable.
func (e *Expression) Uses(variable string) bool {
	uses := celast.MatchDescendants(e.tree, func(n celast.NavigableExpr) bool {
		return n.Kind() == celast.IdentKind && n.AsIdent() == variable
	})
	return len(uses) > 0
}

// CheckNames finds names that can be nowhere: fields of spec that there are not,
// changes and tests that the spec does not have. Without it a typo would show only
// when the expression is evaluated.
func (e *Expression) CheckNames(spec *dgmv1alpha1.ImprovementWorkspaceSpec) error {
	known := map[string][]string{
		VariableSpec: fieldsOf(reflect.TypeFor[dgmv1alpha1.ImprovementWorkspaceSpec]()),
		VariablePlan: {"digest", "objects", "touched"},
		VariableRisk: {"level", "notes", "rank"},
	}
	for _, change := range spec.Changes {
		known[VariableBefore] = append(known[VariableBefore], change.Name)
	}
	known[VariableAfter] = known[VariableBefore]
	known[VariableTests] = []string{}
	for _, test := range spec.Tests {
		known[VariableTests] = append(known[VariableTests], test.Name)
	}
	for _, node := range celast.MatchDescendants(e.tree, func(celast.NavigableExpr) bool { return true }) {
		variable, name, ok := selected(node)
		if !ok {
			continue
		}
		if names, checked := known[variable]; checked && !slices.Contains(names, name) {
			return fmt.Errorf("%s has no %q: it has %s", variable, name, strings.Join(names, ", "))
		}
		if variable == VariableTests {
			if err := checkTestField(node, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkTestField(test celast.NavigableExpr, name string) error {
	parent, found := test.Parent()
	if !found || parent.Kind() != celast.SelectKind {
		return nil
	}
	fields := fieldsOf(reflect.TypeFor[TestResult]())
	if field := parent.AsSelect().FieldName(); !slices.Contains(fields, field) {
		return fmt.Errorf("tests.%s has no %q: it has %s", name, field, strings.Join(fields, ", "))
	}
	return nil
}

// selected takes variable.name, variable["name"] and variable.?name apart.
func selected(node celast.NavigableExpr) (variable, name string, ok bool) {
	switch node.Kind() {
	case celast.SelectKind:
		selection := node.AsSelect()
		if operand := selection.Operand(); operand.Kind() == celast.IdentKind {
			return operand.AsIdent(), selection.FieldName(), true
		}
	case celast.CallKind:
		call := node.AsCall()
		if !slices.Contains([]string{"_[_]", "_?._", "_[?_]"}, call.FunctionName()) || len(call.Args()) != 2 {
			return "", "", false
		}
		operand, index := call.Args()[0], call.Args()[1]
		if operand.Kind() != celast.IdentKind || index.Kind() != celast.LiteralKind {
			return "", "", false
		}
		if text, isText := index.AsLiteral().Value().(string); isText {
			return operand.AsIdent(), text, true
		}
	default:
	}
	return "", "", false
}

// fieldsOf are the names in JSON of a struct's fields.
func fieldsOf(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
