// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// IsTerminal reports whether nothing more happens in this phase by itself.
func (p Phase) IsTerminal() bool {
	return p == PhaseCompleted || p == PhaseRolledBack || p == PhaseFailed
}

// IsActive reports whether an improvement in this phase holds its objects and
// its target service, so that no other improvement may begin on them (P13).
func (p Phase) IsActive() bool {
	switch p {
	case PhasePreparing, PhaseTesting, PhaseValidating, PhaseAwaitingApproval, PhaseApplying, PhaseObserving, PhaseRollingBack:
		return true
	default:
		return false
	}
}

// BeforeApplying reports whether an improvement in this phase has begun, and has
// changed nothing live yet.
func (p Phase) BeforeApplying() bool {
	switch p {
	case PhasePreparing, PhaseTesting, PhaseValidating, PhaseAwaitingApproval:
		return true
	default:
		return false
	}
}

// MayHaveApplied reports whether live objects may bear the changes of an
// improvement that is in this phase, and that was not kept yet.
func (p Phase) MayHaveApplied() bool { return p == PhaseApplying || p == PhaseObserving }

// Watching reports whether a kept change is still watched.
func (w *ImprovementWorkspace) Watching() bool {
	return w.Status.Phase == PhaseCompleted && w.Status.Observation != nil && w.Status.Observation.WatchUntil != nil
}

// WantsSandbox reports whether the change is tried in a namespace of its own.
func (w *ImprovementWorkspace) WantsSandbox() bool {
	return w.Spec.Sandbox != nil && w.Spec.Sandbox.Mode != SandboxNone
}

// GroupVersionKind is the group, version and kind that the reference names.
func (r ObjectReference) GroupVersionKind() schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
}

// ObjectReference names the workload as an object.
func (r WorkloadReference) ObjectReference() ObjectReference {
	return ObjectReference{APIVersion: "apps/v1", Kind: r.Kind, Name: r.Name}
}

// RolloutTimeout bounds the wait for the workloads to be healthy.
func (s *ImprovementWorkspaceSpec) RolloutTimeout() time.Duration {
	const unsaid = 10 * time.Minute
	if s.Rollout == nil {
		return unsaid
	}
	return s.Rollout.Timeout.Or(unsaid)
}

// String is "Kind/name".
func (r ObjectReference) String() string { return r.Kind + "/" + r.Name }

// Suspended reports whether the user keeps new steps from beginning.
func (w *ImprovementWorkspace) Suspended() bool {
	return w.Spec.Suspend != nil && *w.Spec.Suspend
}

// Rank orders priorities: the greater goes first.
func (p Priority) Rank() int {
	switch p {
	case PriorityCritical:
		return 3
	case PriorityHigh:
		return 2
	case PriorityLow:
		return 0
	default:
		return 1
	}
}

// Rank orders levels of risk from 0, the lowest; what is not known is the highest.
func (l RiskLevel) Rank() int {
	switch l {
	case RiskLow:
		return 0
	case RiskMedium:
		return 1
	case RiskHigh:
		return 2
	default:
		return 3
	}
}

// RiskLevel is the risk that the author declares.
func (s *ImprovementWorkspaceSpec) RiskLevel() RiskLevel {
	if s.Risk == nil || s.Risk.Level == "" {
		return RiskMedium
	}
	return s.Risk.Level
}

// ApprovalPolicy says when a person has to agree.
func (s *ImprovementWorkspaceSpec) ApprovalPolicy() ApprovalPolicy {
	if s.Approval == nil || s.Approval.Policy == "" {
		return ApprovalOnWarning
	}
	return s.Approval.Policy
}
