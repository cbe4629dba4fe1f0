// SPDX-License-Identifier: Apache-2.0

// Package constitution judges improvements against weighted principles, each a CEL
// expression that holds of an improvement that respects it. It is pure.
package constitution

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync"

	"sigs.k8s.io/yaml"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/expression"
)

// Severity says what a principle that does not hold means besides its weight.
type Severity string

// The severities.
const (
	// SeverityCritical: the improvement is refused.
	SeverityCritical Severity = "critical"
	// SeverityMajor: it is no better than a warning.
	SeverityMajor Severity = "major"
	// SeverityMinor: nothing more.
	SeverityMinor Severity = "minor"
)

// Principle is one of a constitution.
type Principle struct {
	Name string `json:"name"`
	// Weight is a decimal; those of all principles sum to 1.
	Weight      string   `json:"weight"`
	Severity    Severity `json:"severity"`
	Expression  string   `json:"expression"`
	Message     string   `json:"message"`
	Remediation string   `json:"remediation"`
}

// Content is what a constitution says.
type Content struct {
	Version string `json:"version"`
	// Hash identifies it among services; it is not computed.
	Hash string `json:"hash"`
	// Threshold is the least score, a decimal from 0 to 1, that is not refused.
	Threshold string `json:"threshold"`
	// RiskLimit is the highest risk that may be taken.
	RiskLimit  dgmv1alpha1.RiskLevel `json:"riskLimit"`
	Principles []Principle           `json:"principles"`
}

// Constitution is one that was checked and compiled.
type Constitution struct {
	Content

	digest     string
	threshold  *big.Rat
	principles []principle
}

type principle struct {
	Principle

	weight     *big.Rat
	expression *expression.Expression
}

//go:embed default.yaml
var defaultContent []byte

var loadDefault = sync.OnceValues(func() (*Constitution, error) { return Parse(defaultContent) })

// Default is the constitution that ships with the operator.
func Default() (*Constitution, error) { return loadDefault() }

// Parse reads a constitution, in YAML, and checks that it can be judged by.
func Parse(content []byte) (*Constitution, error) {
	var c Constitution
	if err := yaml.UnmarshalStrict(content, &c.Content); err != nil {
		return nil, fmt.Errorf("read the constitution: %w", err)
	}
	var ok bool
	if c.threshold, ok = fraction(c.Threshold); !ok {
		return nil, fmt.Errorf("constitution %s: its threshold %q is no decimal from 0 to 1", c.Hash, c.Threshold)
	}
	language, err := expression.New(expression.PlatformLimit)
	if err != nil {
		return nil, err
	}
	sum := new(big.Rat)
	for _, p := range c.Principles {
		compiled, err := language.Compile(p.Expression)
		if err != nil {
			return nil, fmt.Errorf("constitution %s: principle %s: %w", c.Hash, p.Name, err)
		}
		weight, ok := fraction(p.Weight)
		if !ok {
			return nil, fmt.Errorf("constitution %s: principle %s: its weight %q is no decimal from 0 to 1", c.Hash, p.Name, p.Weight)
		}
		sum.Add(sum, weight)
		c.principles = append(c.principles, principle{p, weight, compiled})
	}
	if sum.Cmp(big.NewRat(1, 1)) != 0 {
		return nil, fmt.Errorf("constitution %s: the weights of its principles sum to %s, not to 1", c.Hash, decimal(sum))
	}
	c.digest, err = digestOf(c.Content)
	return &c, err
}

// Digest is the SHA-256, in hex, of the content as canonical JSON: comments and
// white space make no difference.
func (c *Constitution) Digest() string { return c.digest }

func digestOf(content Content) (string, error) {
	canonical, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("encode the constitution: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}

// ErrNoVerdict says that a principle could not be evaluated: nothing is applied.
var ErrNoVerdict = errors.New("the constitution came to no verdict")

// Judge evaluates every principle. An improvement is accepted with at least the
// greater of the threshold given, a decimal, and the constitution's own. The error
// wraps ErrNoVerdict (P7).
func (c *Constitution) Judge(ctx context.Context, facts expression.Facts, threshold string) (Verdict, error) {
	least, ok := fraction(threshold)
	if !ok {
		return Verdict{}, fmt.Errorf("%w: the threshold %q is no decimal from 0 to 1", ErrNoVerdict, threshold)
	}
	if least.Cmp(c.threshold) < 0 {
		least = c.threshold
	}
	score := new(big.Rat)
	verdict := Verdict{Version: c.Version, Hash: c.Hash, ContentDigest: c.digest, Threshold: decimal(least)}
	for _, p := range c.principles {
		holds, _, err := p.expression.Holds(ctx, facts)
		if err != nil {
			return Verdict{}, fmt.Errorf("%w: principle %s: %w", ErrNoVerdict, p.Name, err)
		}
		verdict.Principles = append(verdict.Principles, Result{Name: p.Name, Weight: p.Weight, Severity: p.Severity, Holds: holds})
		if holds {
			score.Add(score, p.weight)
			continue
		}
		verdict.Violations = append(verdict.Violations, Violation{Principle: p.Name, Severity: p.Severity, Message: p.Message})
		verdict.Recommendations = append(verdict.Recommendations, Recommendation{Principle: p.Name, Remediation: p.Remediation})
	}
	verdict.Score, verdict.ExactScore = truncated(score), decimal(score)
	verdict.Level = levelOf(score, verdict.Violations)
	verdict.Accepted = score.Cmp(least) >= 0 && verdict.Level.atLeast(LevelWarning)
	return verdict, nil
}
