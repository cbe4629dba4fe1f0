// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

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
	for _, part := range []string{dgmv1alpha1.ReasonMetricRegressed, "mean-latency", " ms → ", " ms (+", "limit +10.0%)", " after the change"} {
		if !strings.Contains(w.Status.RollbackReason, part) {
			t.Errorf("rolled back since %q, which does not say %q", w.Status.RollbackReason, part)
		}
	}
	expectRow(t, []string{"rolled_back", "Fail", "0"}, `SELECT status, performance_after ->> 'verdict', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectServed(t, ns, "5")
}
