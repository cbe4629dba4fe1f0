// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Argo CD, Flux and kubectl compute from an object what kstatus computes.
func TestKstatusReadsEachPhase(t *testing.T) {
	for _, test := range []struct {
		name     string
		standing Standing
		want     status.Status
	}{
		{"pending", Standing{Phase: dgmv1alpha1.PhasePending, Reason: dgmv1alpha1.ReasonSuspended}, status.InProgressStatus},
		{"preparing", Standing{Phase: dgmv1alpha1.PhasePreparing, Reason: dgmv1alpha1.ReasonPreparing}, status.InProgressStatus},
		{"applying", Standing{Phase: dgmv1alpha1.PhaseApplying, Reason: dgmv1alpha1.ReasonApplying}, status.InProgressStatus},
		{"testing", Standing{Phase: dgmv1alpha1.PhaseTesting, Reason: dgmv1alpha1.ReasonTesting}, status.InProgressStatus},
		{"validating", Standing{Phase: dgmv1alpha1.PhaseValidating, Reason: dgmv1alpha1.ReasonValidating}, status.InProgressStatus},
		{"awaiting approval", Standing{Phase: dgmv1alpha1.PhaseAwaitingApproval, Reason: "AwaitingApproval"}, status.InProgressStatus},
		{"rolling out", Standing{Phase: dgmv1alpha1.PhaseApplying, Reason: dgmv1alpha1.ReasonRollingOut}, status.InProgressStatus},
		{"observing", Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonObserving}, status.InProgressStatus},
		{"kept, and put back by its owner", Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonGitOpsConflict, Stalled: true}, status.FailedStatus},
		{"rolled back, unhealthy", Standing{Phase: dgmv1alpha1.PhaseRollingBack, Reason: dgmv1alpha1.ReasonRollbackUnhealthy, Stalled: true}, status.FailedStatus},
		{"completed", Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: dgmv1alpha1.ReasonCompleted}, status.CurrentStatus},
		{"rolling back", Standing{Phase: dgmv1alpha1.PhaseRollingBack, Reason: dgmv1alpha1.ReasonRollingBack}, status.InProgressStatus},
		{"rolling back, stalled", Standing{Phase: dgmv1alpha1.PhaseRollingBack, Reason: dgmv1alpha1.ReasonRollbackForbidden, Stalled: true}, status.FailedStatus},
		{"rolled back", Standing{Phase: dgmv1alpha1.PhaseRolledBack, Reason: dgmv1alpha1.ReasonRolledBack}, status.CurrentStatus},
		{"failed", Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: dgmv1alpha1.ReasonInvalidPatch}, status.FailedStatus},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest("", nil)
			SetStanding(w, test.standing)
			if got := kstatus(t, w); got != test.want {
				t.Errorf("kstatus reads %s, want %s", got, test.want)
			}
			w.Generation++
			if got := kstatus(t, w); got != status.InProgressStatus {
				t.Errorf("after an edit kstatus reads %s, want InProgress until that is seen", got)
			}
		})
	}
}

func TestKstatusOfANewObject(t *testing.T) {
	w := improvementForTest("", nil)
	w.Status.ObservedGeneration = -1 // as the schema defaults it
	if got := kstatus(t, w); got != status.InProgressStatus {
		t.Errorf("kstatus reads %s, want InProgress", got)
	}
}

func kstatus(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) status.Status {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(w)
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{Object: fields}
	object.SetGroupVersionKind(dgmv1alpha1.GroupVersion.WithKind("ImprovementWorkspace"))
	result, err := status.Compute(object)
	if err != nil {
		t.Fatal(err)
	}
	return result.Status
}

// kubectl wait --for=condition=Finished ends in every terminal phase, and only
// there; Stalled never hides behind a phase that looks at work.
func TestFinishedInEachPhase(t *testing.T) {
	for _, phase := range []dgmv1alpha1.Phase{
		dgmv1alpha1.PhasePending, dgmv1alpha1.PhasePreparing, dgmv1alpha1.PhaseTesting, dgmv1alpha1.PhaseValidating,
		dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseCompleted,
		dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.PhaseFailed,
	} {
		for _, stalled := range []bool{false, true} {
			w := improvementForTest("", nil)
			SetStanding(w, Standing{Phase: phase, Reason: "Because", Message: "of this", Stalled: stalled})
			is := func(conditionType string) bool { return meta.IsStatusConditionTrue(w.Status.Conditions, conditionType) }
			if is(dgmv1alpha1.ConditionFinished) != phase.IsTerminal() {
				t.Errorf("%s, stalled %t: Finished is %t", phase, stalled, is(dgmv1alpha1.ConditionFinished))
			}
			if set := count(is(dgmv1alpha1.ConditionReady), is(dgmv1alpha1.ConditionReconciling), is(dgmv1alpha1.ConditionStalled)); set != 1 {
				t.Errorf("%s, stalled %t: %d of Ready, Reconciling and Stalled are True", phase, stalled, set)
			}
			for _, c := range w.Status.Conditions {
				if c.ObservedGeneration != w.Generation {
					t.Errorf("%s: %s was observed at %d", phase, c.Type, c.ObservedGeneration)
				}
			}
		}
	}
}

func count(truths ...bool) int {
	n := 0
	for _, truth := range truths {
		if truth {
			n++
		}
	}
	return n
}
