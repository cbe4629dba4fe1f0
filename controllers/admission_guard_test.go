// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

func shippedGuard(t *testing.T) *AdmissionGuard {
	t.Helper()
	guard, err := NewAdmissionGuard(nil, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

func TestP7_AWeakenedPolicyCountsAsMissing(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicySpec
	for name, weaken := range map[string]func(*spec){
		"errors let through": func(s *spec) { s.FailurePolicy = new(admissionv1.Ignore) },
		"parameters":         func(s *spec) { s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"} },
		"a condition":        func(s *spec) { s.MatchConditions = []admissionv1.MatchCondition{{Name: "never", Expression: "false"}} },
		"nothing matched":    func(s *spec) { s.MatchConstraints = nil },
		"no rules":           func(s *spec) { s.MatchConstraints.ResourceRules = nil },
		"creations only": func(s *spec) {
			s.MatchConstraints.ResourceRules[0].Operations = []admissionv1.OperationType{admissionv1.Create}
		},
		"another version only":       func(s *spec) { s.MatchConstraints.ResourceRules[0].APIVersions = []string{"v2"} },
		"another resource":           func(s *spec) { s.MatchConstraints.ResourceRules[0].Resources = []string{"banditpolicies"} },
		"some names only":            func(s *spec) { s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"x"} },
		"outside of namespaces only": func(s *spec) { s.MatchConstraints.ResourceRules[0].Scope = new(admissionv1.ClusterScope) },
		"exclusions": func(s *spec) {
			s.MatchConstraints.ExcludeResourceRules = s.MatchConstraints.ResourceRules
		},
		"some namespaces only": func(s *spec) {
			s.MatchConstraints.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"guarded": "yes"}}
		},
		"some objects only": func(s *spec) {
			s.MatchConstraints.ObjectSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "free", Operator: metav1.LabelSelectorOpDoesNotExist}}}
		},
		"another question": func(s *spec) { s.Variables[0].Expression = "false" },
		"another answer":   func(s *spec) { s.Validations[0].Expression = "true" },
		"no answer":        func(s *spec) { s.Validations = nil },
	} {
		t.Run(name, func(t *testing.T) {
			guard := shippedGuard(t).shipped[0]
			live := guard.policy.Spec.DeepCopy()
			weaken(live)
			if err := evaluatePolicy(&guard.policy.Spec, live); err == nil {
				t.Error("it counts as in force")
			}
		})
	}
}

func TestP7_AWeakenedBindingCountsAsMissing(t *testing.T) {
	type spec = admissionv1.ValidatingAdmissionPolicyBindingSpec
	for name, weaken := range map[string]func(*spec){
		"another policy": func(s *spec) { s.PolicyName = "other" },
		"audit only":     func(s *spec) { s.ValidationActions = []admissionv1.ValidationAction{admissionv1.Audit} },
		"parameters":     func(s *spec) { s.ParamRef = &admissionv1.ParamRef{Name: "x"} },
		"some only":      func(s *spec) { s.MatchResources = &admissionv1.MatchResources{} },
	} {
		t.Run(name, func(t *testing.T) {
			guard := shippedGuard(t).shipped[0]
			live := guard.binding.Spec.DeepCopy()
			weaken(live)
			if err := evaluateBinding(&guard.binding.Spec, live); err == nil {
				t.Error("it counts as in force")
			}
		})
	}
}

func TestTheShippedPoliciesCountAsInForce(t *testing.T) {
	for _, shipped := range shippedGuard(t).shipped {
		live := shipped.policy.Spec.DeepCopy()
		// As the API server defaults it.
		live.MatchConstraints.MatchPolicy = new(admissionv1.Equivalent)
		live.MatchConstraints.NamespaceSelector, live.MatchConstraints.ObjectSelector = &metav1.LabelSelector{}, &metav1.LabelSelector{}
		for i := range live.MatchConstraints.ResourceRules {
			live.MatchConstraints.ResourceRules[i].Scope = new(admissionv1.AllScopes)
		}
		if err := evaluatePolicy(&shipped.policy.Spec, live); err != nil {
			t.Errorf("%s: %v", shipped.policy.Name, err)
		}
		if err := evaluateBinding(&shipped.binding.Spec, shipped.binding.Spec.DeepCopy()); err != nil {
			t.Errorf("%s: %v", shipped.policy.Name, err)
		}
	}
}
