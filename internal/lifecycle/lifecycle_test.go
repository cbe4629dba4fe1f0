// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func improvementForTest(phase dgmv1alpha1.Phase, annotations map[string]string) *dgmv1alpha1.ImprovementWorkspace {
	return &dgmv1alpha1.ImprovementWorkspace{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ttl", Generation: 3, Annotations: annotations},
		Spec:       specForTest(),
		Status:     dgmv1alpha1.ImprovementWorkspaceStatus{Phase: phase},
	}
}

func TestSetStanding(t *testing.T) {
	for _, test := range []struct {
		name     string
		standing Standing
		want     map[string]metav1.ConditionStatus
	}{
		{"waiting", Standing{Phase: dgmv1alpha1.PhasePending, Reason: "Suspended"}, conditions("False", "True", "False", "False", "Unknown")},
		{"applying", Standing{Phase: dgmv1alpha1.PhaseApplying, Reason: "Applying"}, conditions("False", "True", "False", "False", "Unknown")},
		{"rolling back, forbidden", Standing{Phase: dgmv1alpha1.PhaseRollingBack, Reason: "RollbackForbidden", Stalled: true}, conditions("False", "False", "True", "False", "Unknown")},
		{"completed", Standing{Phase: dgmv1alpha1.PhaseCompleted, Reason: "Completed"}, conditions("True", "False", "False", "True", "True")},
		{"rolled back", Standing{Phase: dgmv1alpha1.PhaseRolledBack, Reason: "RolledBack"}, conditions("True", "False", "False", "True", "False")},
		{"failed", Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: "InvalidPatch"}, conditions("False", "False", "True", "True", "False")},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest("", nil)
			SetStanding(w, test.standing)
			for conditionType, want := range test.want {
				c := meta.FindStatusCondition(w.Status.Conditions, conditionType)
				if c == nil || c.Status != want || c.ObservedGeneration != 3 || c.Reason != test.standing.Reason {
					t.Errorf("%s is %+v, want %s with reason %s of generation 3", conditionType, c, want, test.standing.Reason)
				}
			}
			if again := CurrentStanding(w); again != test.standing && !(again.Stalled && test.standing.Phase == dgmv1alpha1.PhaseFailed) {
				t.Errorf("read back as %+v, want %+v", again, test.standing)
			}
		})
	}
}

func conditions(ready, reconciling, stalled, finished, succeeded metav1.ConditionStatus) map[string]metav1.ConditionStatus {
	return map[string]metav1.ConditionStatus{
		dgmv1alpha1.ConditionReady: ready, dgmv1alpha1.ConditionReconciling: reconciling,
		dgmv1alpha1.ConditionStalled: stalled, dgmv1alpha1.ConditionFinished: finished, dgmv1alpha1.ConditionSucceeded: succeeded,
	}
}

func TestSetStandingBoundsMessages(t *testing.T) {
	w := improvementForTest("", nil)
	SetStanding(w, Standing{Phase: dgmv1alpha1.PhaseFailed, Reason: "InvalidPatch", Message: strings.Repeat("ä", 5000)})
	for _, c := range w.Status.Conditions {
		if len(c.Message) > MaxMessage || strings.ContainsRune(c.Message, '\uFFFD') {
			t.Errorf("message of %s has %d bytes, or a broken character", c.Type, len(c.Message))
		}
	}
}

