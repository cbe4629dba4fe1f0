// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func specForTest() dgmv1alpha1.ImprovementWorkspaceSpec {
	return dgmv1alpha1.ImprovementWorkspaceSpec{
		Description: "cache for 60 s",
		Type:        dgmv1alpha1.ConfigurationUpdate,
		Priority:    dgmv1alpha1.PriorityMedium,
		Target: dgmv1alpha1.Target{
			Service: "checkout",
			Ref:     dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"},
		},
		ServiceAccountName: "improver",
		Changes: []dgmv1alpha1.Change{{
			Name: "cache", Type: dgmv1alpha1.PatchMerge, Patch: "data: {CACHE_TTL: \"60\"}",
			TargetRef: dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "checkout-config"},
		}},
		OnGitOpsOwned: dgmv1alpha1.GitOpsRefuse,
		Mode:          dgmv1alpha1.ModeApply,
	}
}

func TestMaterialDigest(t *testing.T) {
	base := specForTest()
	baseDigest := MaterialDigest(&base)
	for name, test := range map[string]struct {
		edit func(*dgmv1alpha1.ImprovementWorkspaceSpec)
		same bool
	}{
		"priority is not material":        {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Priority = dgmv1alpha1.PriorityHigh }, true},
		"suspend is not material":         {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Suspend = new(true) }, true},
		"a default left out is no change": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Mode, s.OnGitOpsOwned, s.Changes[0].Type = "", "", "" }, true},
		"description":                     {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Description += "!" }, false},
		"type":                            {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Type = dgmv1alpha1.ParameterTuning }, false},
		"service":                         {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Target.Service = "cart" }, false},
		"account":                         {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.ServiceAccountName = "other" }, false},
		"patch":                           {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Changes[0].Patch = "data: {}" }, false},
		"patch type":                      {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Changes[0].Type = dgmv1alpha1.PatchJSON }, false},
		"mode":                            {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Mode = dgmv1alpha1.ModeDryRun }, false},
		"onGitOpsOwned":                   {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.OnGitOpsOwned = dgmv1alpha1.GitOpsProceed }, false},
	} {
		t.Run(name, func(t *testing.T) {
			spec := specForTest()
			test.edit(&spec)
			if got := MaterialDigest(&spec) == baseDigest; got != test.same {
				t.Errorf("same digest: %t, want %t", got, test.same)
			}
		})
	}
}

// The digest and the id are stored for ever: a change of how they are computed
// would make every improvement in every cluster a new one.
func TestIdentityIsStable(t *testing.T) {
	spec := specForTest()
	const wantDigest = "ec832b04459d9785a5621683a09c068e3fe496c086d4dc9116324ce0f8b57337"
	digest := MaterialDigest(&spec)
	if digest != wantDigest {
		t.Errorf("material digest is %s, want %s", digest, wantDigest)
	}
	const wantID = "76558b7e-1deb-5e82-8047-fa796125b1a1"
	if id := ImprovementID("prod", "shop", "checkout-cache-ttl", wantDigest, 1).String(); id != wantID {
		t.Errorf("improvement id is %s, want %s", id, wantID)
	}
}

func TestImprovementIDTellsItsPartsApart(t *testing.T) {
	ids := map[string]bool{}
	for _, parts := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"a", "b"}} {
		ids[ImprovementID("c", parts[0], parts[1], "d", 1).String()] = true
		ids[ImprovementID("c", parts[0], parts[1], "d", 2).String()] = true
	}
	if len(ids) != 6 {
		t.Errorf("%d different ids of 6", len(ids))
	}
}

