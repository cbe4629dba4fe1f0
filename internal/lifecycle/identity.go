// SPDX-License-Identifier: Apache-2.0

// Package lifecycle decides what happens next to an improvement. It is pure:
// everything that it looks at is handed in, and nothing is changed by it.
package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/uuid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// improvementNamespace is the UUID namespace (RFC 9562, version 5) of improvement ids.
var improvementNamespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://dgm.acgs.io/improvements"))

// ImprovementID is the id of one attempt: UUIDv5 over the cluster's name, the
// object's namespace and name, the material digest and the attempt.
func ImprovementID(cluster, namespace, name, materialDigest string, attempt int32) uuid.UUID {
	parts := []string{cluster, namespace, name, materialDigest, strconv.Itoa(int(attempt))}
	return uuid.NewSHA1(improvementNamespace, []byte(strings.Join(parts, "\x00")))
}

// material are the fields of version 1 that make an improvement another one
// when they change. Values at their default are left out, so that a default
// written down is no change.
type material struct {
	Version            int                           `json:"version"`
	Description        string                        `json:"description"`
	Type               dgmv1alpha1.ImprovementType   `json:"type"`
	Target             dgmv1alpha1.Target            `json:"target"`
	ServiceAccountName string                        `json:"serviceAccountName"`
	Changes            []dgmv1alpha1.Change          `json:"changes"`
	OnGitOpsOwned      dgmv1alpha1.GitOpsOwnedPolicy `json:"onGitOpsOwned,omitempty"`
	Mode               dgmv1alpha1.Mode              `json:"mode,omitempty"`
	Trial              *trialMaterial                `json:"trial,omitempty"`
}

// trialMaterial is what was added to the material of version 1; it is left out
// as a whole when nothing of it is set.
type trialMaterial struct {
	Rollout      *dgmv1alpha1.Rollout               `json:"rollout,omitempty"`
	Sandbox      *dgmv1alpha1.Sandbox               `json:"sandbox,omitempty"`
	Tests        []dgmv1alpha1.Test                 `json:"tests,omitempty"`
	SafetyChecks []dgmv1alpha1.SafetyCheck          `json:"safetyChecks,omitempty"`
	Risk         *dgmv1alpha1.Risk                  `json:"risk,omitempty"`
	Metrics      []dgmv1alpha1.Metric               `json:"metrics,omitempty"`
	Observe      *dgmv1alpha1.Observe               `json:"observe,omitempty"`
	Rollback     *dgmv1alpha1.Rollback              `json:"rollback,omitempty"`
	OnSuccess    dgmv1alpha1.OnSuccess              `json:"onSuccess,omitempty"`
	Constitution *dgmv1alpha1.ConstitutionReference `json:"constitutionRef,omitempty"`
	Parent       *dgmv1alpha1.ParentReference       `json:"parentRef,omitempty"`
	Policy       *dgmv1alpha1.PolicyReference       `json:"policyRef,omitempty"`
	Source       *dgmv1alpha1.Source                `json:"source,omitempty"`
}

// trialOf are the fields of a spec that differ from their defaults.
func trialOf(spec *dgmv1alpha1.ImprovementWorkspaceSpec) *trialMaterial {
	s := spec.DeepCopy()
	t := &trialMaterial{
		Tests: orNil(s.Tests), SafetyChecks: orNil(s.SafetyChecks), Metrics: orNil(s.Metrics),
		Parent: s.ParentRef, Policy: s.PolicyRef, Source: s.Source,
	}
	if s.OnSuccess != dgmv1alpha1.OnSuccessKeep {
		t.OnSuccess = s.OnSuccess
	}
	t.Rollout = unless(s.Rollout, func(r *dgmv1alpha1.Rollout) { dropDefault(&r.Timeout, "10m") })
	if s.Sandbox != nil && s.Sandbox.Mode != dgmv1alpha1.SandboxNone {
		s.Sandbox.Mode = dgmv1alpha1.SandboxNamespace
		t.Sandbox = s.Sandbox
	}
	t.Risk = unless(s.Risk, func(r *dgmv1alpha1.Risk) { dropDefault(&r.Level, dgmv1alpha1.RiskMedium) })
	t.Observe = unless(s.Observe, func(o *dgmv1alpha1.Observe) {
		dropDefault(&o.Window, "5m")
		dropDefault(&o.Warmup, "1m")
		dropDefault(&o.Interval, "10s")
		dropDefault(&o.Deadline, "10m")
		dropDefault(&o.WatchAfterCompletion, "0s")
	})
	t.Rollback = unless(s.Rollback, func(r *dgmv1alpha1.Rollback) { dropDefault(&r.Policy, dgmv1alpha1.RollbackAutomatic) })
	t.Constitution = unless(s.ConstitutionRef, func(c *dgmv1alpha1.ConstitutionReference) { dropDefault(&c.Name, "default") })
	for i := range t.Tests {
		dropDefault(&t.Tests[i].Timeout, "10m")
		if r := t.Tests[i].Retries; r != nil && *r == 0 {
			t.Tests[i].Retries = nil
		}
	}
	for i := range t.Metrics {
		dropMetricDefaults(&t.Metrics[i])
	}
	if reflect.ValueOf(*t).IsZero() {
		return nil
	}
	return t
}

