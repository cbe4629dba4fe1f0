// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// commandKeep completes an improvement that is held for its metrics: a person
// who may approve answers for it. One that does not count changes nothing.
func (s *step) commandKeep(ctx context.Context, reason string) (lifecycle.Standing, error) {
	keeping := lifecycle.EvaluateKeep(s.w)
	if keeping.Refusal == "" {
		if err := s.Approvals.Admitted(ctx, s.w.CreationTimestamp.Time); err != nil {
			keeping.Refusal = "it does not count while who may keep was not checked: " + err.Error()
		}
	}
	if keeping.Refusal != "" {
		s.note(corev1.EventTypeWarning, dgmv1alpha1.ReasonKeepRefused, "the command to keep the change is refused: "+keeping.Refusal)
		return lifecycle.CurrentStanding(s.w), nil
	}
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	verdict := s.w.Status.Verdict
	standing, err := s.keep(ctx, plan, fmt.Sprintf("kept by %s%s in spite of the verdict %s: %s; changed %s",
		keeping.By, because(reason), verdict, s.describeMetrics(), plan.Summary(maxSummary)))
	if err != nil || standing.Phase != dgmv1alpha1.PhaseCompleted {
		return standing, err
	}
	standing.Reason = dgmv1alpha1.ReasonKeptByCommand
	s.w.Status.Kept = &dgmv1alpha1.KeptStatus{KeptBy: cutTo(keeping.By, maxUser), Reason: reason, Verdict: verdict}
	s.w.Status.Reward = analysis.RewardOf(verdict, s.shownGains())
	if verdict != dgmv1alpha1.VerdictFail { // a watch would undo what was just kept
		s.beginWatch()
	}
	return standing, nil
}

// shownGains are the gains of the last comparison, as status shows them.
func (s *step) shownGains() []analysis.Weighted {
	var gains []analysis.Weighted
	for i := range s.w.Spec.Metrics {
		metric := &s.w.Spec.Metrics[i]
		if shown := s.metricStatus(metric.Name); shown != nil && shown.Gain != "" {
			gains = append(gains, analysis.Weighted{Gain: decimal(strings.TrimSuffix(shown.Gain, "%")), Weight: weightOf(metric)})
		}
	}
	return gains
}

// describeMetrics is what the last comparison came to, in a line.
func (s *step) describeMetrics() string {
	var said []string
	for _, m := range s.w.Status.Metrics {
		text := m.Name + " " + string(m.Verdict)
		if m.Gain != "" {
			text += ", gain " + m.Gain
		}
		said = append(said, text)
	}
	return cutTo(strings.Join(said, "; "), maxSummary)
}