func TestNextCommand(t *testing.T) {
	for _, test := range []struct {
		name        string
		phase       dgmv1alpha1.Phase
		annotations map[string]string
		handled     dgmv1alpha1.HandledCommands
		want        CommandRequest
		wantHandled dgmv1alpha1.HandledCommands
	}{
		{name: "none", phase: dgmv1alpha1.PhaseCompleted},
		{
			name: "rollback with its reason", phase: dgmv1alpha1.PhaseCompleted,
			annotations: map[string]string{"dgm.acgs.io/rollback": "1", "dgm.acgs.io/rollback-reason": " p99 is up "},
			want:        CommandRequest{CommandRollback, "p99 is up"}, wantHandled: dgmv1alpha1.HandledCommands{Rollback: "1"},
		},
		{
			name: "the same token again", phase: dgmv1alpha1.PhaseCompleted,
			annotations: map[string]string{"dgm.acgs.io/rollback": "1"}, handled: dgmv1alpha1.HandledCommands{Rollback: "1"},
			wantHandled: dgmv1alpha1.HandledCommands{Rollback: "1"},
		},
		{
			name: "abort goes before retry", phase: dgmv1alpha1.PhaseApplying,
			annotations: map[string]string{"dgm.acgs.io/abort": "a", "dgm.acgs.io/retry": "r"},
			want:        CommandRequest{Command: CommandAbort}, wantHandled: dgmv1alpha1.HandledCommands{Abort: "a"},
		},
		{
			name: "rollback means nothing in Pending, and is not kept for later", phase: dgmv1alpha1.PhasePending,
			annotations: map[string]string{"dgm.acgs.io/rollback": "1"},
			wantHandled: dgmv1alpha1.HandledCommands{Rollback: "1"},
		},
		{
			name: "abort means nothing at the end", phase: dgmv1alpha1.PhaseFailed,
			annotations: map[string]string{"dgm.acgs.io/abort": "1"},
			wantHandled: dgmv1alpha1.HandledCommands{Abort: "1"},
		},
		{
			name: "retry at the end", phase: dgmv1alpha1.PhaseRolledBack,
			annotations: map[string]string{"dgm.acgs.io/retry": "2"}, handled: dgmv1alpha1.HandledCommands{Retry: "1"},
			want: CommandRequest{Command: CommandRetry}, wantHandled: dgmv1alpha1.HandledCommands{Retry: "2"},
		},
		{
			name: "keep", phase: dgmv1alpha1.PhaseObserving,
			annotations: map[string]string{"dgm.acgs.io/keep": "k", "dgm.acgs.io/keep-reason": "seasonal"},
			want:        CommandRequest{CommandKeep, "seasonal"}, wantHandled: dgmv1alpha1.HandledCommands{Keep: "k"},
		},
		{
			name: "rollback goes before keep", phase: dgmv1alpha1.PhaseObserving,
			annotations: map[string]string{"dgm.acgs.io/keep": "k", "dgm.acgs.io/rollback": "r"},
			want:        CommandRequest{Command: CommandRollback}, wantHandled: dgmv1alpha1.HandledCommands{Rollback: "r"},
		},
		{
			name: "keep means nothing before anything is observed, and is not kept for later", phase: dgmv1alpha1.PhaseApplying,
			annotations: map[string]string{"dgm.acgs.io/keep": "k"},
			wantHandled: dgmv1alpha1.HandledCommands{Keep: "k"},
		},
		{
			name: "a huge token counts by its start", phase: dgmv1alpha1.PhaseCompleted,
			annotations: map[string]string{"dgm.acgs.io/rollback": strings.Repeat("x", 100_000)},
			want:        CommandRequest{Command: CommandRollback}, wantHandled: dgmv1alpha1.HandledCommands{Rollback: strings.Repeat("x", 256)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest(test.phase, test.annotations)
			w.Status.LastHandled = test.handled
			request, handled := NextCommand(w)
			if request != test.want || handled != test.wantHandled {
				t.Errorf("got %+v and tokens %+v, want %+v and %+v", request, handled, test.want, test.wantHandled)
			}
		})
	}
}

