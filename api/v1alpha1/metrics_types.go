// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Direction says which way a metric becomes better.
//
// +kubebuilder:validation:Enum=Decrease;Increase
type Direction string

// The directions.
const (
	Decrease Direction = "Decrease"
	Increase Direction = "Increase"
)

// UndecidedPolicy says what follows at the deadline when a metric gave no verdict.
//
// +kubebuilder:validation:Enum=Hold;Rollback;Accept
type UndecidedPolicy string

// The policies for what stays undecided.
const (
	// UndecidedHold keeps observing until a person decides.
	UndecidedHold UndecidedPolicy = "Hold"
	// UndecidedRollback puts the state before back.
	UndecidedRollback UndecidedPolicy = "Rollback"
	// UndecidedAccept goes on as if the metric had passed.
	UndecidedAccept UndecidedPolicy = "Accept"
)

// Verdict is what the comparison of a metric, or of all, came to.
//
// +kubebuilder:validation:Enum=Pass;Fail;Inconclusive;NoData
type Verdict string

// The verdicts.
const (
	// VerdictPass: not worse than maxRegression allows.
	VerdictPass Verdict = "Pass"
	// VerdictFail: worse than maxRegression allows.
	VerdictFail Verdict = "Fail"
	// VerdictInconclusive: the samples do not tell.
	VerdictInconclusive Verdict = "Inconclusive"
	// VerdictNoData: too few samples, or the source did not answer.
	VerdictNoData Verdict = "NoData"
)

// Metric is compared before and after the change.
//
// +kubebuilder:validation:XValidation:rule="[has(self.prometheus), has(self.database), has(self.job)].filter(x, x).size() == 1",message="name one source: prometheus, database or job"
type Metric struct {
	// name identifies the metric within the improvement (metric_name in the database).
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`

	// type is metric_type in the database.
	// +required
	// +kubebuilder:validation:Enum=latency;throughput;error_rate;resource_usage;constitutional_compliance;improvement_success_rate;bandit_reward;system_health
	Type string `json:"type,omitempty"`

	// unit is that of the values, for people: ms, 1/s, %.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Unit string `json:"unit,omitempty"`

	// direction says which way is better: Decrease or Increase.
	// +required
	Direction Direction `json:"direction,omitempty"`

	// maxRegression is how much worse, in percent of the baseline, it may become.
	// Default: 0%.
	// +optional
	// +kubebuilder:default="0%"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^[0-9]{1,6}(\.[0-9]{1,6})?%$`
	MaxRegression string `json:"maxRegression,omitempty"`

	// minSamples is how many samples each window needs for a verdict. Default: 5.
	// +optional
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=10000
	MinSamples int32 `json:"minSamples,omitempty"`

	// weight is the metric's part in the gain and the reward, relative to the
	// others: a decimal from 0 to 1000. Default: "1".
	// +optional
	// +kubebuilder:default="1"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^(1000(\.0+)?|[0-9]{1,3}(\.[0-9]{1,6})?)$`
	Weight string `json:"weight,omitempty"`

	// prometheus asks a Prometheus server of the platform.
	// +optional
	Prometheus *PrometheusSource `json:"prometheus,omitempty"`

	// database reads what services insert into dgm.performance_metrics.
	// +optional
	Database *DatabaseSource `json:"database,omitempty"`

	// job reads the results of a test of this improvement.
	// +optional
	Job *JobSource `json:"job,omitempty"`

	// onNoData says what follows at the deadline when there is no data: Hold,
	// Rollback or Accept. Default: Hold.
	// +optional
	// +kubebuilder:default=Hold
	OnNoData UndecidedPolicy `json:"onNoData,omitempty"`

	// onInconclusive says what follows at the deadline when the samples do not
	// tell: Hold, Rollback or Accept. Default: Hold.
	// +optional
	// +kubebuilder:default=Hold
	OnInconclusive UndecidedPolicy `json:"onInconclusive,omitempty"`
}

// PrometheusSource is a range query.
type PrometheusSource struct {
	// source names a server of the operator's configuration. Default: default.
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Source string `json:"source,omitempty"`

	// query is a PromQL expression whose answer is one series.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Query string `json:"query,omitempty"`
}

