// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestNeedsApproval(t *testing.T) {
	for _, test := range []struct {
		policy dgmv1alpha1.ApprovalPolicy
		level  string
		want   bool
	}{
		{"", "compliant", false}, {"", "exemplary", false}, {"", "warning", true}, {"", "", true}, {"", "unheard_of", true},
		{dgmv1alpha1.ApprovalOnWarning, "warning", true}, {dgmv1alpha1.ApprovalAlways, "exemplary", true}, {dgmv1alpha1.ApprovalNever, "warning", false},
	} {
		w := improvementForTest(dgmv1alpha1.PhaseValidating, nil)
		w.Spec.Approval = &dgmv1alpha1.Approval{Policy: test.policy}
		if test.level != "" {
			w.Status.Compliance = &dgmv1alpha1.ComplianceStatus{Level: test.level}
		}
		next := dgmv1alpha1.PhaseApplying
		if test.want {
			next = dgmv1alpha1.PhaseAwaitingApproval
		}
		if got := NeedsApproval(w); got != test.want || NextPhase(w) != next {
			t.Errorf("%s at %q needs approval: %v, next is %s", test.policy, test.level, got, NextPhase(w))
		}
	}
}

func TestEvaluateApproval(t *testing.T) {
	const approve, by = dgmv1alpha1.AnnotationApprove, dgmv1alpha1.AnnotationApprovedBy
	for _, test := range []struct {
		name        string
		annotations map[string]string
		earlier     string
		given       bool
		message     string
	}{
		{"none", nil, "", false, "waiting for approval of the plan d1: kubectl annotate improvement ttl --namespace=shop --overwrite dgm.acgs.io/approve=d1 dgm.acgs.io/approved-by="},
		{"given", map[string]string{approve: "d1", by: "alice"}, "", true, ""},
		{"of another plan", map[string]string{approve: "d2", by: "alice"}, "", false, "alice approves another one, d2"},
		{"by nobody", map[string]string{approve: "d1"}, "", false, "does not say who approves it"},
		{"there since before", map[string]string{approve: "d1", by: "alice"}, "d1", false, "was there when this attempt began, and does not count; take it off"},
		{"given after another one", map[string]string{approve: "d1", by: "alice"}, "d0", true, ""},
		{"by name only", map[string]string{by: "alice"}, "", false, "waiting for approval"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest(dgmv1alpha1.PhaseAwaitingApproval, test.annotations)
			w.Name, w.Namespace, w.Status.LastHandled.Approve = "ttl", "shop", test.earlier
			got := EvaluateApproval(w, "d1")
			if got.Given != test.given || !strings.Contains(got.Message, test.message) || (got.Given && got.By != "alice") {
				t.Errorf("%+v, want %v with %q", got, test.given, test.message)
			}
			ForgetEarlierApproval(w)
			if kept := w.Status.LastHandled.Approve != ""; kept != (test.earlier != "" && test.annotations[approve] == test.earlier) {
				t.Errorf("the earlier approval is kept: %v", kept)
			}
		})
	}
}

func TestEvaluateParent(t *testing.T) {
	parent := func(phase dgmv1alpha1.Phase, mode dgmv1alpha1.Mode) *dgmv1alpha1.ImprovementWorkspace {
		p := improvementForTest(phase, nil)
		p.Spec.Mode = mode
		return p
	}
	for _, test := range []struct {
		name   string
		ref    string
		parent *dgmv1alpha1.ImprovementWorkspace
		reason string
	}{
		{"none", "", nil, ""},
		{"not there", "parent", nil, "ParentNotCompleted"},
		{"itself", "child", nil, "ParentFailed"},
		{"running", "parent", parent(dgmv1alpha1.PhaseApplying, ""), "ParentNotCompleted"},
		{"new", "parent", parent("", ""), "ParentNotCompleted"},
		{"being put back", "parent", parent(dgmv1alpha1.PhaseRollingBack, ""), "ParentNotCompleted"},
		{"completed", "parent", parent(dgmv1alpha1.PhaseCompleted, ""), ""},
		{"a dry run", "parent", parent(dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ModeDryRun), "ParentFailed"},
		{"failed", "parent", parent(dgmv1alpha1.PhaseFailed, ""), "ParentFailed"},
		{"rolled back", "parent", parent(dgmv1alpha1.PhaseRolledBack, ""), "ParentFailed"},
	} {
		w := improvementForTest(dgmv1alpha1.PhasePending, nil)
		w.Name = "child"
		if test.ref != "" {
			w.Spec.ParentRef = &dgmv1alpha1.ParentReference{Name: test.ref}
		}
		if got := EvaluateParent(w, test.parent); got.Reason != test.reason || (got.Reason == "") != (got.Message == "") {
			t.Errorf("%s: %+v, want %q", test.name, got, test.reason)
		}
	}
}
