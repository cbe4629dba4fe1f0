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
		"safety_threshold":        "not ours",
	})
	want := Default()
	want.MaxConcurrent, want.ImprovementTimeout, want.AggregateMetrics = 7, 5*time.Minute, false
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if len(problems) != 3 {
		t.Fatalf("problems: %v", problems)
	}
	for i, key := range []string{MaxImprovementAttempts, RollbackRetentionDays, WorkspaceCleanupEnabled} {
		if !strings.Contains(problems[i].Error(), key) {
			t.Errorf("problem %d is %q, want it to name %s", i, problems[i], key)
		}
	}
}

func TestKeysAreTheOnesThatAreSet(t *testing.T) {
	if got := len(Keys()); got != 8 {
		t.Errorf("%d keys", got)
	}
}
