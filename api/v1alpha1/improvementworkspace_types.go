// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ImprovementType says what kind of change an improvement makes.
//
// +kubebuilder:validation:Enum=ParameterTuning;ConfigurationUpdate;AlgorithmModification;ArchitectureChange
type ImprovementType string

// The types of improvement.
const (
	ParameterTuning       ImprovementType = "ParameterTuning"
	ConfigurationUpdate   ImprovementType = "ConfigurationUpdate"
	AlgorithmModification ImprovementType = "AlgorithmModification"
	ArchitectureChange    ImprovementType = "ArchitectureChange"
)

// Priority orders improvements that wait for the same object or service.
//
// +kubebuilder:validation:Enum=Low;Medium;High;Critical
type Priority string

// The priorities, lowest first.
const (
	PriorityLow      Priority = "Low"
	PriorityMedium   Priority = "Medium"
	PriorityHigh     Priority = "High"
	PriorityCritical Priority = "Critical"
)

// PatchType says how a patch is read.
//
// +kubebuilder:validation:Enum=Merge;StrategicMerge;JSON
type PatchType string

// The types of patch.
const (
	// PatchMerge is a JSON merge patch (RFC 7386).
	PatchMerge PatchType = "Merge"
	// PatchStrategicMerge is a Kubernetes strategic merge patch; built-in kinds only.
	PatchStrategicMerge PatchType = "StrategicMerge"
	// PatchJSON is a list of JSON patch operations (RFC 6902).
	PatchJSON PatchType = "JSON"
)

// GitOpsOwnedPolicy says what to do when a GitOps tool owns what would change.
//
// +kubebuilder:validation:Enum=Refuse;Proceed
type GitOpsOwnedPolicy string

// The policies for objects that a GitOps tool owns.
const (
	// GitOpsRefuse ends the improvement before anything is changed.
	GitOpsRefuse GitOpsOwnedPolicy = "Refuse"
	// GitOpsProceed applies the change all the same; the tool may put it back.
	GitOpsProceed GitOpsOwnedPolicy = "Proceed"
)

// Mode says whether an improvement changes anything.
//
// +kubebuilder:validation:Enum=Apply;DryRun
type Mode string

// The modes.
const (
	// ModeApply applies the changes.
	ModeApply Mode = "Apply"
	// ModeDryRun computes the plan and its diff and touches nothing.
	ModeDryRun Mode = "DryRun"
)

// Phase is where an improvement stands; a summary of its conditions.
//
// +kubebuilder:validation:Enum=Pending;Preparing;Testing;Validating;AwaitingApproval;Applying;Observing;Completed;RollingBack;RolledBack;Failed
type Phase string

// The phases of an improvement.
const (
	// PhasePending: accepted; waits for whatever its Reconciling condition names.
	PhasePending Phase = "Pending"
	// PhasePreparing: the state before is captured, stored and proven to be restorable.
	PhasePreparing Phase = "Preparing"
	// PhaseTesting: the tests run in the sandbox, against the changed copy.
	PhaseTesting Phase = "Testing"
	// PhaseValidating: safety checks, the risk limit and the constitution judge the plan.
	PhaseValidating Phase = "Validating"
	// PhaseAwaitingApproval: a person has to agree to the plan.
	PhaseAwaitingApproval Phase = "AwaitingApproval"
	// PhaseApplying: the changes are being made, and followed until the workload is healthy.
	PhaseApplying Phase = "Applying"
	// PhaseObserving: the metrics after the change are compared with those before.
	PhaseObserving Phase = "Observing"
	// PhaseCompleted: the changes were made and are kept.
	PhaseCompleted Phase = "Completed"
	// PhaseRollingBack: the state before is being put back.
	PhaseRollingBack Phase = "RollingBack"
	// PhaseRolledBack: the state before was put back.
	PhaseRolledBack Phase = "RolledBack"
	// PhaseFailed: nothing was applied, or a person is needed; Stalled says why.
	PhaseFailed Phase = "Failed"
)

// ObjectReference names an object in the namespace of the improvement.
type ObjectReference struct {
	// apiVersion is the group and version of the object, like "v1" or "apps/v1".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*$`
	APIVersion string `json:"apiVersion,omitempty"`

	// kind is the kind of the object, like "ConfigMap".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9]*$`
	Kind string `json:"kind,omitempty"`

	// name is the name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^/%]*[^/%.][^/%]*$`
	Name string `json:"name,omitempty"`
}

