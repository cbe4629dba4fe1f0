// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// An object that the API server cannot read is quoted in its answer as a whole.
func TestP8_ARefusalHoldsNoObject(t *testing.T) {
	object := `{"data":{"PASSWORD":"hunter2","OTHER":"` + strings.Repeat("x", 2000) + `"}}`
	kind := schema.GroupKind{Kind: "ConfigMap"}
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"object quoted", apierrors.NewInvalid(kind, "", field.ErrorList{
			field.Invalid(field.NewPath("patch"), object, `strict decoding error: unknown field "dat"`),
		}), `patch: Invalid value: strict decoding error: unknown field "dat"`},
		{"values of a list", apierrors.NewInvalid(kind, "", field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), "abc", "no number"), field.Required(field.NewPath("spec", "image"), ""),
		}), `spec.replicas: Invalid value: "abc": no number; spec.image: Required value`},
		{"difference of objects", apierrors.NewInvalid(kind, "", field.ErrorList{
			field.Forbidden(field.NewPath("spec"), "may not change\n-hunter2\n+hunter3"),
		}), `spec: Forbidden: may not change`},
		{"no causes", apierrors.NewBadRequest("strict decoding"), "strict decoding"},
		{"no answer of the API server", errors.New("broken"), "broken"},
		{"long", errors.New(strings.Repeat("y", 9000)), strings.Repeat("y", maxRefusal-len(" …")) + " …"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := refusal(test.err); got != test.want {
				t.Errorf("refusal is %q, want %q", got, test.want)
			}
		})
	}
}
