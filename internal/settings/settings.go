// SPDX-License-Identifier: Apache-2.0

// Package settings is what the operator obeys of the system configurations: the
// keys, their types and what holds while none is known. It is pure; the store
// reads the rows.
package settings

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Keys of the settings that the operator itself obeys.
const (
	MaxImprovementAttempts    = "max_improvement_attempts"
	MaxConcurrentImprovements = "max_concurrent_improvements"
	ImprovementTimeoutMinutes = "improvement_timeout_minutes"
	RollbackRetentionDays     = "rollback_retention_days"
	MetricsAggregationEnabled = "metrics_aggregation_enabled"
	MetricsRetentionDays      = "metrics_retention_days"
	WorkspaceCleanupEnabled   = "workspace_cleanup_enabled"
	WorkspaceRetentionHours   = "workspace_retention_hours"
	ComplianceThreshold       = "constitutional_compliance_threshold"
	RiskLimit                 = "risk_limit"
	Freeze                    = "freeze"
)

// Settings are the values in force.
type Settings struct {
	// MaxAttempts is the highest attempt that one improvement may come to.
	MaxAttempts int32
	// MaxConcurrent is how many improvements may be active at once in the cluster.
	MaxConcurrent int
	// ImprovementTimeout is how long one may take from its begin to its end.
	ImprovementTimeout time.Duration
	// RollbackRetention is how long after its end exact rollback bytes are kept.
	RollbackRetention time.Duration
	// AggregateMetrics says whether metrics are rolled up.
	AggregateMetrics bool
	// MetricsRetention is how long samples are kept, by whole months.
	MetricsRetention time.Duration
	// ArchiveWorkspaces says whether ended workspaces are marked archived, and
	// WorkspaceRetention how long after their end.
	ArchiveWorkspaces  bool
	WorkspaceRetention time.Duration
	// ComplianceThreshold is the least score to be applied, a decimal from 0 to 1
	// with the digits that were written.
	ComplianceThreshold string
	// RiskLimit is the highest level of risk that may be applied.
	RiskLimit string
	// Freeze keeps every improvement from taking a new step.
	Freeze bool
}

const day = 24 * time.Hour

// Default is what holds while the database has not said otherwise. The rows that
// the migrations write have the same values.
func Default() Settings {
	return Settings{
		MaxAttempts: 10, MaxConcurrent: 3, ImprovementTimeout: 30 * time.Minute,
		RollbackRetention: 30 * day, AggregateMetrics: true, MetricsRetention: 90 * day,
		ArchiveWorkspaces: true, WorkspaceRetention: 72 * time.Hour,
		ComplianceThreshold: "0.8", RiskLimit: "High",
	}
}

// Keys are the keys that Apply understands, sorted.
func Keys() []string { return slices.Sorted(maps.Keys(setters)) }

// Apply returns s with the values of rows, by key; other keys are left alone. A
// value that cannot be used leaves what was, and is reported.
func Apply(s Settings, rows map[string]string) (Settings, []error) {
	var problems []error
	for _, key := range Keys() {
		value, found := rows[key]
		if !found {
			continue
		}
		if err := setters[key](&s, value); err != nil {
			problems = append(problems, fmt.Errorf("system configuration %s: %w; the last usable value stays in force", key, err))
		}
	}
	return s, problems
}

var setters = map[string]func(*Settings, string) error{
	MaxImprovementAttempts: func(s *Settings, v string) error {
		n, err := count(v, 1, 1000)
		if err == nil {
			s.MaxAttempts = int32(n) //nolint:gosec // at most 1000
		}
		return err
	},
	MaxConcurrentImprovements: func(s *Settings, v string) error { return setCount(&s.MaxConcurrent, v, 1, 100000) },
	ImprovementTimeoutMinutes: func(s *Settings, v string) error { return setDuration(&s.ImprovementTimeout, time.Minute, v, 10080) },
	RollbackRetentionDays:     func(s *Settings, v string) error { return setDuration(&s.RollbackRetention, day, v, 3650) },
	MetricsAggregationEnabled: func(s *Settings, v string) error { return setBool(&s.AggregateMetrics, v) },
	MetricsRetentionDays:      func(s *Settings, v string) error { return setDuration(&s.MetricsRetention, day, v, 3650) },
	WorkspaceCleanupEnabled:   func(s *Settings, v string) error { return setBool(&s.ArchiveWorkspaces, v) },
	WorkspaceRetentionHours:   func(s *Settings, v string) error { return setDuration(&s.WorkspaceRetention, time.Hour, v, 87600) },
	ComplianceThreshold:       func(s *Settings, v string) error { return setFraction(&s.ComplianceThreshold, v) },
	RiskLimit: func(s *Settings, v string) error {
		return setOneOf(&s.RiskLimit, v, "Low", "Medium", "High", "Critical")
	},
	Freeze: func(s *Settings, v string) error { return setBool(&s.Freeze, v) },
}

func count(value string, low, high int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(value))
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q is no whole number from %d to %d", value, low, high)
	}
	return n, nil
}

func setCount(to *int, value string, low, high int) error {
	n, err := count(value, low, high)
	if err == nil {
		*to = n
	}
	return err
}

func setDuration(to *time.Duration, unit time.Duration, value string, high int) error {
	n, err := count(value, 1, high)
	if err == nil {
		*to = time.Duration(n) * unit
	}
	return err
}

func setBool(to *bool, value string) error {
	switch strings.TrimSpace(value) {
	case "true":
		*to = true
	case "false":
		*to = false
	default:
		return fmt.Errorf("%q is neither true nor false", value)
	}
	return nil
}

// setFraction takes a plain decimal from 0 to 1.
func setFraction(to *string, value string) error {
	value = strings.TrimSpace(value)
	number := rational(value)
	if number == nil || strings.ContainsAny(value, "eE") || number.Sign() < 0 || number.Cmp(big.NewRat(1, 1)) > 0 {
		return fmt.Errorf("%q is no decimal from 0 to 1", value)
	}
	*to = value
	return nil
}

func setOneOf(to *string, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%q is none of %s", value, strings.Join(allowed, ", "))
	}
	*to = value
	return nil
}
