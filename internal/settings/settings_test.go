// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"strings"
	"testing"
	"time"
)

func TestApplyTakesWhatIsUsableAndReportsTheRest(t *testing.T) {
	got, problems := Apply(Default(), map[string]string{
		MaxConcurrentImprovements: "7",
		ImprovementTimeoutMinutes: " 5 ",
		MetricsAggregationEnabled: "false",
		MaxImprovementAttempts:    "9999999999999999999",
		RollbackRetentionDays:     "0",
		WorkspaceCleanupEnabled:   "yes",
		ComplianceThreshold:       "0.85",
		RiskLimit:                 "critical",
		Freeze:                    "true",
		"safety_threshold":        "not ours",
	})
	want := Default()
	want.MaxConcurrent, want.ImprovementTimeout, want.AggregateMetrics = 7, 5*time.Minute, false
	want.ComplianceThreshold, want.Freeze = "0.85", true
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(problems) != 4 {
		t.Fatalf("problems: %v", problems)
	}
	for i, key := range []string{MaxImprovementAttempts, RiskLimit, RollbackRetentionDays, WorkspaceCleanupEnabled} {
		if !strings.Contains(problems[i].Error(), key) {
			t.Errorf("problem %d is %q, want it to name %s", i, problems[i], key)
		}
	}
}

func TestKeysAreTheOnesThatAreSet(t *testing.T) {
	if got := len(Keys()); got != 11 {
		t.Errorf("%d keys", got)
	}
}

func TestThresholdIsADecimal(t *testing.T) {
	for value, usable := range map[string]bool{"0.80000000000000000001": true, "1": true, ".9": true, "1.1": false, "-0.1": false, "NaN": false, "8e-1": false, "": false} {
		got, problems := Apply(Default(), map[string]string{ComplianceThreshold: value})
		if usable != (len(problems) == 0) || (usable && got.ComplianceThreshold != value) || (!usable && got.ComplianceThreshold != "0.8") {
			t.Errorf("%q gives %q, %v", value, got.ComplianceThreshold, problems)
		}
	}
}
