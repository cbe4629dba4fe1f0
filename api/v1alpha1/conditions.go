// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Types of conditions. Ready, Reconciling and Stalled follow kstatus.
const (
	// ConditionReady: the improvement has ended in an orderly way (Completed or
	// RolledBack); the policy is accepted.
	ConditionReady = "Ready"
	// ConditionReconciling: the operator is at work, or waits for something.
	ConditionReconciling = "Reconciling"
	// ConditionStalled: a person is needed; the message says what to do.
	ConditionStalled = "Stalled"
	// ConditionFinished: the phase is Completed, RolledBack or Failed.
	ConditionFinished = "Finished"
	// ConditionSucceeded: True when Completed; False when RolledBack or Failed.
	ConditionSucceeded = "Succeeded"
	// ConditionDatabaseSynced: the database holds the state that this status shows.
	ConditionDatabaseSynced = "DatabaseSynced"
	// ConditionEffective: the live values are those that the improvement set.
	ConditionEffective = "Effective"
	// ConditionRollbackRefused: the last rollback command was refused.
	ConditionRollbackRefused = "RollbackRefused"
	// ConditionSchemaIntact: the database's schema is what the migrations made;
	// Unknown while nobody has looked.
	ConditionSchemaIntact = "SchemaIntact"
)

// Annotations, labels and the finalizer.
const (
	// AnnotationRollback commands a rollback of a completed improvement; its value is a token.
	AnnotationRollback = "dgm.acgs.io/rollback"
	// AnnotationAbort commands the end of a running improvement; its value is a token.
	AnnotationAbort = "dgm.acgs.io/abort"
	// AnnotationRetry commands another attempt of an ended improvement; its value is a token.
	AnnotationRetry = "dgm.acgs.io/retry"
	// AnnotationKeep commands that a change be kept which is held for its metrics; its
	// value is a token.
	AnnotationKeep = "dgm.acgs.io/keep"
	// AnnotationKeptBy is the user who keeps it, as the API server knows them.
	AnnotationKeptBy = "dgm.acgs.io/kept-by"
	// AnnotationReasonSuffix makes the annotation that holds a command's reason.
	AnnotationReasonSuffix = "-reason"
	// AnnotationApprove agrees to a plan; its value is the plan's digest.
	AnnotationApprove = "dgm.acgs.io/approve"
	// AnnotationApprovedBy is the user who agrees, as the API server knows them.
	AnnotationApprovedBy = "dgm.acgs.io/approved-by"
	// AnnotationCreatedBy is the user who created the object, stamped at admission.
	AnnotationCreatedBy = "dgm.acgs.io/created-by"
	// AnnotationRestartedFor on a pod template restarts the pods when it changes, as
	// kubectl rollout restart does by one of its own. Its value names the improvement.
	AnnotationRestartedFor = "dgm.acgs.io/restarted-for"
	// LabelFreeze on a namespace, with the value "true", keeps changes from being made there.
	LabelFreeze = "dgm.acgs.io/freeze"
	// LabelImprovement on a ControllerRevision names the improvement whose snapshot it is.
	LabelImprovement = "dgm.acgs.io/improvement"
	// LabelSandbox on a namespace names, by its uid, the improvement whose sandbox it is.
	LabelSandbox = "dgm.acgs.io/sandbox"
	// AnnotationSandboxOf on a sandbox is the namespace/name of its improvement.
	AnnotationSandboxOf = "dgm.acgs.io/sandbox-of"
	// AnnotationImprovementID on a sandbox is the attempt that it is for.
	AnnotationImprovementID = "dgm.acgs.io/improvement-id"
	// LabelTest on a Job and its pods in a sandbox names the test.
	LabelTest = "dgm.acgs.io/test"
	// Finalizer keeps an improvement until its changes are kept or put back.
	Finalizer = "dgm.acgs.io/rollback"
	// FieldManager is the field manager of the changes that improvements make.
	FieldManager = "dgm-operator"
)