func TestEvaluateGates(t *testing.T) {
	open := Surroundings{
		Database:    func() error { return nil },
		Admission:   func() error { return nil },
		Frozen:      func() (string, error) { return "", nil },
		OptedIn:     func() (bool, error) { return true, nil },
		Blocker:     func() Blocker { return Blocker{} },
		MaxAttempts: 10,
		TenantRole:  "dgm-tenant", Operator: "dgm-system:dgm-operator",
	}
	for _, test := range []struct {
		name    string
		close   func(*dgmv1alpha1.ImprovementWorkspace, *Surroundings)
		reason  string
		message string
	}{
		{name: "open", close: func(*dgmv1alpha1.ImprovementWorkspace, *Surroundings) {}},
		{"suspended", func(w *dgmv1alpha1.ImprovementWorkspace, _ *Surroundings) { w.Spec.Suspend = new(true) }, "Suspended", "spec.suspend"},
		{"P10: database away", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.Database = func() error { return errors.New("it refuses connections") }
		}, "DatabaseUnavailable", "it refuses connections"},
		{"P7: admission policy missing", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.Admission = func() error { return errors.New("not installed") }
		}, "AdmissionPolicyMissing", "not installed"},
		{"frozen", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.Frozen = func() (string, error) { return FrozenNamespace("shop"), nil }
		}, "Frozen", "kubectl label namespace shop dgm.acgs.io/freeze-"},
		{"P8: not opted in", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.OptedIn = func() (bool, error) { return false, nil }
		}, "NamespaceNotOptedIn", "kubectl create rolebinding dgm-tenant --namespace=shop --clusterrole=dgm-tenant --serviceaccount=dgm-system:dgm-operator"},
		{"P13: overlap", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.Blocker = func() Blocker { return Blocker{Name: "earlier", Claim: "service checkout"} }
		}, "Overlap", "improvement earlier holds service checkout"},
		{"limit", func(_ *dgmv1alpha1.ImprovementWorkspace, in *Surroundings) {
			in.Blocker = func() Blocker { return Blocker{Limit: 3} }
		}, "ConcurrencyLimit", "3 improvements are active, as many as max_concurrent_improvements allows"},
		{"attempts", func(w *dgmv1alpha1.ImprovementWorkspace, _ *Surroundings) { w.Status.Attempt = 11 },
			"TooManyAttempts", "this would be attempt 11, and 10 is the highest that max_improvement_attempts allows"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, in := improvementForTest(dgmv1alpha1.PhasePending, nil), open
			test.close(w, &in)
			wait, err := EvaluateGates(w, in)
			if err != nil {
				t.Fatal(err)
			}
			if test.reason == "" {
				if wait != nil {
					t.Fatalf("waits for %+v", wait)
				}
				return
			}
			if wait == nil || wait.Reason != test.reason || !strings.Contains(wait.Message, test.message) {
				t.Errorf("waits for %+v, want %s with %q", wait, test.reason, test.message)
			}
			// What keeps a prepared improvement from being applied.
			held, err := EvaluateHold(w, in)
			if err != nil {
				t.Fatal(err)
			}
			holds := slices.Contains([]string{"Suspended", "AdmissionPolicyMissing", "Frozen"}, test.reason)
			if holds != (held != nil) || (held != nil && *held != *wait) {
				t.Errorf("prepared, it is held by %+v, want %t", held, holds)
			}
		})
	}
}

func TestP13_Precedence(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	older := Candidate{Name: "b", Namespace: "shop", Priority: dgmv1alpha1.PriorityMedium, Created: now}
	younger := Candidate{Name: "a", Namespace: "shop", Priority: dgmv1alpha1.PriorityMedium, Created: now.Add(time.Second)}
	urgent := Candidate{Name: "c", Namespace: "shop", Priority: dgmv1alpha1.PriorityCritical, Created: now.Add(time.Hour)}
	for _, order := range [][2]Candidate{{older, younger}, {urgent, older}, {urgent, younger}} {
		if !order[0].Precedes(order[1]) || order[1].Precedes(order[0]) {
			t.Errorf("%s does not precede %s", order[0].Name, order[1].Name)
		}
	}
}

func TestP13_Shared(t *testing.T) {
	same := improvementForTest("", nil)
	otherService := improvementForTest("", nil)
	otherService.Spec.Target.Service = "cart"
	unrelated := improvementForTest("", nil)
	unrelated.Spec.Target.Service, unrelated.Spec.Changes[0].TargetRef.Name = "cart", "cart-config"
	otherVersion := improvementForTest("", nil)
	otherVersion.Spec.Target.Service = "cart"
	otherVersion.Spec.Changes[0].TargetRef.APIVersion = "v2"

	base := Candidate{Namespace: "shop", Claims: Claims(same)}
	for _, test := range []struct {
		name  string
		other Candidate
		want  Claim
	}{
		{"same service", Candidate{Namespace: "shop", Claims: Claims(same)}, "service checkout"},
		{"same object", Candidate{Namespace: "shop", Claims: Claims(otherService)}, "ConfigMap checkout-config"},
		{"same object by another version", Candidate{Namespace: "shop", Claims: Claims(otherVersion)}, "ConfigMap checkout-config"},
		{"another namespace", Candidate{Namespace: "blog", Claims: Claims(same)}, ""},
		{"nothing in common", Candidate{Namespace: "shop", Claims: Claims(unrelated)}, ""},
	} {
		if got := base.Shared(test.other); got != test.want {
			t.Errorf("%s: shared %q, want %q", test.name, got, test.want)
		}
	}
}

