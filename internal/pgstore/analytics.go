// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// ServiceSuccess is how the attempts of one service and type ended that began
// on one day in UTC.
type ServiceSuccess struct {
	Service, Type                           string // empty when none is named
	Day                                     time.Time
	Attempts, Completed, Failed, RolledBack int64
	// SuccessRate is from 0 to 1; nil when none has ended.
	SuccessRate *float64
	// MeanDuration is 0 when no end is known.
	MeanDuration time.Duration
}

// ServicePosture is how a service stands towards the constitution.
type ServicePosture struct {
	Service     string // empty when none is named
	Assessments int64
	// Scores are from 0 to 1; nil when there is none.
	MeanScore, LowestScore, NewestScore *float64
	// Levels counts the assessments by their level; all levels are there.
	Levels      map[string]int64
	OpenReviews int64
	// NewestAssessedAt is zero and NewestLevel empty when there is no assessment.
	NewestAssessedAt time.Time
	NewestLevel      string
}

// ArmPerformance is how an arm of a context does.
type ArmPerformance struct {
	ContextKey, AlgorithmType, ArmID string
	Pulls, Decisions                 int64
	// MeanReward and Regret, which is what its pulls would have earned more at
	// the best arm's mean, are nil when there are no pulls.
	MeanReward, Regret *float64
	BestArmID          string // empty when no arm of the context was pulled
	Best               bool
	LastDecidedAt      time.Time // zero when it never was
}

// SuccessByServiceAndType returns what began in the last 90 days, the newest day
// first, as of the last refresh.
func (s *Store) SuccessByServiceAndType(ctx context.Context) ([]ServiceSuccess, error) {
	rows, err := analyze(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]dbsql.SuccessByServiceAndTypeRow, error) {
		return q.SuccessByServiceAndType(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("read dgm.mv_improvement_success_daily: %w", err)
	}
	out := make([]ServiceSuccess, 0, len(rows))
	for _, r := range rows {
		out = append(out, ServiceSuccess{
			Service: r.ServiceName, Type: r.ImprovementType, Day: r.Day.Time, Attempts: r.Attempts, Completed: r.Completed, Failed: r.Failed, RolledBack: r.RolledBack,
			SuccessRate: known(r.AnyEnded, r.SuccessRate), MeanDuration: time.Duration(r.MeanDurationSeconds * float64(time.Second)),
		})
	}
	return out, nil
}

// CompliancePosture returns all services that were ever assessed, as of the last
// refresh.
func (s *Store) CompliancePosture(ctx context.Context) ([]ServicePosture, error) {
	rows, err := analyze(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]dbsql.CompliancePostureRow, error) {
		return q.CompliancePosture(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("read dgm.mv_compliance_posture: %w", err)
	}
	out := make([]ServicePosture, 0, len(rows))
	for _, r := range rows {
		out = append(out, ServicePosture{
			Service: r.ServiceName, Assessments: r.Assessments, OpenReviews: r.OpenReviews,
			MeanScore: known(r.AnyScore, r.MeanScore), LowestScore: known(r.AnyScore, r.LowestScore), NewestScore: known(r.NewestScored, r.NewestScore),
			Levels: map[string]int64{
				"critical_violation": r.CriticalViolations, "major_violation": r.MajorViolations, "minor_violation": r.MinorViolations,
				"warning": r.Warnings, "compliant": r.Compliant, "exemplary": r.Exemplary,
			},
			NewestAssessedAt: r.NewestAssessedAt.Time, NewestLevel: r.NewestLevel,
		})
	}
	return out, nil
}

// BanditPerformance returns the arms of all contexts of policies that exist, as
// of the last refresh.
func (s *Store) BanditPerformance(ctx context.Context) ([]ArmPerformance, error) {
	rows, err := analyze(ctx, s, func(ctx context.Context, q *dbsql.Queries) ([]dbsql.BanditPerformanceRow, error) {
		return q.BanditPerformance(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("read dgm.mv_bandit_performance: %w", err)
	}
	out := make([]ArmPerformance, 0, len(rows))
	for _, r := range rows {
		out = append(out, ArmPerformance{
			ContextKey: r.ContextKey, AlgorithmType: r.AlgorithmType, ArmID: r.ArmID, Pulls: r.TotalPulls, Decisions: r.Decisions,
			MeanReward: known(r.TotalPulls > 0, r.MeanReward), Regret: known(r.TotalPulls > 0, r.Regret),
			BestArmID: r.BestArmID, Best: r.IsBest, LastDecidedAt: r.LastDecidedAt.Time,
		})
	}
	return out, nil
}

func known(is bool, value float64) *float64 {
	if !is {
		return nil
	}
	return &value
}

// refreshAnalytics refreshes the materialized views that have become untrue. To
// find out which takes reading all that is beneath, so it is only done when
// something was written there; the counters of that may have been reset, so it
// is done every hour, too.
func (s *session) refreshAnalytics(ctx context.Context) error {
	activity, err := s.queries.AnalyticsActivity(ctx)
	if err != nil {
		return fmt.Errorf("look for what the materialized views of dgm are made of: %w", err)
	}
	if activity == s.analyticsActivity && time.Since(s.analyticsChecked) < time.Hour {
		return nil
	}
	if _, err := s.queries.RefreshAnalytics(ctx); err != nil {
		return fmt.Errorf("refresh the materialized views of dgm: %w", err)
	}
	s.analyticsActivity, s.analyticsChecked = activity, time.Now()
	return nil
}
