// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ValueType names the type of a system configuration, as the database does.
//
// +kubebuilder:validation:Enum=string;integer;float;boolean;json
type ValueType string

// SecretKeyReference names one key of a Secret in the operator's namespace.
type SecretKeyReference struct {
	// name is the Secret. Without further rights the operator may read
	// dgm-operator-settings alone.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// key is the key within the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key,omitempty"`
}

// SystemConfigurationSpec is the setting that is asked for.
type SystemConfigurationSpec struct {
	// key is the setting, as the database names it, like
	// max_concurrent_improvements. It cannot be changed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-z][a-z0-9_.]*$`
	Key string `json:"key,omitempty"`

	// value is the value as text, whatever its type: "10", "0.8", "true".
	// Either value or secretKeyRef is given.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	Value *string `json:"value,omitempty"`

	// secretKeyRef names the value of a sensitive setting. It is stored
	// encrypted, and shown nowhere. A change of the Secret is taken up within a
	// minute.
	// +optional
	SecretKeyRef *SecretKeyReference `json:"secretKeyRef,omitempty"`

	// valueType is string, integer, float, boolean or json. Left out: the type
	// that the setting has, string for a new one. A built-in setting's cannot be
	// changed.
	// +optional
	ValueType ValueType `json:"valueType,omitempty"`

	// description says what the setting is for. A built-in setting keeps its own
	// in the database.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`

	// category groups settings. A built-in setting keeps its own in the database.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Category string `json:"category,omitempty"`
}

// SystemConfigurationStatus says whether the setting is in force.
type SystemConfigurationStatus struct {
	// conditions are Ready (the value is in force), Reconciling and Stalled as
	// kstatus reads them; DatabaseSynced says whether the database holds the
	// value; SchemaIntact whether its schema is the one that the operator made.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation that this status describes; -1 until
	// the operator has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// keyId is the encryption key that a sensitive value is stored under.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	KeyID string `json:"keyId,omitempty"`

	// lastAppliedTime is when the value was last written into the database.
	// +optional
	LastAppliedTime metav1.Time `json:"lastAppliedTime,omitempty,omitzero"`
}

// SystemConfiguration is one setting of the services that share the database
// (system_configurations). While it exists its value is the one in force: an edit
// in the database is put back. When it is deleted, a built-in setting returns to
// its default.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=systemconfigurations,singular=systemconfiguration,shortName=sysconf,categories=dgm,scope=Cluster
// +kubebuilder:printcolumn:name="KEY",type=string,JSONPath=`.spec.key`,description="The setting"
// +kubebuilder:printcolumn:name="VALUE",type=string,JSONPath=`.spec.value`,description="Its value; empty for a sensitive one"
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the value is in force"
// +kubebuilder:printcolumn:name="SYNCED",type=string,JSONPath=`.status.conditions[?(@.type=="DatabaseSynced")].status`,description="Whether the database holds the value"
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`,description="Time since it was created"
// +kubebuilder:printcolumn:name="REASON",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == self.spec.key.replace('_', '-')",message="metadata.name must be spec.key with - for each _, so that a setting has one object"
type SystemConfiguration struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is the setting that is asked for.
	// +required
	// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.secretKeyRef)",message="give either spec.value or spec.secretKeyRef"
	// +kubebuilder:validation:XValidation:rule="self.key == oldSelf.key",message="spec.key cannot be changed: make another object"
	Spec SystemConfigurationSpec `json:"spec,omitzero"`

	// status says whether the setting is in force.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status SystemConfigurationStatus `json:"status,omitempty,omitzero"`
}

// SystemConfigurationList is a list of settings.
//
// +kubebuilder:object:root=true
type SystemConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SystemConfiguration `json:"items"`
}