func TestBegin(t *testing.T) {
	for name, test := range map[string]struct {
		newest      *ArchivedAttempt
		want        Beginning
		wantAttempt int32
	}{
		"nothing in the archive":             {nil, BeginAttempt, 1},
		"same material completed":            {&ArchivedAttempt{Attempt: 2, MaterialDigest: "same", Status: ArchiveCompleted, HasSnapshot: true}, BeginAdopt, 2},
		"same material rolled back":          {&ArchivedAttempt{Attempt: 1, MaterialDigest: "same", Status: ArchiveRolledBack, HasSnapshot: true}, BeginAdopt, 1},
		"same material failed":               {&ArchivedAttempt{Attempt: 1, MaterialDigest: "same", Status: ArchiveFailed, OutcomeReason: "InvalidPatch"}, BeginAdopt, 1},
		"same material, deleted too early":   {&ArchivedAttempt{Attempt: 1, MaterialDigest: "same", Status: ArchiveFailed, OutcomeReason: OutcomeObjectDeleted}, BeginAttempt, 2},
		"other material":                     {&ArchivedAttempt{Attempt: 3, MaterialDigest: "other", Status: ArchiveCompleted}, BeginAttempt, 4},
		"pending, edited":                    {&ArchivedAttempt{Attempt: 1, UID: "own", MaterialDigest: "other", Status: ArchivePending}, BeginResume, 1},
		"pending, of an object before":       {&ArchivedAttempt{Attempt: 1, UID: "before", MaterialDigest: "same", Status: ArchivePending}, BeginResume, 1},
		"pending, of another before":         {&ArchivedAttempt{Attempt: 1, UID: "before", MaterialDigest: "other", Status: ArchivePending}, BeginAttempt, 2},
		"prepared: may have changed objects": {&ArchivedAttempt{Attempt: 1, MaterialDigest: "same", Status: ArchivePending, HasSnapshot: true}, BeginRollBack, 1},
		"running":                            {&ArchivedAttempt{Attempt: 5, MaterialDigest: "other", Status: ArchiveRunning, HasSnapshot: true}, BeginRollBack, 5},
	} {
		t.Run(name, func(t *testing.T) {
			beginning, attempt := Begin("own", "same", test.newest)
			if beginning != test.want || attempt != test.wantAttempt {
				t.Errorf("begins with %s of attempt %d, want %s of attempt %d", beginning, attempt, test.want, test.wantAttempt)
			}
		})
	}
}

func TestMaterialDigestOfATrial(t *testing.T) {
	trial := func() dgmv1alpha1.ImprovementWorkspaceSpec {
		spec := specForTest()
		spec.Sandbox = &dgmv1alpha1.Sandbox{Mode: dgmv1alpha1.SandboxNamespace}
		spec.Tests = []dgmv1alpha1.Test{{Name: "smoke", JobTemplate: runtime.RawExtension{Raw: []byte(`{"spec":{"a":1}}`)}}}
		spec.Metrics = []dgmv1alpha1.Metric{{Name: "p99", Type: "latency", Direction: dgmv1alpha1.Decrease, Prometheus: &dgmv1alpha1.PrometheusSource{Query: "up"}}}
		spec.Observe = &dgmv1alpha1.Observe{Window: "2m"}
		return spec
	}
	base := trial()
	for name, test := range map[string]struct {
		edit func(*dgmv1alpha1.ImprovementWorkspaceSpec)
		same bool
	}{
		"defaults written down": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.OnSuccess, s.Risk, s.Rollback = dgmv1alpha1.OnSuccessKeep, &dgmv1alpha1.Risk{Level: dgmv1alpha1.RiskMedium}, &dgmv1alpha1.Rollback{Policy: dgmv1alpha1.RollbackAutomatic}
			s.Rollout, s.ConstitutionRef = &dgmv1alpha1.Rollout{Timeout: "10m"}, &dgmv1alpha1.ConstitutionReference{Name: "default"}
			s.Tests[0].Timeout, s.Tests[0].Retries = "10m", new(int32(0))
			m := &s.Metrics[0]
			m.MaxRegression, m.MinSamples, m.Weight, m.OnNoData, m.OnInconclusive, m.Prometheus.Source = "0%", 5, "1", dgmv1alpha1.UndecidedHold, dgmv1alpha1.UndecidedHold, "default"
			s.Observe.Warmup, s.Observe.Interval, s.Observe.Deadline, s.Observe.WatchAfterCompletion = "1m", "10s", "10m", "0s"
			s.SafetyChecks = []dgmv1alpha1.SafetyCheck{}
		}, true},
		"approval, ttl": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Approval, s.TTLAfterFinished = &dgmv1alpha1.Approval{Policy: dgmv1alpha1.ApprovalNever}, "1h"
		}, true},
		"job":            {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Tests[0].JobTemplate.Raw = []byte(`{"spec":{"a":2}}`) }, false},
		"window":         {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Observe.Window = "3m" }, false},
		"max regression": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Metrics[0].MaxRegression = "5%" }, false},
		"a check": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.SafetyChecks = []dgmv1alpha1.SafetyCheck{{Name: "a", Expression: "true"}}
		}, false},
		"revert": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.OnSuccess = dgmv1alpha1.OnSuccessRevert }, false},
	} {
		t.Run(name, func(t *testing.T) {
			spec := trial()
			test.edit(&spec)
			if got := MaterialDigest(&spec) == MaterialDigest(&base); got != test.same {
				t.Errorf("same digest: %t, want %t", got, test.same)
			}
		})
	}
}
