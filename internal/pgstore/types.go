// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Kind is a kind of mirrored object.
type Kind string

// The mirrored kinds.
const (
	KindImprovementWorkspace Kind = "ImprovementWorkspace"
	KindBanditPolicy         Kind = "BanditPolicy"
	KindSystemConfiguration  Kind = "SystemConfiguration"
)

// Algorithms of a bandit arm, as bandit_states names them.
const (
	AlgorithmEpsilonGreedy      = "epsilon_greedy"
	AlgorithmUCB1               = "ucb1"
	AlgorithmThompsonSampling   = "thompson_sampling"
	AlgorithmConservativeBandit = "conservative_bandit"
	AlgorithmSafeExploration    = "safe_exploration"
)

// Object identifies a mirrored Kubernetes object.
type Object struct {
	Namespace, Name, UID string
	Generation           int64
}

// Improvement is one attempt of an ImprovementWorkspace: a row of dgm_archive
// and one of improvement_workspaces. An empty string or document and a nil time
// become null; Description, AlgorithmChanges, TargetService, ImprovementType,
// Configuration, TestResults, ValidationResults, EnvironmentSnapshot,
// RollbackPlan, SafetyChecks and RiskAssessment keep what is stored instead.
// Documents are JSON.
type Improvement struct {
	Object

	ImprovementID  uuid.UUID
	ParentID       uuid.NullUUID
	Attempt        int32 // from 1
	MaterialDigest string
	// ConstitutionalHash must be a known constitution; empty is the active one.
	ConstitutionalHash string
	Description        string
	CreatedBy          string

	// dgm_archive
	Timestamp         time.Time // when the attempt began
	ArchiveStatus     string
	OutcomeReason     string
	AlgorithmChanges  json.RawMessage
	PerformanceBefore json.RawMessage
	PerformanceAfter  json.RawMessage
	ComplianceScore   string // decimal in [0,1]
	ComplianceDetails json.RawMessage
	RollbackData      json.RawMessage // readable and redacted
	Metadata          json.RawMessage

	// improvement_workspaces
	WorkspaceStatus     string
	TargetService       string
	ImprovementType     string
	Priority            string
	SourceCode          json.RawMessage
	Configuration       json.RawMessage
	TestResults         json.RawMessage
	ValidationResults   json.RawMessage
	EnvironmentSnapshot json.RawMessage
	Dependencies        json.RawMessage
	RollbackPlan        json.RawMessage
	SafetyChecks        json.RawMessage
	RiskAssessment      json.RawMessage
	ComplianceValidated bool
	AssignedTo          string
	CompletedAt         *time.Time
}

// Policy is a BanditPolicy with all its arms.
type Policy struct {
	Object

	ConstitutionalHash string
	Arms               []BanditArm
}

// BanditArm is what a policy declares about one arm in one context. Numbers are
// decimal strings; an empty one becomes null.
type BanditArm struct {
	AlgorithmType string // one of the Algorithm constants
	ContextKey    string // cluster/namespace/policy/context
	ArmID         string

	SafetyThreshold string // in [0,1]
	RiskTolerance   string // in [0,1]
	Epsilon         string
	Alpha           string
	Beta            string
	AlgorithmState  json.RawMessage
	ExplorationData json.RawMessage
}

// Attempt is what the archive knows about an attempt.
type Attempt struct {
	ImprovementID  uuid.UUID
	ParentID       uuid.NullUUID
	Attempt        int32
	MaterialDigest string
	UID            string
	ArchiveStatus  string
	OutcomeReason  string
	HasSnapshot    bool
	Timestamp      time.Time
	// CompletedAt is when the attempt ended; nil while it runs.
	CompletedAt *time.Time
	// DeletedAt is when its object was found deleted; nil while it exists.
	DeletedAt *time.Time
}
