// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestStatusStaysSmallWhateverIsSaid(t *testing.T) {
	for name, text := range map[string]string{
		"letters":      strings.Repeat("x", 1<<20),
		"umlauts":      strings.Repeat("ä", 1<<20),
		"escaped":      strings.Repeat("<", 1<<20),
		"control":      strings.Repeat("\x01", 1<<20),
		"not UTF-8":    strings.Repeat("\xff", 1<<20),
		"astral plane": strings.Repeat("🚀", 1<<18),
	} {
		for _, metrics := range []int{0, 16} {
			t.Run(fmt.Sprintf("%s, %d metrics", name, metrics), func(t *testing.T) {
				w := crammed(text, metrics)
				encoded, err := json.Marshal(w.Status)
				if err != nil {
					t.Fatal(err)
				}
				if len(encoded) > MaxStatus {
					t.Errorf("status has %d bytes, at most %d are promised", len(encoded), MaxStatus)
				}
				if len(encoded) < MaxStatus/2 {
					t.Errorf("status has %d bytes only: more was cut than needed", len(encoded))
				}
				for _, c := range w.Status.Conditions {
					if c.Message == "" && c.Type != dgmv1alpha1.ConditionReconciling {
						t.Errorf("%s says nothing any more", c.Type)
					}
					if utf8.ValidString(text) && !utf8.ValidString(c.Message) {
						t.Errorf("%s holds half a character", c.Type)
					}
				}
				before := w.Status.DeepCopy()
				SetStanding(w, CurrentStanding(w))
				if !reflect.DeepEqual(before, &w.Status) {
					t.Errorf("setting the same standing again changes the status:\n%s", cmp.Diff(before, &w.Status))
				}
			})
		}
	}
}

// crammed is an improvement whose status holds as much as it can of a text, and
// as many metrics and tests.
func crammed(text string, metrics int) *dgmv1alpha1.ImprovementWorkspace {
	now := metav1.NewTime(time.Now())
	w := improvementForTest("", map[string]string{
		dgmv1alpha1.AnnotationRollback: text, dgmv1alpha1.AnnotationAbort: text, dgmv1alpha1.AnnotationRetry: text, dgmv1alpha1.AnnotationKeep: text, dgmv1alpha1.AnnotationApprove: text,
	})
	w.Generation = 1 << 62
	w.Status = dgmv1alpha1.ImprovementWorkspaceStatus{
		ImprovementID: strings.Repeat("0", 36), ParentImprovementID: strings.Repeat("0", 36), Attempt: 1 << 30,
		MaterialDigest: strings.Repeat("0", 64), StartedAt: &now, AppliedAt: &metav1.MicroTime{Time: now.Time}, CompletedAt: &now,
		Snapshot: &dgmv1alpha1.SnapshotStatus{Name: strings.Repeat("0", 40), Digest: strings.Repeat("0", 64), PlanDigest: strings.Repeat("0", 64)},
		Approval: &dgmv1alpha1.ApprovalStatus{PlanDigest: strings.Repeat("0", 64), ApprovedBy: cutEncoded(text, 253, mark), ApprovedAt: &now},
		Compliance: &dgmv1alpha1.ComplianceStatus{
			Score: "0.50", ExactScore: "0.505", Level: "critical_violation", Accepted: new(false), Hash: strings.Repeat("0", 16),
			Violations: []string{"human_autonomy", "transparency", "accountability", "safety", "fairness", "privacy", "beneficence", "non_maleficence", "justice", "respect"},
		},
		Kept: &dgmv1alpha1.KeptStatus{KeptBy: cutEncoded(text, 253, mark), Reason: cutEncoded(text, 512, mark), Verdict: dgmv1alpha1.VerdictInconclusive},
		Diff: cutEncoded(text, 2048, mark), RollbackReason: cutEncoded(text, 1024, mark), LastHandled: HandleAll(w),
	}
	for i := range metrics {
		name := fmt.Sprintf("%02d-%s", i, strings.Repeat("m", 37))
		w.Status.Metrics = append(w.Status.Metrics, dgmv1alpha1.MetricStatus{
			Name: name + strings.Repeat("x", 23), Verdict: dgmv1alpha1.VerdictInconclusive, Baseline: "-1.23457e-100", Candidate: "-1.23457e-100", Gain: "-1000000.0%",
			Interval: "97.5%: -1000000.0% … +1000000.0%", BaselineSamples: 10_000, CandidateSamples: 10_000,
		})
		w.Status.Tests = append(w.Status.Tests, dgmv1alpha1.TestStatus{
			Name: name, Outcome: dgmv1alpha1.TestTimedOut, Tries: 6, ExitCode: new(int32(137)), StartedAt: &now, EndedAt: &now,
		})
	}
	if metrics > 0 {
		micro := &metav1.MicroTime{Time: now.Time}
		w.Status.Sandbox = &dgmv1alpha1.SandboxStatus{Namespace: strings.Repeat("n", 63), LeftOut: cutEncoded(text, 512, mark)}
		w.Status.Observation = &dgmv1alpha1.ObservationStatus{BaselineEnd: micro, WindowStart: micro, WindowEnd: micro, WatchUntil: &now, Watched: micro}
		w.Status.Verdict, w.Status.Gain, w.Status.Reward = dgmv1alpha1.VerdictInconclusive, "-1000000.0%", "0.123456"
	}
	for _, conditionType := range []string{dgmv1alpha1.ConditionEffective, dgmv1alpha1.ConditionRollbackRefused} {
		meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{
			Type: conditionType, Status: metav1.ConditionFalse, Reason: dgmv1alpha1.ReasonAdmissionPolicyMissing,
			Message: cutEncoded(text, 1024, mark), ObservedGeneration: w.Generation,
		})
	}
	SetStanding(w, Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonAdmissionPolicyMissing, Message: text})
	SetDatabaseSynced(&w.Status.Conditions, w.Generation, false, dgmv1alpha1.ReasonAdmissionPolicyMissing, text)
	return w
}

func TestStatusThatFitsIsLeftAlone(t *testing.T) {
	w := improvementForTest("", nil)
	w.Status.Diff = strings.Repeat("d", 2048)
	message := strings.Repeat("m", MaxMessage)
	SetStanding(w, Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: "InvalidPatch", Message: message})
	if ready := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReady); ready.Message != message || len(w.Status.Diff) != 2048 {
		t.Errorf("the message has %d bytes, the diff %d", len(ready.Message), len(w.Status.Diff))
	}
}
