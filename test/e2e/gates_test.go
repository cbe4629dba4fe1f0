// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestP7_WhatAGateRefusesIsNotApplied(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	before := checkoutConfig(t, ns)
	for name, refused := range map[string]struct {
		edit    func(*dgmv1alpha1.ImprovementWorkspaceSpec)
		reason  string
		message string
	}{
		"a-safety-check": {func(spec *dgmv1alpha1.ImprovementWorkspaceSpec) {
			spec.SafetyChecks = []dgmv1alpha1.SafetyCheck{{Name: "short", Expression: "int(after.cache.data.CACHE_TTL) <= 30", Message: "half a minute at most"}}
		}, dgmv1alpha1.ReasonSafetyCheckFailed, "half a minute at most"},
		"the-risk-limit": {func(spec *dgmv1alpha1.ImprovementWorkspaceSpec) {
			spec.Risk = &dgmv1alpha1.Risk{Level: dgmv1alpha1.RiskCritical}
		}, dgmv1alpha1.ReasonRiskTooHigh, "risk_limit"},
		"the-constitution": {func(spec *dgmv1alpha1.ImprovementWorkspaceSpec) {
			spec.Changes[0].Patch = `{"data": {"DB_PASSWORD": "hunter2hunter2"}}`
		}, dgmv1alpha1.ReasonConstitutionViolated, "privacy (critical)"},
	} {
		w := cacheImprovement(ns, name, "60")
		w.Spec.Target.Service = name
		refused.edit(&w.Spec)
		create(t, w)
		expectFinished(t, w, dgmv1alpha1.PhaseFailed)
		if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionStalled); c.Reason != refused.reason || !strings.Contains(c.Message, refused.message) {
			t.Errorf("%s: %s: %s", name, c.Reason, c.Message)
		}
	}
	if after := checkoutConfig(t, ns); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the ConfigMap was written: %v", after.Data)
	}
}

func TestAFrozenNamespaceWaits(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	administrator().types(t, "kubectl label namespace "+ns+" dgm.acgs.io/freeze=true")
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	expectStatus(t, w, func() error {
		c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling)
		if w.Status.Phase != dgmv1alpha1.PhasePending || c == nil || c.Reason != dgmv1alpha1.ReasonFrozen {
			return fmt.Errorf("phase %s; want Pending, Frozen", w.Status.Phase)
		}
		return nil
	})
	administrator().types(t, "kubectl label namespace "+ns+" dgm.acgs.io/freeze-")
	order(t, w, "example.com/nudge", "look again now") // or at the operator's interval
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
}
