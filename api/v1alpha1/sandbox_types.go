// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// SandboxMode says where an improvement is tried.
//
// +kubebuilder:validation:Enum=Namespace;None
type SandboxMode string

// The modes of a sandbox.
const (
	// SandboxNamespace tries the change in a namespace of its own.
	SandboxNamespace SandboxMode = "Namespace"
	// SandboxNone makes no sandbox: there are no tests then.
	SandboxNone SandboxMode = "None"
)

// Sandbox is where the changed objects are tried before anything live is touched.
type Sandbox struct {
	// mode is Namespace (a namespace of its own, removed at the end) or None.
	// Default: Namespace.
	// +optional
	// +kubebuilder:default=Namespace
	Mode SandboxMode `json:"mode,omitempty"`

	// include are the objects to copy besides those of spec.changes, which are
	// always there, changed: ConfigMap, Service, Deployment, StatefulSet,
	// DaemonSet and PersistentVolumeClaim (empty). The account needs the right
	// to get them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Include []ObjectReference `json:"include,omitempty"`

	// egress are the places that the sandbox's pods may reach besides each other
	// and DNS. Default: none.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Egress []SandboxEgress `json:"egress,omitempty"` //nolint:kubeapilinter // one of two, by a rule
}

// SandboxEgress is a place that the pods of a sandbox may reach.
//
// +kubebuilder:validation:XValidation:rule="has(self.cidr) != has(self.podSelector)",message="name either a cidr or the pods of the improvement's namespace by podSelector"
type SandboxEgress struct {
	// cidr is a range of addresses, like "10.1.0.0/16".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="must be a range of addresses, like 10.1.0.0/16"
	CIDR string `json:"cidr,omitempty"`

	// podSelector chooses pods of the improvement's own namespace by their labels.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=8
	PodSelector map[string]LabelValue `json:"podSelector,omitempty"`

	// ports are the TCP ports there. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// Test is a Job that runs in the sandbox against the changed copy.
type Test struct {
	// name identifies the test within the improvement.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// timeout bounds each try of the test, from 1s to 24h. Default: 10m.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be from 1s to 24h"
	Timeout Duration `json:"timeout,omitempty"`

	// retries is how often a failed test is tried again. Default: 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=5
	Retries *int32 `json:"retries,omitempty"`

	// jobTemplate is the batch/v1 Job to run: metadata (labels, annotations) and
	// spec. It passes by the exit code 0. What it writes to its termination
	// message, if that is a JSON object, is stored as its results, and can be
	// read by safetyChecks (tests.NAME.results) and metrics (job). The account
	// needs the right to create Jobs in the improvement's namespace.
	// +required
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	// +kubebuilder:validation:Schemaless
	JobTemplate runtime.RawExtension `json:"jobTemplate,omitzero"`
}

// TestOutcome says how a test ended.
//
// +kubebuilder:validation:Enum=Running;Passed;Failed;TimedOut;Error
type TestOutcome string

// The outcomes of a test.
const (
	TestRunning TestOutcome = "Running"
	// TestPassed: the Job's pod ended with the exit code 0.
	TestPassed TestOutcome = "Passed"
	// TestFailed: it ended with another exit code.
	TestFailed TestOutcome = "Failed"
	// TestTimedOut: it did not end within its timeout.
	TestTimedOut TestOutcome = "TimedOut"
	// TestError: it could not be run: the Job was refused, the image could not be pulled.
	TestError TestOutcome = "Error"
)

// TestStatus is how a test went. Its log and results are in the database
// (improvement_workspaces.test_results).
type TestStatus struct {
	// name is that of the test.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Name string `json:"name,omitempty"`

	// outcome is Running, Passed, Failed, TimedOut or Error.
	// +required
	Outcome TestOutcome `json:"outcome,omitempty"`

	// tries is how often it was started.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Tries int32 `json:"tries,omitempty"`

	// exitCode is that of the last try, if it ended.
	// +optional
	ExitCode *int32 `json:"exitCode,omitempty"`

	// startedAt is when the last try was started.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// endedAt is when the last try ended.
	// +optional
	EndedAt *metav1.Time `json:"endedAt,omitempty"`
}

// SandboxStatus names the sandbox.
type SandboxStatus struct {
	// namespace is the sandbox's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`

	// removed says that the namespace is gone.
	// +optional
	Removed bool `json:"removed,omitempty"`

	// leftOut names what could not be copied, and why.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	LeftOut string `json:"leftOut,omitempty"`
}

// WorkloadReference names a workload in the namespace of the improvement.
type WorkloadReference struct {
	// kind is Deployment, StatefulSet or DaemonSet (apps/v1).
	// +required
	// +kubebuilder:validation:Enum=Deployment;StatefulSet;DaemonSet
	Kind string `json:"kind,omitempty"`

	// name is the name of the workload.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
}

// Rollout says how the change reaches the pods that serve.
type Rollout struct {
	// restart are the workloads to restart once the changes are made, and again
	// when they are put back. One that spec.changes changes as well is changed and
	// restarted by one write, after the other changes. The account needs get and
	// patch on them, and should have list on pods: what ails a new pod is then said,
	// and the changes are put back without waiting for the timeout.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=8
	Restart []WorkloadReference `json:"restart,omitempty"`

	// timeout bounds the wait for the target and the restarted workloads to be
	// healthy with pods newer than the change, from 1s to 24h. Default: 10m.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be from 1s to 24h"
	Timeout Duration `json:"timeout,omitempty"`
}