// DatabaseSource are the samples of the target's service in dgm.performance_metrics.
type DatabaseSource struct {
	// metricName is their metric_name. Default: the metric's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	MetricName string `json:"metricName,omitempty"`

	// tags are tags that the samples must have.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Tags map[string]TagValue `json:"tags,omitempty"`
}

// TagValue is the value of a sample's tag.
//
// +kubebuilder:validation:MaxLength=255
type TagValue string

// JobSource are values in the results of a test: an object
// {"metrics": {"KEY": {"baseline": [numbers], "candidate": [numbers]}}}.
type JobSource struct {
	// test names a test of spec.tests.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Test string `json:"test,omitempty"`

	// key is that of the values below metrics. Default: the metric's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Key string `json:"key,omitempty"`
}

// Observe says how long the change is watched.
type Observe struct {
	// window is the length of the baseline's and of the candidate's window, from
	// 1s to 24h. Default: 5m.
	// +optional
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="must be from 1s to 24h"
	Window Duration `json:"window,omitempty"`

	// warmup is how long after the rollout the candidate's window begins, up to
	// 24h. Default: 1m.
	// +optional
	// +kubebuilder:default="1m"
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('24h')",message="must be at most 24h"
	Warmup Duration `json:"warmup,omitempty"`

	// interval is the time between two samples of a range query, from 1s to 1h.
	// Default: 10s.
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="must be from 1s to 1h"
	Interval Duration `json:"interval,omitempty"`

	// deadline is how long after the candidate's window what is NoData or
	// Inconclusive is held, up to 168h, before onNoData or onInconclusive say
	// what follows. Default: 10m.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('168h')",message="must be at most 168h"
	Deadline Duration `json:"deadline,omitempty"`

	// watchAfterCompletion is how long a kept change is still watched, up to
	// 168h: a window in which a metric fails rolls it back. Default: 0s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('168h')",message="must be at most 168h"
	WatchAfterCompletion Duration `json:"watchAfterCompletion,omitempty"`
}

// MetricStatus is what the comparison of a metric came to. Its samples and the
// whole comparison are in the database.
type MetricStatus struct {
	// name is that of the metric.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// verdict is Pass, Fail, Inconclusive or NoData.
	// +optional
	Verdict Verdict `json:"verdict,omitempty"`

	// baseline is the median before the change.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Baseline string `json:"baseline,omitempty"`

	// candidate is the median after it.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Candidate string `json:"candidate,omitempty"`

	// gain is how much better the candidate is, in percent of the baseline;
	// negative when it is worse.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Gain string `json:"gain,omitempty"`

	// interval is where the true change of the value lies, with its confidence,
	// like "95%: +1.0% … +8.2%".
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Interval string `json:"interval,omitempty"`

	// baselineSamples is how many samples the baseline has.
	// +optional
	// +kubebuilder:validation:Minimum=0
	BaselineSamples int32 `json:"baselineSamples,omitempty"`

	// candidateSamples is how many samples the candidate has.
	// +optional
	// +kubebuilder:validation:Minimum=0
	CandidateSamples int32 `json:"candidateSamples,omitempty"`
}

// ObservationStatus says what is watched and until when.
type ObservationStatus struct {
	// baselineEnd is when the baseline's window ended: just before Applying.
	// +optional
	BaselineEnd *metav1.MicroTime `json:"baselineEnd,omitempty"`

	// windowStart is when the candidate's window begins.
	// +optional
	WindowStart *metav1.MicroTime `json:"windowStart,omitempty"`

	// windowEnd is when the candidate's window that was compared last ended.
	// +optional
	WindowEnd *metav1.MicroTime `json:"windowEnd,omitempty"`

	// looks is how many windows before that one had data, without being decided:
	// each asks for more confidence.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Looks int32 `json:"looks,omitempty"`

	// watchUntil is when the watch after completion ends; missing when there is none any more.
	// +optional
	WatchUntil *metav1.Time `json:"watchUntil,omitempty"`

	// watched is when the window that the watch compared last ended.
	// +optional
	Watched *metav1.MicroTime `json:"watched,omitempty"`
}

// KeptStatus says who has kept a change by a command; when is in keptAt.
type KeptStatus struct {
	// keptBy is the user who kept it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	KeptBy string `json:"keptBy,omitempty"`

	// reason is why, in their words.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Reason string `json:"reason,omitempty"`

	// verdict is the one in spite of which it was kept.
	// +optional
	Verdict Verdict `json:"verdict,omitempty"`
}