// Reasons of conditions and events.
const (
	// Waiting, in Pending or Preparing.
	ReasonSuspended              = "Suspended"
	ReasonDatabaseUnavailable    = "DatabaseUnavailable"
	ReasonAdmissionPolicyMissing = "AdmissionPolicyMissing"
	ReasonFrozen                 = "Frozen"
	ReasonNamespaceNotOptedIn    = "NamespaceNotOptedIn"
	ReasonForbidden              = "Forbidden"
	ReasonOverlap                = "Overlap"
	ReasonConcurrencyLimit       = "ConcurrencyLimit"
	ReasonTooManyAttempts        = "TooManyAttempts"
	ReasonAccepted               = "Accepted"
	ReasonParentNotCompleted     = "ParentNotCompleted"
	ReasonAwaitingApproval       = "AwaitingApproval"

	// At work.
	ReasonPreparing  = "Preparing"
	ReasonTesting    = "Testing"
	ReasonValidating = "Validating"
	ReasonApplying   = "Applying"
	// ReasonRollingOut: the changes are made; the workloads are awaited to be healthy.
	ReasonRollingOut  = "RollingOut"
	ReasonObserving   = "Observing"
	ReasonRollingBack = "RollingBack"
	ReasonRetrying    = "Retrying"
	ReasonJudged      = "Judged"
	ReasonApproved    = "Approved"
	ReasonBaseline    = "MeasuringBaseline"

	// Ends.
	ReasonCompleted        = "Completed"
	ReasonDryRun           = "DryRun"
	ReasonNothingToChange  = "NothingToChange"
	ReasonRolledBack       = "RolledBack"
	ReasonPartlyRolledBack = "PartlyRolledBack"
	ReasonAdopted          = "Adopted"

	// Failures.
	ReasonSafetyCheckFailed    = "SafetyCheckFailed"
	ReasonRiskTooHigh          = "RiskTooHigh"
	ReasonConstitutionMismatch = "ConstitutionMismatch"
	ReasonNoVerdict            = "NoVerdict"
	ReasonParentFailed         = "ParentFailed"
	ReasonTargetNotFound       = "TargetNotFound"
	ReasonTargetGone           = "TargetGone"
	ReasonTargetChanged        = "TargetChanged"
	ReasonInvalidPatch         = "InvalidPatch"
	ReasonChangeRefused        = "ChangeRefused"
	ReasonGitOpsOwned          = "GitOpsOwned"
	ReasonTooLarge             = "TooLarge"
	ReasonNotReversible        = "NotReversible"
	ReasonAborted              = "Aborted"
	ReasonTimedOut             = "TimedOut"
	ReasonEdited               = "Edited"
	ReasonDeleted              = "Deleted"
	ReasonNamespaceTerminating = "NamespaceTerminating"
	ReasonRollbackForbidden    = "RollbackForbidden"
	ReasonRollbackRefused      = "RollbackRefused"
	ReasonSnapshotDamaged      = "SnapshotDamaged"
	ReasonLaterImprovement     = "LaterImprovement"
	ReasonPartlyApplied        = "PartlyApplied"
	ReasonStatusLost           = "StatusLost"
	ReasonSandboxFailed        = "SandboxFailed"
	ReasonTestsFailed          = "TestsFailed"
	// ReasonRolloutFailed: the workloads did not become healthy with the changes.
	ReasonRolloutFailed = "RolloutFailed"
	// ReasonRollbackUnhealthy: everything is put back, and a workload is not healthy.
	ReasonRollbackUnhealthy = "RollbackUnhealthy"
	// ReasonGitOpsConflict: who owned a changed value before has put it back.
	ReasonGitOpsConflict = "GitOpsConflict"

	// Events of a sandbox.
	ReasonSandboxIncomplete = "SandboxIncomplete"
	ReasonTestEnded         = "TestEnded"

	// Metrics.
	ReasonMetricSourceUnknown = "MetricSourceUnknown"
	ReasonBaselineMissing     = "BaselineMissing"
	ReasonMetricRegressed     = "MetricRegressed"
	ReasonMetricsUndecided    = "MetricsUndecided"
	ReasonReverted            = "Reverted"
	ReasonKeptByCommand       = "KeptByCommand"
	ReasonKeepRefused         = "KeepRefused"
	ReasonWatchEnded          = "WatchEnded"

	// The mirror.
	ReasonSynced        = "Synced"
	ReasonSyncPending   = "SyncPending"
	ReasonRowRefused    = "RowRefused"
	ReasonLiveUnchanged = "LiveUnchanged"
	ReasonLiveDiffers   = "LiveDiffers"

	// Settings.
	ReasonApplied              = "Applied"
	ReasonOverwritten          = "Overwritten"
	ReasonInvalidValue         = "InvalidValue"
	ReasonConstitutionViolated = "ConstitutionViolated"
	ReasonReadOnly             = "ReadOnly"
	ReasonBuiltIn              = "BuiltIn"
	ReasonSensitive            = "Sensitive"
	ReasonKeyTaken             = "KeyTaken"
	ReasonSecretNotFound       = "SecretNotFound"
	ReasonSecretRefused        = "SecretRefused"
	ReasonKeysetUnavailable    = "KeysetUnavailable"
	ReasonSchemaIntact         = "SchemaIntact"
	ReasonSchemaDrift          = "SchemaDrift"
	ReasonNotChecked           = "NotChecked"
)
