// SPDX-License-Identifier: Apache-2.0

package safety

import (
	"context"
	"strings"
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/expression"
)

func improvement(checks ...string) *dgmv1alpha1.ImprovementWorkspaceSpec {
	spec := &dgmv1alpha1.ImprovementWorkspaceSpec{
		Changes: []dgmv1alpha1.Change{{Name: "cache"}}, Tests: []dgmv1alpha1.Test{{Name: "smoke"}},
	}
	for _, check := range checks {
		spec.SafetyChecks = append(spec.SafetyChecks, dgmv1alpha1.SafetyCheck{Name: "check", Expression: check, Message: "the cache may be at most 5 minutes stale"})
	}
	return spec
}

func factsOf(t *testing.T, spec *dgmv1alpha1.ImprovementWorkspaceSpec) expression.Facts {
	t.Helper()
	facts, err := expression.NewFacts(expression.Evidence{
		Spec:      spec,
		Unchanged: map[string]map[string]any{"cache": {"data": map[string]any{"CACHE_TTL": "60"}}},
		Tests:     map[string]expression.TestResult{"smoke": {Outcome: dgmv1alpha1.TestPassed, ExitCode: new(int32(0))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func TestEvaluate(t *testing.T) {
	for _, test := range []struct {
		name, expression string
		tests            bool
		outcome          Outcome
		refusal          string
	}{
		{"holds", `int(after.cache.data.CACHE_TTL) <= 300`, true, Holds, ""},
		{"does not", `int(after.cache.data.CACHE_TTL) <= 30`, true, Fails, "safety check check is not true: the cache may be at most 5 minutes stale"},
		{"errs", `int(after.cache.data.TTL) <= 30`, true, Error, "safety check check cannot be evaluated, which counts as no: no such key: TTL; correct its expression in spec.safetyChecks"},
		{"looks at tests", `tests.smoke.exitCode == 0`, true, Holds, ""},
		{"looks at tests in a dry run", `tests.smoke.exitCode == 0`, false, NotEvaluated, ""},
		{"is none", `tests.smok.exitCode == 0`, true, Error, `tests has no "smok"`},
		{"has no result", `tests.smoke.results.p99 < 3`, true, Error, "no such key: results"},
		{"is not true or false", `after.cache.data.CACHE_TTL`, true, Error, "must be true or false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := improvement(test.expression)
			results := Evaluate(context.Background(), spec, factsOf(t, spec), test.tests)
			if len(results) != 1 || results[0].Outcome != test.outcome {
				t.Fatalf("%+v, want %s", results, test.outcome)
			}
			err := Refusal(results)
			if (err == nil) != (test.refusal == "") || (err != nil && !strings.Contains(err.Error(), test.refusal)) {
				t.Errorf("%v, want %s", err, test.refusal)
			}
		})
	}
}

func TestCompileFindsATypo(t *testing.T) {
	if err := Compile(improvement(`int(after.cache.data.CACHE_TTL) <= 300`)); err != nil {
		t.Error(err)
	}
	for _, typo := range []string{`int(afer.cache.data.CACHE_TTL) <= 300`, `int(after.cash.data.CACHE_TTL) <= 300`, `1 +`} {
		if err := Compile(improvement(typo)); err == nil || !strings.Contains(err.Error(), "safety check check cannot be evaluated") {
			t.Errorf("%s: %v", typo, err)
		}
	}
}

func TestAllChecksTogetherHaveALimit(t *testing.T) {
	const costly = `[1,2,3,4,5,6,7,8,9,10].map(x, [x,x,x,x,x,x,x,x,x,x].map(y, [y,y,y,y,y,y,y,y,y,y].map(z, z+z+z+z+z+z+z+z+z+z+z+z))).size() < 100`
	var checks []string
	for range 32 {
		checks = append(checks, costly, costly)
	}
	spec := improvement(checks...)
	results := Evaluate(context.Background(), spec, factsOf(t, spec), true)
	if results[0].Outcome != Holds || results[len(results)-1].Outcome != Error || !strings.Contains(results[len(results)-1].Message, "all checks together") {
		t.Errorf("the first %+v, the last %+v", results[0], results[len(results)-1])
	}
}

func TestAssessRisk(t *testing.T) {
	const low, medium, high, critical = dgmv1alpha1.RiskLow, dgmv1alpha1.RiskMedium, dgmv1alpha1.RiskHigh, dgmv1alpha1.RiskCritical
	for _, test := range []struct {
		declared, configured, constitutional dgmv1alpha1.RiskLevel
		refusal                              string
	}{
		{"", high, high, ""},
		{"", low, high, "its risk is Medium, and Low is the highest that the system configuration risk_limit allows"},
		{high, high, high, ""},
		{critical, critical, high, "High is the highest that the constitution cdd01ef066bc6cf2 allows"},
		{critical, high, critical, "High is the highest that the system configuration risk_limit allows"},
		{critical, critical, critical, ""},
		{medium, medium, low, "Low is the highest that the constitution"},
		{"Extreme", critical, critical, ""},
		{"Extreme", high, high, "its risk is Extreme"},
	} {
		spec := improvement()
		spec.Risk = &dgmv1alpha1.Risk{Level: test.declared}
		err := AssessRisk(spec, test.configured, test.constitutional, "cdd01ef066bc6cf2").Refusal()
		if (err == nil) != (test.refusal == "") || (err != nil && !strings.Contains(err.Error(), test.refusal)) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
