// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AlgorithmType names a bandit algorithm.
//
// +kubebuilder:validation:Enum=EpsilonGreedy;UCB1;ThompsonSampling;ConservativeBandit;SafeExploration
type AlgorithmType string

// The bandit algorithms.
const (
	EpsilonGreedy      AlgorithmType = "EpsilonGreedy"
	UCB1               AlgorithmType = "UCB1"
	ThompsonSampling   AlgorithmType = "ThompsonSampling"
	ConservativeBandit AlgorithmType = "ConservativeBandit"
	SafeExploration    AlgorithmType = "SafeExploration"
)

// Fraction is a decimal from 0 to 1 with at most two digits behind the point,
// as a string, like "0.8".
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=4
// +kubebuilder:validation:Pattern=`^(0(\.[0-9]{1,2})?|1(\.0{1,2})?)$`
type Fraction string

// Algorithm says how the next arm is chosen.
type Algorithm struct {
	// type is the algorithm: EpsilonGreedy, UCB1, ThompsonSampling,
	// ConservativeBandit or SafeExploration.
	// +required
	Type AlgorithmType `json:"type,omitempty"`
}

// BanditContext is a situation with statistics of its own.
type BanditContext struct {
	// name identifies the context within the policy; the database knows it as
	// cluster/namespace/policy/name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
}

// Baseline is the arm that changes nothing.
type Baseline struct {
	// arm names the arm, one of arms.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Arm string `json:"arm,omitempty"`

	// reward is the mean reward of the baseline, from 0 to 1, where it is
	// known; left out: unknown.
	// +optional
	Reward *Fraction `json:"reward,omitempty"`
}

// Safety bounds what may be lost by trying.
type Safety struct {
	// threshold is the mean reward, from 0 to 1, below which an arm counts as
	// unsafe. Default: "0.8".
	// +optional
	// +kubebuilder:default="0.8"
	Threshold Fraction `json:"threshold,omitempty"`

	// riskTolerance is the part of the baseline's reward, from 0 to 1, that
	// trying may cost. Default: "0.1".
	// +optional
	// +kubebuilder:default="0.1"
	RiskTolerance Fraction `json:"riskTolerance,omitempty"`
}

// Arm is one choice of the policy.
type Arm struct {
	// name identifies the arm within the policy (arm_id in the database).
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// description says what the arm does.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`
}

// BanditPolicySpec declares the arms and the safety promise.
type BanditPolicySpec struct {
	// algorithm says how the next arm is chosen.
	// +required
	Algorithm Algorithm `json:"algorithm,omitzero"`

	// contexts are situations with statistics of their own.
	// Default: one, named default.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:default={{name: default}}
	Contexts []BanditContext `json:"contexts,omitempty"`

	// baseline is the arm that changes nothing; required by ConservativeBandit
	// and SafeExploration.
	// +optional
	Baseline *Baseline `json:"baseline,omitempty"`

	// safety bounds what may be lost by trying.
	// +optional
	// +kubebuilder:default={}
	Safety Safety `json:"safety,omitempty,omitzero"`

	// arms are the choices.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Arms []Arm `json:"arms,omitempty"`
}

// BanditPolicyStatus says whether the policy is accepted and mirrored.
type BanditPolicyStatus struct {
	// conditions are Ready (accepted), Reconciling and Stalled as kstatus reads
	// them; DatabaseSynced says whether the database holds the policy's arms.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation that this status describes; -1 until
	// the operator has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// arms is how many arms the policy has.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Arms int32 `json:"arms,omitempty"`
}

// BanditPolicy chooses which improvement to try next, under a safety promise.
// Its arms are mirrored into the database (bandit_states).
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=banditpolicies,singular=banditpolicy,shortName=bp,categories=dgm,scope=Namespaced
// +kubebuilder:printcolumn:name="ALGORITHM",type=string,JSONPath=`.spec.algorithm.type`,description="How the next arm is chosen"
// +kubebuilder:printcolumn:name="ARMS",type=integer,JSONPath=`.status.arms`,description="Arms of the policy"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the policy is accepted"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`,description="Time since it was created"
// +kubebuilder:printcolumn:name="BASELINE",type=string,priority=1,JSONPath=`.spec.baseline.arm`,description="The arm that changes nothing"
// +kubebuilder:printcolumn:name="SYNCED",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="DatabaseSynced")].status`,description="Whether the database holds the policy's arms"
type BanditPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec declares the arms and the safety promise.
	// +required
	// +kubebuilder:validation:XValidation:rule="!(self.algorithm.type in ['ConservativeBandit', 'SafeExploration']) || has(self.baseline)",message="ConservativeBandit and SafeExploration promise safety against a baseline: name the arm that changes nothing in spec.baseline.arm"
	// +kubebuilder:validation:XValidation:rule="!has(self.baseline) || self.arms.exists(a, a.name == self.baseline.arm)",message="spec.baseline.arm must be the name of one of spec.arms"
	Spec BanditPolicySpec `json:"spec,omitzero"`

	// status says whether the policy is accepted and mirrored.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status BanditPolicyStatus `json:"status,omitempty,omitzero"`
}

// BanditPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type BanditPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BanditPolicy `json:"items"`
}
