// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Observing is how an improvement is observed: spec.observe with its defaults.
type Observing struct {
	Window, Warmup, Interval, Deadline, Watch time.Duration
}

// ObservingOf reads spec.observe.
func ObservingOf(w *dgmv1alpha1.ImprovementWorkspace) Observing {
	var o dgmv1alpha1.Observe
	if w.Spec.Observe != nil {
		o = *w.Spec.Observe
	}
	return Observing{
		Window: o.Window.Or(5 * time.Minute), Warmup: o.Warmup.Or(time.Minute), Interval: o.Interval.Or(10 * time.Second),
		Deadline: o.Deadline.Or(10 * time.Minute), Watch: o.WatchAfterCompletion.Or(0),
	}
}

// Outcome is what comparing a metric came to, and what to say of it.
type Outcome struct {
	Metric  *dgmv1alpha1.Metric
	Verdict dgmv1alpha1.Verdict
	Text    string
}

// Next is what follows a comparison.
type Next int

// What follows a comparison.
const (
	// NextWait: compare again later.
	NextWait Next = iota
	// NextKeep: the change stays.
	NextKeep
	// NextRevert: it was a trial and went well; the state before is put back.
	NextRevert
	// NextRollBack: the state before is put back.
	NextRollBack
	// NextHold: a person is needed; compare again later.
	NextHold
	// NextAwaitCommand: it has failed, a person is needed, and nothing is compared
	// any more.
	NextAwaitCommand
)

// Decision is what follows a comparison, and why.
type Decision struct {
	Next    Next
	Reason  string
	Message string
}

// DecideObservation decides what follows when the metrics were compared. Only a
// Fail rolls back by itself (P6). What is undecided waits until the final look
// and then follows its own policy: of several the most careful one, Hold before
// Rollback before Accept.
func DecideObservation(w *dgmv1alpha1.ImprovementWorkspace, outcomes []Outcome, final bool) Decision {
	if failed := textsOf(outcomes, func(o Outcome) bool { return o.Verdict == dgmv1alpha1.VerdictFail }); failed != "" {
		return decideFail(w, failed)
	}
	undecided := textsOf(outcomes, isUndecided)
	switch {
	case undecided == "":
		return decideSuccess(w, textsOf(outcomes, func(Outcome) bool { return true }))
	case !final:
		return Decision{Next: NextWait, Reason: dgmv1alpha1.ReasonObserving, Message: "not decided yet: " + undecided}
	}
	rollback := textsOf(outcomes, func(o Outcome) bool { return isUndecided(o) && policyOf(o) == dgmv1alpha1.UndecidedRollback })
	hold := textsOf(outcomes, func(o Outcome) bool { return isUndecided(o) && policyOf(o) == dgmv1alpha1.UndecidedHold })
	switch {
	case rollback != "" && isManual(w):
		return Decision{Next: NextHold, Reason: dgmv1alpha1.ReasonMetricsUndecided, Message: "undecided at the deadline, and still compared: " + rollback +
			"; rollback.policy is Manual; " + choices(w)}
	case rollback != "":
		return Decision{Next: NextRollBack, Reason: dgmv1alpha1.ReasonMetricsUndecided, Message: "undecided at the deadline: " + rollback}
	case hold != "":
		return Decision{Next: NextHold, Reason: dgmv1alpha1.ReasonMetricsUndecided, Message: "undecided at the deadline, and still compared: " + hold + "; " + choices(w)}
	default:
		return decideSuccess(w, "accepted although undecided: "+undecided)
	}
}

func decideSuccess(w *dgmv1alpha1.ImprovementWorkspace, message string) Decision {
	if w.Spec.OnSuccess == dgmv1alpha1.OnSuccessRevert {
		return Decision{Next: NextRevert, Reason: dgmv1alpha1.ReasonReverted, Message: message}
	}
	return Decision{Next: NextKeep, Reason: dgmv1alpha1.ReasonCompleted, Message: message}
}

func decideFail(w *dgmv1alpha1.ImprovementWorkspace, failed string) Decision {
	if isManual(w) {
		return Decision{Next: NextAwaitCommand, Reason: dgmv1alpha1.ReasonMetricRegressed, Message: failed + "; rollback.policy is Manual; " + choices(w)}
	}
	return Decision{Next: NextRollBack, Reason: dgmv1alpha1.ReasonMetricRegressed, Message: failed}
}

func isManual(w *dgmv1alpha1.ImprovementWorkspace) bool {
	return w.Spec.Rollback != nil && w.Spec.Rollback.Policy == dgmv1alpha1.RollbackManual
}

func isUndecided(o Outcome) bool {
	return o.Verdict == dgmv1alpha1.VerdictNoData || o.Verdict == dgmv1alpha1.VerdictInconclusive
}

func policyOf(o Outcome) dgmv1alpha1.UndecidedPolicy {
	policy := o.Metric.OnInconclusive
	if o.Verdict == dgmv1alpha1.VerdictNoData {
		policy = o.Metric.OnNoData
	}
	if policy == "" {
		return dgmv1alpha1.UndecidedHold
	}
	return policy
}

// maxTexts bounds, in bytes of JSON, what is said of metrics: what to do about them
// must have room in a message as well.
const maxTexts = 400

func textsOf(outcomes []Outcome, that func(Outcome) bool) string {
	var texts []string
	for _, o := range outcomes {
		if that(o) {
			texts = append(texts, o.Text)
		}
	}
	return cutEncoded(strings.Join(texts, "; "), maxTexts, mark)
}

// WasTrial reports whether what is being put back, or was, is a trial that went
// well.
func WasTrial(w *dgmv1alpha1.ImprovementWorkspace) bool {
	return strings.HasPrefix(w.Status.RollbackReason, dgmv1alpha1.ReasonReverted+": ")
}

// DecideWatch decides what follows when the metrics of a kept change were
// compared: a Fail is put back, anything else is kept.
func DecideWatch(w *dgmv1alpha1.ImprovementWorkspace, outcomes []Outcome) Decision {
	if failed := textsOf(outcomes, func(o Outcome) bool { return o.Verdict == dgmv1alpha1.VerdictFail }); failed != "" {
		return decideFail(w, failed)
	}
	return Decision{Next: NextKeep}
}