// Target is the service that is to become better.
type Target struct {
	// service is the name of the service as metrics and the database know it.
	// No two improvements of one service in a namespace run at a time.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Service string `json:"service,omitempty"`

	// ref is the workload that serves it. It must exist when the improvement
	// starts; the account needs the right to get it.
	// +required
	Ref ObjectReference `json:"ref,omitzero"`
}

// Change is a patch of one live object.
type Change struct {
	// name identifies the change within the improvement.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// targetRef is the object to change. Secrets and the kinds of dgm.acgs.io
	// cannot be changed by an improvement.
	// +required
	TargetRef ObjectReference `json:"targetRef,omitzero"`

	// type says how patch is read: Merge (RFC 7386), StrategicMerge (built-in
	// kinds: lists are joined by their keys) or JSON (RFC 6902 operations).
	// Default: Merge.
	// +optional
	// +kubebuilder:default=Merge
	Type PatchType `json:"type,omitempty"`

	// patch is the patch itself, as YAML or JSON. It may not touch the object's
	// name, namespace, owners, finalizers or status.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=524288
	Patch string `json:"patch,omitempty"`
}

// ImprovementWorkspaceSpec says what is to change, where, and as whom.
type ImprovementWorkspaceSpec struct {
	// description says, for people and for the archive, what becomes better and why.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Description string `json:"description,omitempty"`

	// type is the kind of improvement: ParameterTuning, ConfigurationUpdate,
	// AlgorithmModification or ArchitectureChange.
	// +required
	Type ImprovementType `json:"type,omitempty"`

	// priority orders improvements that wait for the same object or service:
	// the highest goes first, then the oldest. Default: Medium.
	// +optional
	// +kubebuilder:default=Medium
	Priority Priority `json:"priority,omitempty"`

	// target is the service that is to become better.
	// +required
	Target Target `json:"target,omitzero"`

	// serviceAccountName is the account, in the same namespace, as which every
	// object is read and changed. It needs get on the target, and get and patch
	// on each object that changes. Whoever names it here must be allowed to
	// impersonate it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// changes are the patches to make, in order; undone in reverse order. Each
	// object may be named once.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Changes []Change `json:"changes,omitempty"`

	// rollout says how the change reaches the pods that serve. Without it nothing
	// is restarted, and the target must be healthy within 10m.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`

	// sandbox is where the change is tried before anything live is touched.
	// Without it there is none.
	// +optional
	Sandbox *Sandbox `json:"sandbox,omitempty"`

	// tests are Jobs that run in the sandbox, in order; one that fails ends the
	// improvement before anything live is touched.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Tests []Test `json:"tests,omitempty"`

	// safetyChecks are conditions on the change: one that is not true, or cannot
	// be evaluated, ends the improvement before anything live is touched.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	SafetyChecks []SafetyCheck `json:"safetyChecks,omitempty"`

	// risk is the author's assessment of what could go wrong.
	// +optional
	Risk *Risk `json:"risk,omitempty"`

	// metrics are compared before and after the change. Without them the change
	// is kept as soon as the workload is healthy.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Metrics []Metric `json:"metrics,omitempty"`

	// observe says how long the change is watched.
	// +optional
	Observe *Observe `json:"observe,omitempty"`

	// approval says when a person has to agree before the changes are made.
	// +optional
	Approval *Approval `json:"approval,omitempty"`

	// rollback says who decides to put a failed change back.
	// +optional
	Rollback *Rollback `json:"rollback,omitempty"`

	// onSuccess is Keep, or Revert to put the state before back even when all
	// metrics pass: a trial. Default: Keep.
	// +optional
	// +kubebuilder:default=Keep
	OnSuccess OnSuccess `json:"onSuccess,omitempty"`

	// constitutionRef names the constitution that judges.
	// +optional
	ConstitutionRef *ConstitutionReference `json:"constitutionRef,omitempty"`

	// parentRef names the improvement that this one builds on: it begins when
	// that one is Completed.
	// +optional
	ParentRef *ParentReference `json:"parentRef,omitempty"`

	// policyRef names the policy whose pull this improvement is.
	// +optional
	PolicyRef *PolicyReference `json:"policyRef,omitempty"`

	// source says where the improvement comes from, for people and the archive.
	// +optional
	Source *Source `json:"source,omitempty"`

	// ttlAfterFinished is how long after its end an improvement that a policy
	// made is kept, up to 8760h; one that a user applied is never deleted.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('8760h')",message="must be at most 8760h"
	TTLAfterFinished Duration `json:"ttlAfterFinished,omitempty"`

	// onGitOpsOwned says what to do when Argo CD, Flux, Helm or the like owns
	// what would change: Refuse ends the improvement before anything is changed
	// and shows the patch to make upstream; Proceed applies it all the same.
	// Default: Refuse.
	// +optional
	// +kubebuilder:default=Refuse
	OnGitOpsOwned GitOpsOwnedPolicy `json:"onGitOpsOwned,omitempty"`

	// mode is Apply, or DryRun to see the diff with nothing touched. Default: Apply.
	// +optional
	// +kubebuilder:default=Apply
	Mode Mode `json:"mode,omitempty"`

	// suspend keeps new steps from beginning; a rollback goes on. Default: false.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`
}

