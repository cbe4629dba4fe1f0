// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// baselineTime is how long a service must have been under load before a sample's
// windows of 20 s are full.
const baselineTime = 24 * time.Second

func TestP6_AMeasuredRegressionIsPutBack(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	customers(t, ns)
	time.Sleep(baselineTime)
	w := sample(t, "examples/improvements/fresher-prices.yaml", ns)
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseRolledBack)
	if w.Status.Verdict != dgmv1alpha1.VerdictFail || w.Status.Reward != "0" || !strings.HasPrefix(w.Status.Gain, "-") {
		t.Errorf("verdict %s, gain %s, reward %s", w.Status.Verdict, w.Status.Gain, w.Status.Reward)
	}
	for _, part := range []string{dgmv1alpha1.ReasonMetricRegressed, "mean-latency", " ms, +", "in 20s after the change", "at most +10.0% is allowed"} {
		if !strings.Contains(w.Status.RollbackReason, part) {
			t.Errorf("rolled back since %q, which does not say %q", w.Status.RollbackReason, part)
		}
	}
	expectRow(t, []string{"rolled_back", "Fail", "0"}, `SELECT status, performance_after ->> 'verdict', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectServed(t, ns, "5")
}

func TestP5_ATrialIsRevertedWithItsReward(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	customers(t, ns)
	time.Sleep(baselineTime)
	w := sample(t, "config/samples/improvementworkspace.yaml", ns)
	w.Spec.Sandbox, w.Spec.Tests, w.Spec.SafetyChecks = nil, nil, nil
	w.Spec.OnSuccess = dgmv1alpha1.OnSuccessRevert
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	if reward, err := strconv.ParseFloat(w.Status.Reward, 64); err != nil || reward <= 0.5 {
		t.Errorf("reward %q", w.Status.Reward)
	}
	if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionSucceeded); c.Reason != dgmv1alpha1.ReasonReverted || c.Status != "True" {
		t.Errorf("Succeeded is %+v", c)
	}
	expectRow(t, []string{"completed", "Reverted", w.Status.Reward}, `SELECT status, outcome_reason, metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectServed(t, ns, "5")
}
