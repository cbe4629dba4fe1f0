// SPDX-License-Identifier: Apache-2.0

package constitution

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Level is a score in words.
type Level string

// The levels, worst first.
const (
	LevelCriticalViolation Level = "critical_violation"
	LevelMajorViolation    Level = "major_violation"
	LevelMinorViolation    Level = "minor_violation"
	LevelWarning           Level = "warning"
	LevelCompliant         Level = "compliant"
	LevelExemplary         Level = "exemplary"
)

// levels have the least score of each, in hundredths.
var levels = []struct {
	level Level
	least int64
}{
	{LevelCriticalViolation, 0}, {LevelMajorViolation, 50}, {LevelMinorViolation, 70},
	{LevelWarning, 80}, {LevelCompliant, 90}, {LevelExemplary, 100},
}

func (l Level) rank() int {
	for i := range levels {
		if levels[i].level == l {
			return i
		}
	}
	return 0
}

func (l Level) atLeast(other Level) bool { return l.rank() >= other.rank() }

// NeedsPerson reports whether a person has to agree where the policy is OnWarning.
func (l Level) NeedsPerson() bool { return !l.atLeast(LevelCompliant) }

// levelOf is the level of a score; a violation of a critical principle makes it the
// lowest, one of a major principle a warning at best.
func levelOf(score *big.Rat, violations []Violation) Level {
	level := LevelCriticalViolation
	for _, l := range levels {
		if score.Cmp(big.NewRat(l.least, 100)) >= 0 {
			level = l.level
		}
	}
	for _, v := range violations {
		switch {
		case v.Severity == SeverityCritical:
			return LevelCriticalViolation
		case v.Severity == SeverityMajor && level.atLeast(LevelWarning):
			level = LevelWarning
		}
	}
	return level
}

// Result is what became of one principle.
type Result struct {
	Name     string   `json:"name"`
	Weight   string   `json:"weight"`
	Severity Severity `json:"severity"`
	Holds    bool     `json:"holds"`
}

// Violation is a principle that does not hold.
type Violation struct {
	Principle string   `json:"principle"`
	Severity  Severity `json:"severity"`
	Message   string   `json:"message"`
}

// Recommendation is how to mend a violation.
type Recommendation struct {
	Principle   string `json:"principle"`
	Remediation string `json:"remediation"`
}

// Verdict is what a constitution says of an improvement.
type Verdict struct {
	Version       string `json:"version"`
	Hash          string `json:"hash"`
	ContentDigest string `json:"contentDigest"`
	// Score has two digits, truncated; ExactScore has all.
	Score      string `json:"score"`
	ExactScore string `json:"exactScore"`
	Threshold  string `json:"threshold"`
	Level      Level  `json:"level"`
	// Accepted: the score reaches the threshold, and no critical principle is violated.
	Accepted        bool             `json:"accepted"`
	Principles      []Result         `json:"principles"`
	Violations      []Violation      `json:"violations,omitempty"`
	Recommendations []Recommendation `json:"recommendations,omitempty"`
}

// Violated are the names of the principles that do not hold.
func (v Verdict) Violated() []string {
	names := make([]string, 0, len(v.Violations))
	for _, violation := range v.Violations {
		names = append(names, violation.Principle)
	}
	return names
}

// Summary is the verdict in one line.
func (v Verdict) Summary() string {
	summary := fmt.Sprintf("score %s (%s), threshold %s", v.ExactScore, v.Level, v.Threshold)
	if len(v.Violations) == 0 {
		return summary
	}
	return summary + "; violated: " + strings.Join(v.Violated(), ", ")
}

// Advice is what is wrong and how to mend it, the gravest first.
func (v Verdict) Advice() string {
	order := []Severity{SeverityCritical, SeverityMajor, SeverityMinor}
	violations := slices.Clone(v.Violations)
	slices.SortStableFunc(violations, func(a, b Violation) int {
		return slices.Index(order, a.Severity) - slices.Index(order, b.Severity)
	})
	var advice []string
	for _, violation := range violations {
		at := slices.IndexFunc(v.Recommendations, func(r Recommendation) bool { return r.Principle == violation.Principle })
		advice = append(advice, fmt.Sprintf("%s (%s): %s; %s", violation.Principle, violation.Severity, violation.Message, v.Recommendations[at].Remediation))
	}
	return strings.Join(advice, ". ")
}

// fraction reads a plain decimal from 0 to 1.
func fraction(text string) (*big.Rat, bool) {
	if len(text) > 40 || text == "" || strings.Trim(text, "0123456789.") != "" {
		return nil, false
	}
	r, ok := new(big.Rat).SetString(text)
	return r, ok && r.Sign() >= 0 && r.Cmp(big.NewRat(1, 1)) <= 0
}

// decimal writes a sum of decimals with all its digits, and no zeros at the end.
func decimal(r *big.Rat) string {
	digits, _ := r.FloatPrec()
	return r.FloatString(digits)
}

// truncated cuts after two digits: a score is never rounded up.
func truncated(r *big.Rat) string {
	hundredths := new(big.Int).Quo(new(big.Int).Mul(r.Num(), big.NewInt(100)), r.Denom())
	return new(big.Rat).SetFrac(hundredths, big.NewInt(100)).FloatString(2)
}