// SnapshotStatus names the stored state before the change.
type SnapshotStatus struct {
	// name is the ControllerRevision that holds the exact state before.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// digest is the SHA-256, in hex, of its canonical bytes; the database
	// stores the same bytes under the same digest.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Digest string `json:"digest,omitempty"`

	// planDigest is the SHA-256, in hex, over the touched paths with their
	// values before and after.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	PlanDigest string `json:"planDigest,omitempty"`
}

// HandledCommands are the tokens of the commands that were handled last.
type HandledCommands struct {
	// rollback is the last handled value of the annotation dgm.acgs.io/rollback.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Rollback string `json:"rollback,omitempty"`

	// abort is the last handled value of the annotation dgm.acgs.io/abort.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Abort string `json:"abort,omitempty"`

	// retry is the last handled value of the annotation dgm.acgs.io/retry.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Retry string `json:"retry,omitempty"`

	// keep is the last handled value of the annotation dgm.acgs.io/keep.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Keep string `json:"keep,omitempty"`

	// approve is the value that the annotation dgm.acgs.io/approve had when this
	// attempt began: it does not count.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Approve string `json:"approve,omitempty"`
}

// ImprovementWorkspaceStatus says where the improvement stands. Details are in
// the database under improvementId.
type ImprovementWorkspaceStatus struct {
	// conditions are Ready, Reconciling and Stalled as kstatus reads them; Finished
	// and Succeeded for kubectl wait; DatabaseSynced says whether the database
	// holds this state; Effective whether the live values are still those
	// that this improvement set; RollbackRefused why a rollback was refused.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation that this status describes; -1 until
	// the operator has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// phase sums the conditions up: Pending, Preparing, Testing, Validating,
	// AwaitingApproval, Applying, Observing, Completed, RollingBack, RolledBack
	// or Failed.
	// +optional
	Phase Phase `json:"phase,omitempty"`

	// improvementId identifies this attempt in the database (improvement_id).
	// +optional
	// +kubebuilder:validation:MaxLength=36
	ImprovementID string `json:"improvementId,omitempty"`

	// parentImprovementId is the attempt before this one.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	ParentImprovementID string `json:"parentImprovementId,omitempty"`

	// attempt counts the attempts of this name, from 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Attempt int32 `json:"attempt,omitempty"`

	// materialDigest is the SHA-256, in hex, over the fields of the spec that
	// make it another improvement when they change.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	MaterialDigest string `json:"materialDigest,omitempty"`

	// startedAt is when this attempt was accepted.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// activeSince is when this attempt had waited for everything and began to work;
	// improvement_timeout_minutes counts from it.
	// +optional
	ActiveSince *metav1.Time `json:"activeSince,omitempty"`

	// appliedAt is when the changes had all been made; of two improvements that
	// changed the same, it tells the later.
	// +optional
	AppliedAt *metav1.MicroTime `json:"appliedAt,omitempty"`

	// restoredAt is when everything was put back; from then on the workloads are
	// awaited to be healthy again.
	// +optional
	RestoredAt *metav1.Time `json:"restoredAt,omitempty"`

	// keptAt is when the changes were first Completed; a rollback from then on is
	// one of a completed improvement.
	// +optional
	KeptAt *metav1.Time `json:"keptAt,omitempty"`

	// completedAt is when this attempt reached its last phase.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`

	// snapshot names the stored state before the change.
	// +optional
	Snapshot *SnapshotStatus `json:"snapshot,omitempty"`

	// diff shows what changes, cut at 2 KiB; the whole is in the database.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Diff string `json:"diff,omitempty"`

	// sandbox names the namespace in which the change is tried.
	// +optional
	Sandbox *SandboxStatus `json:"sandbox,omitempty"`

	// tests are how the tests went.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Tests []TestStatus `json:"tests,omitempty"`

	// compliance is the constitution's verdict on the plan.
	// +optional
	Compliance *ComplianceStatus `json:"compliance,omitempty"`

	// approval says who agreed to what.
	// +optional
	Approval *ApprovalStatus `json:"approval,omitempty"`

	// observation says what is watched and until when.
	// +optional
	Observation *ObservationStatus `json:"observation,omitempty"`

	// verdict is what the comparison of all metrics came to: the worst of them.
	// +optional
	Verdict Verdict `json:"verdict,omitempty"`

	// metrics are what the comparison of each metric came to.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Metrics []MetricStatus `json:"metrics,omitempty"`

	// gain is the weighted gain of all metrics, like "+12.3%".
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Gain string `json:"gain,omitempty"`

	// reward is the gain as a number from 0 to 1, 0.5 for no difference; it is
	// missing when nothing was measured.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Reward string `json:"reward,omitempty"`

	// rollbackReason says why the state before was, or is being, put back.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	RollbackReason string `json:"rollbackReason,omitempty"`

	// kept says who has kept a change that its metrics did not speak for.
	// +optional
	Kept *KeptStatus `json:"kept,omitempty"`

	// lastHandled are the tokens of the commands that were handled last; the
	// same token again does nothing.
	// +optional
	LastHandled HandledCommands `json:"lastHandled,omitzero"`
}

