// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"cmp"
	"context"
	"slices"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// Limits on what services, policies and arms may add in series.
const (
	mostServices = 100
	mostArms     = 200
)

// success is what became of the improvements of one service and type.
type success struct {
	service, kind                           string
	attempts, completed, failed, rolledBack int64
}

func readSuccess(ctx context.Context, store *pgstore.Store, s *series) error {
	days, err := store.SuccessByServiceAndType(ctx)
	for _, v := range mostFrequent(days) {
		ended := v.completed + v.failed + v.rolledBack
		s.set(recentImprovements, float64(v.completed), v.service, v.kind, "completed")
		s.set(recentImprovements, float64(v.failed), v.service, v.kind, "failed")
		s.set(recentImprovements, float64(v.rolledBack), v.service, v.kind, "rolled_back")
		s.set(recentImprovements, float64(v.attempts-ended), v.service, v.kind, "open")
		if ended > 0 {
			s.set(successRatio, float64(v.completed)/float64(ended), v.service, v.kind)
		}
	}
	return err
}

// mostFrequent adds up the days and returns those with the most attempts.
func mostFrequent(days []pgstore.ServiceSuccess) []success {
	type key struct{ service, kind string }
	at := map[key]int{}
	var all []success
	for _, d := range days {
		k := key{d.Service, d.Type}
		if _, found := at[k]; !found {
			at[k] = len(all)
			all = append(all, success{service: d.Service, kind: d.Type})
		}
		sum := &all[at[k]]
		sum.attempts += d.Attempts
		sum.completed += d.Completed
		sum.failed += d.Failed
		sum.rolledBack += d.RolledBack
	}
	slices.SortStableFunc(all, func(a, b success) int { return cmp.Compare(b.attempts, a.attempts) })
	return all[:min(len(all), mostServices)]
}

func readCompliance(ctx context.Context, store *pgstore.Store, s *series) error {
	services, err := store.CompliancePosture(ctx)
	slices.SortStableFunc(services, func(a, b pgstore.ServicePosture) int { return cmp.Compare(b.Assessments, a.Assessments) })
	for _, v := range services[:min(len(services), mostServices)] {
		for name, score := range map[string]*float64{"newest": v.NewestScore, "mean": v.MeanScore, "lowest": v.LowestScore} {
			if score != nil {
				s.set(complianceScore, *score, v.Service, name)
			}
		}
		for level, n := range v.Levels {
			s.set(complianceAssessments, float64(n), v.Service, level)
		}
		s.set(complianceReviews, float64(v.OpenReviews), v.Service)
	}
	return err
}

func readBandits(ctx context.Context, store *pgstore.Store, s *series) error {
	arms, err := store.BanditPerformance(ctx)
	slices.SortStableFunc(arms, func(a, b pgstore.ArmPerformance) int { return cmp.Compare(b.Pulls, a.Pulls) })
	for _, v := range arms[:min(len(arms), mostArms)] {
		labels := []string{v.ContextKey, v.AlgorithmType, v.ArmID}
		s.set(armPulls, float64(v.Pulls), labels...)
		s.set(armBest, truth(v.Best), labels...)
		if v.MeanReward != nil {
			s.set(armReward, *v.MeanReward, labels...)
		}
		if v.Regret != nil {
			s.set(armRegret, *v.Regret, labels...)
		}
	}
	return err
}

// showReplica shows what the last question of the analytics found out.
func showReplica(v pgstore.ReplicaState, s *series) {
	s.set(replicaConfigured, truth(v.Configured))
	if !v.Configured {
		return
	}
	s.set(replicaUsed, truth(v.Used))
	if v.LagKnown {
		s.set(replicaLag, v.Lag.Seconds())
	}
}
