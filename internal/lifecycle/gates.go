// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/settings"
)

// How long a waiting improvement waits before it looks again. What can be
// watched wakes it earlier.
const (
	// RecheckInterval is for what cannot be watched: rights, labels of a namespace.
	RecheckInterval = 20 * time.Second
	// FallbackInterval is for what is watched, should a signal be lost.
	FallbackInterval = 2 * time.Minute
)

// PollInterval is when to look again at a rollout that has been waited for for
// some time: soon at first, ever more seldom then, and not after its timeout.
func PollInterval(waited, timeout time.Duration) time.Duration {
	interval := min(max(waited/8, 500*time.Millisecond), 10*time.Second)
	return max(min(interval, timeout-waited), 100*time.Millisecond)
}

// Wait is why an improvement does not go on yet, and when to look again.
type Wait struct {
	Reason  string
	Message string
	Recheck time.Duration
}

// Surroundings are what the gates before Preparing look at. Each is a
// function, so that what is dear to find out is asked only when all that is
// cheaper lets through.
type Surroundings struct {
	// Database is nil when the database takes writes.
	Database func() error
	// Admission is nil when the admission policies have judged the improvement (P7).
	Admission func() error
	// Frozen says by whom new steps are frozen and how to lift it; empty when they
	// are not.
	Frozen func() (string, error)
	// OptedIn reports whether the namespace lets the operator act as its accounts.
	OptedIn func() (bool, error)
	// Blocker takes what this one needs, or says what holds it up.
	Blocker func() Blocker
	// MaxAttempts is the highest attempt that may be made.
	MaxAttempts int32
	// TenantRole is the ClusterRole that opts a namespace in.
	TenantRole string
	// Operator is the operator's own ServiceAccount as namespace:name.
	Operator string
}

// EvaluateGates decides whether a pending improvement may begin: nil when it
// may, else the first thing that it waits for.
func EvaluateGates(w *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	return evaluate(w, in, evaluateSuspend, evaluateAttempts, evaluateDatabase, evaluateAdmission, evaluateFreeze, evaluateOptIn, evaluateBlocker)
}

// EvaluateHold decides whether an improvement that is prepared may be applied:
// suspend, freeze and a missing admission policy (P7) keep it.
func EvaluateHold(w *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	return evaluate(w, in, evaluateSuspend, evaluateAdmission, evaluateFreeze)
}

type gate func(*dgmv1alpha1.ImprovementWorkspace, Surroundings) (*Wait, error)

func evaluate(w *dgmv1alpha1.ImprovementWorkspace, in Surroundings, gates ...gate) (*Wait, error) {
	for _, gate := range gates {
		if wait, err := gate(w, in); wait != nil || err != nil {
			return wait, err
		}
	}
	return nil, nil
}

func evaluateSuspend(w *dgmv1alpha1.ImprovementWorkspace, _ Surroundings) (*Wait, error) {
	if !w.Suspended() {
		return nil, nil
	}
	return &Wait{Reason: dgmv1alpha1.ReasonSuspended, Message: "spec.suspend is true: no new step begins until it is false"}, nil
}

func evaluateDatabase(_ *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	if err := in.Database(); err != nil {
		return &Wait{
			Reason:  dgmv1alpha1.ReasonDatabaseUnavailable,
			Message: "nothing is applied until its snapshot can be stored in the database: " + err.Error(),
			Recheck: RecheckInterval,
		}, nil
	}
	return nil, nil
}

func evaluateAdmission(_ *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	if err := in.Admission(); err != nil {
		return &Wait{
			Reason:  dgmv1alpha1.ReasonAdmissionPolicyMissing,
			Message: "nothing is applied while who may name a ServiceAccount was not checked: " + err.Error(),
			Recheck: RecheckInterval,
		}, nil
	}
	return nil, nil
}

func evaluateFreeze(_ *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	frozen, err := in.Frozen()
	if err != nil || frozen == "" {
		return nil, err
	}
	return &Wait{Reason: dgmv1alpha1.ReasonFrozen, Message: frozen, Recheck: RecheckInterval}, nil
}

// FrozenNamespace says that a namespace is frozen, and how to lift it.
func FrozenNamespace(namespace string) string {
	return fmt.Sprintf("namespace %s is frozen; to go on: kubectl label namespace %s %s-", namespace, namespace, dgmv1alpha1.LabelFreeze)
}

// FrozenCluster says that all is frozen, by whom, and how to lift it.
func FrozenCluster(by string) string {
	return fmt.Sprintf("every improvement is frozen by %s (%s); to go on, delete the SystemConfiguration or set its value to false; without one: "+
		"UPDATE dgm.system_configurations SET value = 'false' WHERE key = '%s'", by, settings.Freeze, settings.Freeze)
}

func evaluateOptIn(w *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	optedIn, err := in.OptedIn()
	if err != nil || optedIn {
		return nil, err
	}
	return &Wait{
		Reason:  dgmv1alpha1.ReasonNamespaceNotOptedIn,
		Message: NotOptedIn(w, in.TenantRole, in.Operator),
		Recheck: RecheckInterval,
	}, nil
}

// NotOptedIn says that the operator may not act in the improvement's namespace,
// and how to let it.
func NotOptedIn(w *dgmv1alpha1.ImprovementWorkspace, tenantRole, operator string) string {
	return fmt.Sprintf("namespace %s has not opted in: the operator may not act as ServiceAccount %s there; to opt in: "+
		"kubectl create rolebinding dgm-tenant --namespace=%s --clusterrole=%s --serviceaccount=%s",
		w.Namespace, w.Spec.ServiceAccountName, w.Namespace, tenantRole, operator)
}

func evaluateAttempts(w *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	if w.Status.Attempt <= in.MaxAttempts {
		return nil, nil
	}
	return &Wait{
		Reason: dgmv1alpha1.ReasonTooManyAttempts,
		Message: fmt.Sprintf("this would be attempt %d, and %d is the highest that %s allows: raise it, or make a new improvement",
			w.Status.Attempt, in.MaxAttempts, settings.MaxImprovementAttempts),
		Recheck: FallbackInterval,
	}, nil
}

// Blocker is what holds an improvement up: another one with the same claim, or
// the limit of active ones. The zero value is none.
type Blocker struct {
	Name  string
	Claim Claim
	Limit int
}

func evaluateBlocker(_ *dgmv1alpha1.ImprovementWorkspace, in Surroundings) (*Wait, error) {
	blocker := in.Blocker()
	if blocker.Name == "" {
		return EvaluateRoom(blocker), nil
	}
	return &Wait{
		Reason:  dgmv1alpha1.ReasonOverlap,
		Message: fmt.Sprintf("improvement %s holds %s; this one begins when that has ended", blocker.Name, blocker.Claim),
		Recheck: FallbackInterval,
	}, nil
}

// EvaluateRoom decides whether an improvement that could begin has room to, below
// the limit of active ones.
func EvaluateRoom(blocker Blocker) *Wait {
	if blocker.Limit == 0 {
		return nil
	}
	return &Wait{
		Reason: dgmv1alpha1.ReasonConcurrencyLimit,
		Message: fmt.Sprintf("%d improvements are active, as many as %s allows; this one begins when there is room",
			blocker.Limit, settings.MaxConcurrentImprovements),
		Recheck: FallbackInterval,
	}
}