// ImprovementWorkspace is one improvement of a running service: the operator
// stores what it would change, makes the change, and keeps it or puts
// everything back exactly.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=improvementworkspaces,singular=improvementworkspace,shortName=improvement;improvements;iw,categories=dgm,scope=Namespaced
// +kubebuilder:printcolumn:name="TARGET",type=string,JSONPath=`.spec.target.service`,description="The service that is to become better"
// +kubebuilder:printcolumn:name="TYPE",type=string,JSONPath=`.spec.type`,description="The kind of improvement"
// +kubebuilder:printcolumn:name="PHASE",type=string,JSONPath=`.status.phase`,description="Where it stands"
// +kubebuilder:printcolumn:name="VERDICT",type=string,JSONPath=`.status.verdict`,description="What the comparison of the metrics came to"
// +kubebuilder:printcolumn:name="COMPLIANCE",type=string,JSONPath=`.status.compliance.score`,description="The constitution's score of the plan"
// +kubebuilder:printcolumn:name="GAIN",type=string,JSONPath=`.status.gain`,description="How much better the metrics became, weighted"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether it has ended in an orderly way"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`,description="Time since it was created"
// +kubebuilder:printcolumn:name="REASON",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it stands there"
// +kubebuilder:printcolumn:name="ATTEMPT",type=integer,priority=1,JSONPath=`.status.attempt`,description="Attempts made"
// +kubebuilder:printcolumn:name="ARM",type=string,priority=1,JSONPath=`.spec.policyRef.arm`,description="The arm of the policy that made it"
// +kubebuilder:printcolumn:name="PARENT",type=string,priority=1,JSONPath=`.status.parentImprovementId`,description="The attempt before this one"
// +kubebuilder:printcolumn:name="SYNCED",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="DatabaseSynced")].status`,description="Whether the database holds this state"
// +kubebuilder:printcolumn:name="IMPROVEMENT-ID",type=string,priority=1,JSONPath=`.status.improvementId`,description="improvement_id in the database"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Preparing', 'Testing', 'Validating', 'AwaitingApproval', 'Applying', 'Observing', 'RollingBack']) || (self.spec.description == oldSelf.spec.description && self.spec.type == oldSelf.spec.type && self.spec.target == oldSelf.spec.target && self.spec.serviceAccountName == oldSelf.spec.serviceAccountName && self.spec.changes == oldSelf.spec.changes && self.spec.onGitOpsOwned == oldSelf.spec.onGitOpsOwned && self.spec.mode == oldSelf.spec.mode && has(self.spec.rollout) == has(oldSelf.spec.rollout) && (!has(self.spec.rollout) || self.spec.rollout == oldSelf.spec.rollout) && has(self.spec.sandbox) == has(oldSelf.spec.sandbox) && (!has(self.spec.sandbox) || self.spec.sandbox == oldSelf.spec.sandbox) && has(self.spec.safetyChecks) == has(oldSelf.spec.safetyChecks) && (!has(self.spec.safetyChecks) || self.spec.safetyChecks == oldSelf.spec.safetyChecks) && has(self.spec.risk) == has(oldSelf.spec.risk) && (!has(self.spec.risk) || self.spec.risk == oldSelf.spec.risk) && has(self.spec.metrics) == has(oldSelf.spec.metrics) && (!has(self.spec.metrics) || self.spec.metrics == oldSelf.spec.metrics) && has(self.spec.observe) == has(oldSelf.spec.observe) && (!has(self.spec.observe) || self.spec.observe == oldSelf.spec.observe) && has(self.spec.approval) == has(oldSelf.spec.approval) && (!has(self.spec.approval) || self.spec.approval == oldSelf.spec.approval) && has(self.spec.rollback) == has(oldSelf.spec.rollback) && (!has(self.spec.rollback) || self.spec.rollback == oldSelf.spec.rollback) && has(self.spec.constitutionRef) == has(oldSelf.spec.constitutionRef) && (!has(self.spec.constitutionRef) || self.spec.constitutionRef == oldSelf.spec.constitutionRef) && has(self.spec.parentRef) == has(oldSelf.spec.parentRef) && (!has(self.spec.parentRef) || self.spec.parentRef == oldSelf.spec.parentRef) && has(self.spec.policyRef) == has(oldSelf.spec.policyRef) && (!has(self.spec.policyRef) || self.spec.policyRef == oldSelf.spec.policyRef) && has(self.spec.onSuccess) == has(oldSelf.spec.onSuccess) && (!has(self.spec.onSuccess) || self.spec.onSuccess == oldSelf.spec.onSuccess) && has(self.spec.tests) == has(oldSelf.spec.tests) && (!has(self.spec.tests) || self.spec.tests == oldSelf.spec.tests) && has(self.spec.source) == has(oldSelf.spec.source) && (!has(self.spec.source) || self.spec.source == oldSelf.spec.source))",message="the improvement is running: abort it first (kubectl annotate improvement NAME dgm.acgs.io/abort=TOKEN) and edit it when it has ended; only priority, suspend and ttlAfterFinished may change meanwhile"
type ImprovementWorkspace struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec says what is to change, where, and as whom.
	// +required
	// +kubebuilder:validation:XValidation:rule="self.changes.all(a, self.changes.exists_one(b, b.targetRef == a.targetRef))",message="each object may be named by one change only: put what changes in one object into one patch"
	// +kubebuilder:validation:XValidation:rule="self.changes.all(c, !(c.targetRef.kind == 'Secret' && c.targetRef.apiVersion == 'v1'))",message="Secrets cannot be changed by an improvement: change the reference to the Secret instead"
	// +kubebuilder:validation:XValidation:rule="!(self.target.ref.kind == 'Secret' && self.target.ref.apiVersion == 'v1')",message="a Secret cannot be the target: what the target holds is kept in the database; name the workload that uses it"
	// +kubebuilder:validation:XValidation:rule="self.changes.all(c, !c.targetRef.apiVersion.startsWith('dgm.acgs.io/'))",message="the kinds of dgm.acgs.io cannot be changed by an improvement"
	// +kubebuilder:validation:XValidation:rule="!has(self.tests) || self.tests.size() == 0 || (has(self.sandbox) && self.sandbox.mode == 'Namespace')",message="tests run in a sandbox: set sandbox.mode to Namespace"
	// +kubebuilder:validation:XValidation:rule="!has(self.metrics) || self.metrics.all(m, !has(m.job) || (has(self.tests) && self.tests.exists(t, t.name == m.job.test)))",message="a metric's job.test must name a test of spec.tests"
	Spec ImprovementWorkspaceSpec `json:"spec,omitzero"`

	// status says where the improvement stands.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status ImprovementWorkspaceStatus `json:"status,omitempty,omitzero"`
}

// ImprovementWorkspaceList is a list of improvements.
//
// +kubebuilder:object:root=true
type ImprovementWorkspaceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ImprovementWorkspace `json:"items"`
}