func TestP11_RowStatusNeverLeavesCompletedButForRolledBack(t *testing.T) {
	for _, test := range []struct {
		phase              dgmv1alpha1.Phase
		wasCompleted       bool
		archive, workspace string
	}{
		{dgmv1alpha1.PhasePending, false, "pending", "created"},
		{dgmv1alpha1.PhasePreparing, false, "pending", "active"},
		{dgmv1alpha1.PhaseApplying, false, "running", "validating"},
		{dgmv1alpha1.PhaseCompleted, true, "completed", "completed"},
		{dgmv1alpha1.PhaseRollingBack, false, "running", "validating"},
		{dgmv1alpha1.PhaseRollingBack, true, "completed", "validating"},
		{dgmv1alpha1.PhaseRolledBack, true, "rolled_back", "failed"},
		{dgmv1alpha1.PhaseFailed, false, "failed", "failed"},
		{dgmv1alpha1.PhaseFailed, true, "completed", "failed"},
	} {
		archive, workspace := RowStatus(test.phase, test.wasCompleted)
		if archive != test.archive || workspace != test.workspace {
			t.Errorf("%s (completed before: %t) is %s and %s, want %s and %s", test.phase, test.wasCompleted, archive, workspace, test.archive, test.workspace)
		}
	}
}

func TestTimedOut(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for phase, want := range map[dgmv1alpha1.Phase]bool{
		dgmv1alpha1.PhasePending: false, dgmv1alpha1.PhasePreparing: true, dgmv1alpha1.PhaseTesting: true, dgmv1alpha1.PhaseValidating: true,
		dgmv1alpha1.PhaseAwaitingApproval: false, dgmv1alpha1.PhaseApplying: true, dgmv1alpha1.PhaseObserving: false,
		dgmv1alpha1.PhaseRollingBack: false, dgmv1alpha1.PhaseCompleted: false,
	} {
		w := improvementForTest(phase, nil)
		waits := Standing{Phase: phase, Reason: dgmv1alpha1.ReasonForbidden}
		if TimedOut(w, waits, now, time.Minute) {
			t.Errorf("%s: timed out, though it is not known since when it works", phase)
		}
		w.Status.ActiveSince = &metav1.Time{Time: now.Add(-time.Minute - time.Second)}
		if got := TimedOut(w, waits, now, time.Minute); got != want {
			t.Errorf("%s: timed out is %t, want %t", phase, got, want)
		}
		if TimedOut(w, waits, now, 2*time.Minute) {
			t.Errorf("%s: timed out before its time", phase)
		}
		if TimedOut(w, Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonObserving}, now, time.Minute) {
			t.Errorf("%s: timed out, though it goes on", phase)
		}
	}
}

func TestTimeStandsStillWhileItIsHeld(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, reason := range []string{
		dgmv1alpha1.ReasonSuspended, dgmv1alpha1.ReasonFrozen, dgmv1alpha1.ReasonDatabaseUnavailable,
		dgmv1alpha1.ReasonAdmissionPolicyMissing, dgmv1alpha1.ReasonConstitutionMismatch,
	} {
		w := improvementForTest(dgmv1alpha1.PhaseTesting, nil)
		w.Status.ActiveSince = &metav1.Time{Time: now.Add(-time.Hour)}
		held, works := Standing{Phase: dgmv1alpha1.PhaseTesting, Reason: reason}, Standing{Phase: dgmv1alpha1.PhaseTesting, Reason: dgmv1alpha1.ReasonTesting}
		if TimedOut(w, held, now, time.Minute) {
			t.Errorf("timed out while it is held: %s", reason)
		}
		if !HeldUp(held, works) || HeldUp(works, held) || HeldUp(held, held) || HeldUp(works, works) {
			t.Errorf("%s: it was held up only if it goes on after that", reason)
		}
	}
}
