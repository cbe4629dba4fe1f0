// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Values of dgm_archive.status.
const (
	ArchivePending    = "pending"
	ArchiveRunning    = "running"
	ArchiveCompleted  = "completed"
	ArchiveFailed     = "failed"
	ArchiveRolledBack = "rolled_back"
)

// Values of improvement_workspaces.status.
const (
	WorkspaceCreated    = "created"
	WorkspaceActive     = "active"
	WorkspaceTesting    = "testing"
	WorkspaceValidating = "validating"
	WorkspaceCompleted  = "completed"
	WorkspaceFailed     = "failed"
)

// OutcomeObjectDeleted is the outcome of an attempt whose object was deleted
// before anything was changed.
const OutcomeObjectDeleted = "ObjectDeleted"

func archiveTerminal(status string) bool {
	return status == ArchiveCompleted || status == ArchiveFailed || status == ArchiveRolledBack
}

// RowStatus are the archive's and the workspace's status of a phase.
// wasCompleted tells that the attempt had been Completed before: its archive
// row is final but for the edge completed → rolled_back (P11).
func RowStatus(phase dgmv1alpha1.Phase, wasCompleted bool) (archive, workspace string) {
	switch phase {
	case dgmv1alpha1.PhasePreparing:
		return ArchivePending, WorkspaceActive
	case dgmv1alpha1.PhaseTesting:
		return ArchiveRunning, WorkspaceTesting
	case dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseObserving:
		return ArchiveRunning, WorkspaceValidating
	case dgmv1alpha1.PhaseRollingBack:
		if wasCompleted {
			return ArchiveCompleted, WorkspaceValidating
		}
		return ArchiveRunning, WorkspaceValidating
	case dgmv1alpha1.PhaseCompleted:
		return ArchiveCompleted, WorkspaceCompleted
	case dgmv1alpha1.PhaseRolledBack:
		return ArchiveRolledBack, WorkspaceFailed
	case dgmv1alpha1.PhaseFailed:
		if wasCompleted {
			return ArchiveCompleted, WorkspaceFailed
		}
		return ArchiveFailed, WorkspaceFailed
	default:
		return ArchivePending, WorkspaceCreated
	}
}

// AdoptedPhase is the phase that an archive status stands for.
func AdoptedPhase(archiveStatus string) dgmv1alpha1.Phase {
	switch archiveStatus {
	case ArchiveCompleted:
		return dgmv1alpha1.PhaseCompleted
	case ArchiveRolledBack:
		return dgmv1alpha1.PhaseRolledBack
	default:
		return dgmv1alpha1.PhaseFailed
	}
}
