// SPDX-License-Identifier: Apache-2.0

// Package safety evaluates the safety checks of an improvement, and whether its
// risk may be taken. It is pure.
package safety

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/expression"
)

// costInAll bounds what all checks of an improvement cost together.
const costInAll = 1_000_000

var userLanguage = sync.OnceValues(func() (*expression.Language, error) { return expression.New(expression.UserLimit) })

// Outcome is what became of a check.
type Outcome string

// The outcomes.
const (
	Holds Outcome = "Holds"
	Fails Outcome = "Fails"
	// Error: it could not be evaluated, which counts as no.
	Error Outcome = "Error"
	// NotEvaluated: it looks at results of tests, and there are none in a dry run.
	NotEvaluated Outcome = "NotEvaluated"
)

// Result is what became of one check.
type Result struct {
	Name       string  `json:"name"`
	Expression string  `json:"expression"`
	Outcome    Outcome `json:"outcome"`
	// Message says what is wrong.
	Message string `json:"message,omitempty"`
}

// Compile finds checks that cannot be evaluated without evaluating them: what is no
// CEL, and names that the improvement does not have.
func Compile(spec *dgmv1alpha1.ImprovementWorkspaceSpec) error {
	for i := range spec.SafetyChecks {
		if _, err := compile(spec, spec.SafetyChecks[i]); err != nil {
			return fmt.Errorf("safety check %s cannot be evaluated: %w; correct spec.safetyChecks", spec.SafetyChecks[i].Name, err)
		}
	}
	return nil
}

func compile(spec *dgmv1alpha1.ImprovementWorkspaceSpec, check dgmv1alpha1.SafetyCheck) (*expression.Expression, error) {
	language, err := userLanguage()
	if err != nil {
		return nil, err
	}
	compiled, err := language.Compile(check.Expression)
	if err != nil {
		return nil, err
	}
	if err := compiled.CheckNames(spec); err != nil {
		return nil, err
	}
	return compiled, nil
}

// Evaluate evaluates all checks. Without tests, as in a dry run, those that look at
// their results are not evaluated.
func Evaluate(ctx context.Context, spec *dgmv1alpha1.ImprovementWorkspaceSpec, facts expression.Facts, tests bool) []Result {
	results := make([]Result, len(spec.SafetyChecks))
	var spent uint64
	for i, check := range spec.SafetyChecks {
		result := Result{Name: check.Name, Expression: check.Expression}
		compiled, err := compile(spec, check)
		if err == nil && !tests && compiled.Uses(expression.VariableTests) {
			result.Outcome = NotEvaluated
			results[i] = result
			continue
		}
		holds, cost := false, uint64(0)
		if err == nil && spent <= costInAll {
			holds, cost, err = compiled.Holds(ctx, facts)
		}
		if spent += cost; err == nil && spent > costInAll {
			err = fmt.Errorf("%w of %d for all checks together", expression.ErrCost, costInAll)
		}
		switch {
		case err != nil:
			result.Outcome, result.Message = Error, err.Error()
		case holds:
			result.Outcome = Holds
		default:
			result.Outcome, result.Message = Fails, check.Message
		}
		results[i] = result
	}
	return results
}

// Refusal says which checks do not hold; nil when all do that were evaluated.
func Refusal(results []Result) error {
	var wrong []string
	for _, r := range results {
		switch r.Outcome {
		case Fails:
			why := r.Message
			if why == "" {
				why = r.Expression
			}
			wrong = append(wrong, fmt.Sprintf("safety check %s is not true: %s", r.Name, why))
		case Error:
			wrong = append(wrong, fmt.Sprintf("safety check %s cannot be evaluated, which counts as no: %s; correct its expression in spec.safetyChecks", r.Name, r.Message))
		case Holds, NotEvaluated:
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, ". "))
}

// Risk is how the declared risk stands to what may be taken.
type Risk struct {
	Level dgmv1alpha1.RiskLevel `json:"level"`
	Notes string                `json:"notes,omitempty"`
	Limit dgmv1alpha1.RiskLevel `json:"limit"`
	// SetBy is who sets the limit.
	SetBy   string `json:"setBy"`
	Allowed bool   `json:"allowed"`
}

// AssessRisk compares the declared risk with the lower of two limits: that of the
// system configuration, and that of the constitution with this hash.
func AssessRisk(spec *dgmv1alpha1.ImprovementWorkspaceSpec, configured, constitutional dgmv1alpha1.RiskLevel, hash string) Risk {
	risk := Risk{Level: spec.RiskLevel(), Limit: configured, SetBy: "the system configuration risk_limit"}
	if spec.Risk != nil {
		risk.Notes = spec.Risk.Notes
	}
	if constitutional.Rank() < configured.Rank() {
		risk.Limit, risk.SetBy = constitutional, "the constitution "+hash
	}
	risk.Allowed = risk.Level.Rank() <= risk.Limit.Rank()
	return risk
}

// Refusal says that the risk is too high; nil when it is not.
func (r Risk) Refusal() error {
	if r.Allowed {
		return nil
	}
	return fmt.Errorf("its risk is %s, and %s is the highest that %s allows: make the change smaller, or have the limit raised", r.Level, r.Limit, r.SetBy)
}
