// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// Where the database refuses a value it names the column only when a constraint
// does it. What is refused before that, while a value is read, is found here.

// Tables that requests write to.
const (
	tableArchive    = "dgm_archive"
	tableWorkspaces = "improvement_workspaces"
	tableArms       = "bandit_states"
)

// document is a value of a jsonb column.
type document struct {
	table, column string
	arm           string // of bandit_states: which row
	json          json.RawMessage
}

func (i *Improvement) documents() []document {
	return []document{
		{tableArchive, "algorithm_changes", "", i.AlgorithmChanges},
		{tableArchive, "performance_before", "", i.PerformanceBefore},
		{tableArchive, "performance_after", "", i.PerformanceAfter},
		{tableArchive, "compliance_details", "", i.ComplianceDetails},
		{tableArchive, "rollback_data", "", i.RollbackData},
		{tableArchive, "metadata", "", i.Metadata},
		{tableWorkspaces, "source_code", "", i.SourceCode},
		{tableWorkspaces, "configuration", "", i.Configuration},
		{tableWorkspaces, "test_results", "", i.TestResults},
		{tableWorkspaces, "validation_results", "", i.ValidationResults},
		{tableWorkspaces, "environment_snapshot", "", i.EnvironmentSnapshot},
		{tableWorkspaces, "dependencies", "", i.Dependencies},
		{tableWorkspaces, "rollback_plan", "", i.RollbackPlan},
		{tableWorkspaces, "safety_checks", "", i.SafetyChecks},
		{tableWorkspaces, "risk_assessment", "", i.RiskAssessment},
	}
}

func (p *Policy) documents() []document {
	var all []document
	for i := range p.Arms {
		a := &p.Arms[i]
		all = append(all, document{tableArms, "algorithm_state", a.ArmID, a.AlgorithmState}, document{tableArms, "exploration_data", a.ArmID, a.ExplorationData})
	}
	return all
}

func (r *request) documents() []document {
	switch {
	case r.improvement != nil:
		return r.improvement.documents()
	case r.policy != nil:
		return r.policy.documents()
	}
	return nil
}

// size is roughly how many bytes the request sends.
func (r *request) size() int {
	const rest = 2 << 10 // names, numbers, ids
	size := rest
	for _, d := range r.documents() {
		size += len(d.json)
	}
	if r.improvement != nil {
		size += len(r.improvement.Description)
	}
	if r.snapshot != nil {
		size += len(r.snapshot.Bytes)
	}
	return size
}

func (d document) refused(why string) *RowError {
	return &RowError{Table: d.table, Column: d.column, Message: ofArm(d.arm, why)}
}

func ofArm(arm, message string) string {
	if arm == "" {
		return message
	}
	return fmt.Sprintf("arm %s: %s", escapeText(arm), message)
}

// invalidDocument names the document that made encoding fail.
func invalidDocument(documents []document, failure error) *RowError {
	for _, d := range documents {
		if len(d.json) == 0 {
			continue
		}
		var raw json.RawMessage
		if err := json.Unmarshal(d.json, &raw); err != nil {
			return d.refused("it is not JSON: " + err.Error())
		}
	}
	return &RowError{Message: "it cannot be written as JSON: " + failure.Error()}
}

// beginner is a pool, or a transaction that savepoints are made in.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// refusedDocument asks the database which document it refused.
func refusedDocument(ctx context.Context, db beginner, r *request, refusal *pgconn.PgError) (*RowError, error) {
	if refusal.ColumnName != "" || refusal.ConstraintName != "" {
		return newRowError(refusal), nil
	}
	for _, d := range r.documents() {
		if len(d.json) == 0 {
			continue
		}
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			_, err := dbsql.New(tx).ReadDocument(ctx, escapeJSON(d.json))
			return err
		})
		if found := rowErrorOf(err); found != nil {
			return d.refused(found.Message), nil
		}
		if err != nil {
			return nil, err
		}
	}
	return newRowError(refusal), nil
}

// decimal is a finite number that numeric holds: far larger ones it does not.
var decimal = regexp.MustCompile(`^[+-]?([0-9]{1,1000}(\.[0-9]{0,1000})?|\.[0-9]{1,1000})([eE][+-]?[0-9]{1,4})?$`)

// constitutionalHash is as known_constitutions has it.
var constitutionalHash = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

func checkDecimal(table, column, arm, value string) error {
	if value != "" && !decimal.MatchString(value) {
		return &RowError{Table: table, Column: column, Message: ofArm(arm, fmt.Sprintf("%.50q is no numeric value that can be stored: write a finite decimal number", value))}
	}
	return nil
}

// checkShare checks a number that is stored as numeric(3,2), from 0 to 1.
func checkShare(table, column, arm, value string) error {
	if err := checkDecimal(table, column, arm, value); err != nil || value == "" {
		return err
	}
	if n, err := strconv.ParseFloat(value, 64); err != nil || n < 0 || n > 1 {
		return &RowError{Table: table, Column: column, Message: ofArm(arm, fmt.Sprintf("%.50q is not from 0 to 1 (numeric overflow)", value))}
	}
	return nil
}

func checkHash(table, value string) error {
	if value != "" && !constitutionalHash.MatchString(value) {
		return &RowError{Table: table, Column: "constitutional_hash", Message: fmt.Sprintf("%.80q is no hash: it has 16 to 64 lower-case hexadecimal digits", value)}
	}
	return nil
}

// checkTime refuses what neither RFC 3339 nor a reader of the column could say.
func checkTime(table, column string, at *time.Time) error {
	if at == nil || at.IsZero() || (at.UTC().Year() >= 1 && at.UTC().Year() <= 9999) {
		return nil
	}
	return &RowError{Table: table, Column: column, Message: fmt.Sprintf("year %d is not from 1 to 9999", at.UTC().Year())}
}

func (i *Improvement) check() error {
	for _, err := range []error{
		checkTime(tableArchive, "timestamp", &i.Timestamp),
		checkTime(tableWorkspaces, "completed_at", i.CompletedAt),
		checkShare(tableArchive, "constitutional_compliance_score", "", i.ComplianceScore),
		checkHash(tableArchive, i.ConstitutionalHash),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) check() error {
	if err := checkHash(tableArms, p.ConstitutionalHash); err != nil {
		return err
	}
	for i := range p.Arms {
		a := &p.Arms[i]
		for _, err := range []error{
			checkDecimal(tableArms, "epsilon", a.ArmID, a.Epsilon),
			checkDecimal(tableArms, "alpha", a.ArmID, a.Alpha),
			checkDecimal(tableArms, "beta", a.ArmID, a.Beta),
			checkShare(tableArms, "safety_threshold", a.ArmID, a.SafetyThreshold),
			checkShare(tableArms, "risk_tolerance", a.ArmID, a.RiskTolerance),
		} {
			if err != nil {
				return err
			}
		}
	}
	return nil
}
