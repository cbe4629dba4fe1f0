// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SafetyCheck is a condition on the change.
type SafetyCheck struct {
	// name identifies the check within the improvement.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// expression is a CEL expression that must be true. It sees spec; before and
	// after, the objects by the name of their change; target; and tests, by
	// name, with outcome, exitCode and results.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression,omitempty"`

	// message says what is wrong when it is not true.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// RiskLevel is how much could go wrong.
//
// +kubebuilder:validation:Enum=Low;Medium;High;Critical
type RiskLevel string

// The levels of risk.
const (
	RiskLow      RiskLevel = "Low"
	RiskMedium   RiskLevel = "Medium"
	RiskHigh     RiskLevel = "High"
	RiskCritical RiskLevel = "Critical"
)

// Risk is the author's assessment of what could go wrong.
type Risk struct {
	// level is Low, Medium, High or Critical. Above the platform's limit
	// (risk_limit in the system configuration, and the constitution's) the
	// improvement is refused. Default: Medium.
	// +optional
	// +kubebuilder:default=Medium
	Level RiskLevel `json:"level,omitempty"`

	// notes say what could go wrong, for people.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Notes string `json:"notes,omitempty"`
}

// ApprovalPolicy says when a person has to agree.
//
// +kubebuilder:validation:Enum=Always;OnWarning;Never
type ApprovalPolicy string

// The policies for approval.
const (
	ApprovalAlways    ApprovalPolicy = "Always"
	ApprovalOnWarning ApprovalPolicy = "OnWarning"
	ApprovalNever     ApprovalPolicy = "Never"
)

// Approval says when a person has to agree before the changes are made.
type Approval struct {
	// policy is Always, OnWarning (when the constitution's verdict is not
	// compliant or exemplary) or Never. Default: OnWarning.
	// +optional
	// +kubebuilder:default=OnWarning
	Policy ApprovalPolicy `json:"policy,omitempty"`
}

// RollbackPolicy says who decides to put a failed change back.
//
// +kubebuilder:validation:Enum=Automatic;Manual
type RollbackPolicy string

// The policies for rollback.
const (
	RollbackAutomatic RollbackPolicy = "Automatic"
	RollbackManual    RollbackPolicy = "Manual"
)

// Rollback says who decides to put a failed change back.
type Rollback struct {
	// policy is Automatic, or Manual to wait for the annotation
	// dgm.acgs.io/rollback. Default: Automatic.
	// +optional
	// +kubebuilder:default=Automatic
	Policy RollbackPolicy `json:"policy,omitempty"`
}

// OnSuccess says what follows a change that passed.
//
// +kubebuilder:validation:Enum=Keep;Revert
type OnSuccess string

// What follows a change that passed.
const (
	OnSuccessKeep OnSuccess = "Keep"
	// OnSuccessRevert puts the state before back: a trial.
	OnSuccessRevert OnSuccess = "Revert"
)

// ConstitutionReference names the constitution that judges.
type ConstitutionReference struct {
	// name is the constitution's. Default: default.
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// expectedHash is the constitutional hash that the author means: another
	// active one refuses the improvement. Default: any.
	// +optional
	// +kubebuilder:validation:MinLength=16
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{16,64}$`
	ExpectedHash string `json:"expectedHash,omitempty"`
}

// ParentReference names the improvement that this one builds on.
type ParentReference struct {
	// name is that of an improvement in the same namespace, which must be Completed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// PolicyReference names the policy whose pull this improvement is.
type PolicyReference struct {
	// name is that of a BanditPolicy in the same namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// arm is the arm that was chosen.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Arm string `json:"arm,omitempty"`

	// context is the policy's context. Default: default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Context string `json:"context,omitempty"`
}

// Source says where the improvement comes from.
type Source struct {
	// git is the repository's URL.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Git string `json:"git,omitempty"`

	// revision is the commit, tag or branch.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Revision string `json:"revision,omitempty"`

	// image is the container image, with its digest.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Image string `json:"image,omitempty"`
}

// ComplianceStatus is the constitution's verdict on the plan.
type ComplianceStatus struct {
	// score is from 0 to 1, truncated to two digits.
	// +optional
	// +kubebuilder:validation:MaxLength=8
	Score string `json:"score,omitempty"`

	// level is critical_violation, major_violation, minor_violation, warning,
	// compliant or exemplary.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Level string `json:"level,omitempty"`

	// exactScore is the score with all its digits.
	// +optional
	// +kubebuilder:validation:MaxLength=40
	ExactScore string `json:"exactScore,omitempty"`

	// accepted says whether the score reached the threshold, and no critical
	// principle was violated.
	// +optional
	Accepted *bool `json:"accepted,omitempty"`

	// violations are the principles that do not hold; what is wrong and how to mend
	// it is in the database (constitutional_compliance_logs).
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=63
	Violations []string `json:"violations,omitempty"`

	// hash is that of the constitution that judged.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Hash string `json:"hash,omitempty"`
}

// ApprovalStatus says who agreed to what.
type ApprovalStatus struct {
	// planDigest is the plan that was agreed to.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	PlanDigest string `json:"planDigest,omitempty"`

	// approvedBy is the user who agreed.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ApprovedBy string `json:"approvedBy,omitempty"`

	// approvedAt is when that was seen.
	// +optional
	ApprovedAt *metav1.Time `json:"approvedAt,omitempty"`
}
