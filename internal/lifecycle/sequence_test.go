// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Whatever the spec says, the next phase is one that can follow, and every phase
// leads to an end.
func TestNextPhaseIsATransition(t *testing.T) {
	for phase, following := range Transitions {
		if phase == "" {
			continue
		}
		if !reachesEnd(phase, map[dgmv1alpha1.Phase]bool{}) {
			t.Errorf("from %s no end can be reached", phase)
		}
		for _, to := range following {
			if Transitions[to] == nil {
				t.Errorf("%s can be followed by %q, which is no phase", phase, to)
			}
		}
		for _, approval := range []dgmv1alpha1.ApprovalPolicy{dgmv1alpha1.ApprovalAlways, dgmv1alpha1.ApprovalNever} {
			for _, metrics := range []int{0, 1} {
				for _, mode := range []dgmv1alpha1.SandboxMode{dgmv1alpha1.SandboxNone, dgmv1alpha1.SandboxNamespace} {
					w := improvementForTest(phase, nil)
					w.Spec.Approval, w.Spec.Sandbox = &dgmv1alpha1.Approval{Policy: approval}, &dgmv1alpha1.Sandbox{Mode: mode}
					w.Spec.Metrics = make([]dgmv1alpha1.Metric, metrics)
					if next := NextPhase(w); !CanFollow(phase, next) {
						t.Errorf("%s is followed by %s, which Transitions does not have", phase, next)
					}
				}
			}
		}
	}
	if CanFollow(dgmv1alpha1.PhaseFailed, dgmv1alpha1.PhaseApplying) || CanFollow("", dgmv1alpha1.PhaseApplying) || !CanFollow("", dgmv1alpha1.PhasePreparing) {
		t.Error("CanFollow tells no transitions apart")
	}
}

func reachesEnd(phase dgmv1alpha1.Phase, seen map[dgmv1alpha1.Phase]bool) bool {
	seen[phase] = true
	return phase.IsTerminal() || slices.ContainsFunc(Transitions[phase], func(next dgmv1alpha1.Phase) bool {
		return !seen[next] && reachesEnd(next, seen)
	})
}