func dropMetricDefaults(m *dgmv1alpha1.Metric) {
	dropDefault(&m.MaxRegression, "0%")
	dropDefault(&m.MinSamples, 5)
	dropDefault(&m.Weight, "1")
	dropDefault(&m.OnNoData, dgmv1alpha1.UndecidedHold)
	dropDefault(&m.OnInconclusive, dgmv1alpha1.UndecidedHold)
	if m.Prometheus != nil {
		dropDefault(&m.Prometheus.Source, "default")
	}
}

// orNil makes no difference between an empty list and none.
func orNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func dropDefault[T comparable](field *T, unsaid T) {
	var zero T
	if *field == unsaid {
		*field = zero
	}
}

// unless is the section without its defaults; nil when nothing is left of it.
func unless[T any](section *T, drop func(*T)) *T {
	if section == nil {
		return nil
	}
	drop(section)
	if reflect.ValueOf(*section).IsZero() {
		return nil
	}
	return section
}

// MaterialDigest is the SHA-256, in hex, over the material fields of a spec.
func MaterialDigest(spec *dgmv1alpha1.ImprovementWorkspaceSpec) string {
	m := material{
		Version:            1,
		Description:        spec.Description,
		Type:               spec.Type,
		Target:             spec.Target,
		ServiceAccountName: spec.ServiceAccountName,
		Changes:            make([]dgmv1alpha1.Change, len(spec.Changes)),
	}
	for i, c := range spec.Changes {
		if c.Type == dgmv1alpha1.PatchMerge {
			c.Type = ""
		}
		m.Changes[i] = c
	}
	if spec.OnGitOpsOwned != dgmv1alpha1.GitOpsRefuse {
		m.OnGitOpsOwned = spec.OnGitOpsOwned
	}
	if spec.Mode != dgmv1alpha1.ModeApply {
		m.Mode = spec.Mode
	}
	m.Trial = trialOf(spec)
	b, err := json.Marshal(m)
	if err != nil {
		panic("a struct of strings cannot fail to marshal: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Beginning says how an object without status begins.
type Beginning string

const (
	// BeginAttempt starts a new attempt.
	BeginAttempt Beginning = "Attempt"
	// BeginAdopt takes over the outcome of the newest attempt in the archive.
	BeginAdopt Beginning = "Adopt"
	// BeginResume goes on with an attempt that has changed nothing yet.
	BeginResume Beginning = "Resume"
	// BeginRollBack undoes an attempt that may have changed live objects before
	// its status was lost.
	BeginRollBack Beginning = "RollBack"
)

// ArchivedAttempt is the newest attempt of a name in the archive.
type ArchivedAttempt struct {
	ImprovementID  uuid.UUID
	Attempt        int32
	MaterialDigest string
	// Status is dgm_archive.status.
	Status string
	// OutcomeReason is dgm_archive.outcome_reason.
	OutcomeReason string
	// UID is that of the object that the attempt belonged to.
	UID string
	// HasSnapshot: live objects may have been changed.
	HasSnapshot bool
}

// Begin decides how the object uid without status begins, given the newest
// attempt of its name in the archive (nil: none), and which attempt that is.
//
// Only an outcome of the same material is adopted (a rebuilt cluster, a GitOps
// re-sync). An attempt that ended because its object was deleted before it
// came to anything is no outcome, and is not gone on with by other material.
func Begin(uid, materialDigest string, newest *ArchivedAttempt) (Beginning, int32) {
	switch {
	case newest == nil:
		return BeginAttempt, 1
	case !archiveTerminal(newest.Status) && newest.HasSnapshot:
		return BeginRollBack, newest.Attempt
	case !archiveTerminal(newest.Status) && (newest.UID == uid || newest.MaterialDigest == materialDigest):
		return BeginResume, newest.Attempt
	case archiveTerminal(newest.Status) && newest.MaterialDigest == materialDigest && newest.OutcomeReason != OutcomeObjectDeleted:
		return BeginAdopt, newest.Attempt
	default:
		return BeginAttempt, newest.Attempt + 1
	}
}
