// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestEvaluateKeep(t *testing.T) {
	alice := map[string]string{dgmv1alpha1.AnnotationKeptBy: "alice"}
	held := Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonMetricsUndecided, Stalled: true}
	failed := Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonMetricRegressed, Stalled: true}
	for _, test := range []struct {
		name        string
		standing    Standing
		annotations map[string]string
		onSuccess   dgmv1alpha1.OnSuccess
		refusal     string
	}{
		{name: "held", standing: held, annotations: alice},
		{name: "failed, and a person decides", standing: failed, annotations: alice},
		{name: "by nobody", standing: held, refusal: "does not say who keeps it"},
		{name: "a trial", standing: held, annotations: alice, onSuccess: dgmv1alpha1.OnSuccessRevert, refusal: "it is a trial"},
		{name: "still compared", standing: Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonObserving}, annotations: alice, refusal: "still compared"},
		{name: "stalled for another reason", standing: Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonForbidden, Stalled: true}, annotations: alice, refusal: "still compared"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := improvementForTest("", test.annotations)
			w.Spec.OnSuccess = test.onSuccess
			SetStanding(w, test.standing)
			got := EvaluateKeep(w)
			if !strings.Contains(got.Refusal, test.refusal) || (got.Refusal == "") != (test.refusal == "") || (test.refusal == "" && got.By != "alice") {
				t.Errorf("%+v, want %q", got, test.refusal)
			}
		})
	}
}
