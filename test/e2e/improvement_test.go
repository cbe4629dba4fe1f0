// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func TestP1P2_AppliedServedAndRolledBackExactly(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	before := checkoutConfig(t, ns)
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)

	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "60" {
		t.Errorf("CACHE_TTL is %q; want 60", ttl)
	}
	expectRows(t, w, "completed", "completed", "false")
	expectRow(t, []string{"true"}, `SELECT (length(bytes) > 0)::text FROM dgm.rollback_snapshots WHERE improvement_id = $1`, w.Status.ImprovementID)
	revisions := &appsv1.ControllerRevisionList{}
	if err := stack.client.List(t.Context(), revisions, client.InNamespace(ns), client.HasLabels{dgmv1alpha1.LabelImprovement}); err != nil || len(revisions.Items) != 1 {
		t.Errorf("%d snapshots in the cluster, %v; want 1", len(revisions.Items), err)
	}
	expectServed(t, ns, "60")

	order(t, w, dgmv1alpha1.AnnotationRollback, "prices were stale")
	expectPhase(t, w, dgmv1alpha1.PhaseRolledBack)
	after := checkoutConfig(t, ns)
	if !maps.Equal(after.Data, before.Data) || !maps.Equal(after.Labels, before.Labels) || !maps.Equal(after.Annotations, before.Annotations) {
		t.Errorf("after the rollback: %v; want %v", after, before)
	}
	for _, entry := range after.ManagedFields {
		if entry.Manager == dgmv1alpha1.FieldManager {
			t.Errorf("the operator still owns fields: %s", entry.FieldsV1)
		}
	}
	expectRows(t, w, "failed", "rolled_back", "false")
	expectServed(t, ns, "5")
}

// expectServed waits until the running service follows the setting, without a restart.
func expectServed(t *testing.T, namespace, ttl string) {
	t.Helper()
	eventually(t, "the running service", func(ctx context.Context) error {
		pods := &corev1.PodList{}
		if err := stack.client.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/name": "checkout"}); err != nil {
			return err
		}
		if len(pods.Items) != 1 || pods.Items[0].Status.PodIP == "" {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		settings, err := httpGet(ctx, "http://"+pods.Items[0].Status.PodIP+":8080/settings")
		if err != nil {
			return err
		}
		if want := `{"cacheTTLSeconds":` + ttl + "}"; strings.TrimSpace(settings) != want {
			return fmt.Errorf("it says %s; want %s", settings, want)
		}
		return nil
	})
}

func TestP8_NamespaceMustOptIn(t *testing.T) {
	t.Parallel()
	ns := newShop(t, optIn(""))
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	expectStatus(t, w, func() error {
		c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling)
		if w.Status.Phase != dgmv1alpha1.PhasePending || c == nil || c.Reason != dgmv1alpha1.ReasonNamespaceNotOptedIn || !strings.Contains(c.Message, "dgm-tenant") {
			return fmt.Errorf("phase %s; want Pending that names the RoleBinding to create", w.Status.Phase)
		}
		return nil
	})
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "5" {
		t.Errorf("CACHE_TTL is %q in a namespace that did not opt in", ttl)
	}
	create(t, optIn(ns))
	order(t, w, "example.com/nudge", "look again now") // or at the operator's interval
	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
}

func TestP8_ActsWithTheAccountsRightsOnly(t *testing.T) {
	t.Parallel()
	ns := newShop(t, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "improver"}})
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	expectStatus(t, w, func() error {
		c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling)
		if w.Status.Phase != dgmv1alpha1.PhasePending || c == nil || c.Reason != dgmv1alpha1.ReasonForbidden {
			return fmt.Errorf("phase %s; want Pending, Forbidden", w.Status.Phase)
		}
		return nil
	})
	if ttl := checkoutConfig(t, ns).Data["CACHE_TTL"]; ttl != "5" {
		t.Errorf("CACHE_TTL is %q, changed without the right to", ttl)
	}
}

func TestP9_SpecIsTheUsers(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	if w.Generation != 1 {
		t.Errorf("generation is %d; the spec was written %d times after it was made", w.Generation, w.Generation-1)
	}
	for _, entry := range w.ManagedFields {
		if entry.Subresource == "" && strings.Contains(entry.FieldsV1.GetRawString(), `"f:spec"`) && entry.Manager == "manager" {
			t.Errorf("%s owns fields of the spec: %s", entry.Manager, entry.FieldsV1.GetRawString())
		}
	}
}

func TestCreatorIsRecorded(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	w := cacheImprovement(ns, "cache", "60")
	create(t, w)
	if user := w.Annotations[dgmv1alpha1.AnnotationCreatedBy]; user != "admin" {
		t.Errorf("created by %q; want admin, stamped at admission", user)
	}
	expectPhase(t, w, dgmv1alpha1.PhaseCompleted)
	expectRow(t, []string{"admin"}, `SELECT created_by FROM dgm.dgm_archive WHERE improvement_id = $1`, w.Status.ImprovementID)
}

func TestDryRunShowsEverythingAndTouchesNothing(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	before := checkoutConfig(t, ns)
	w := sample(t, "config/samples/improvementworkspace.yaml", ns)
	w.Spec.Mode = dgmv1alpha1.ModeDryRun
	create(t, w)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReady)
	for _, part := range []string{`data.CACHE_TTL: "5" → "60"`, "constitution score 1 (exemplary)", "ttl-bounded: Holds", "answers-from-cache: NotEvaluated"} {
		if c.Reason != dgmv1alpha1.ReasonDryRun || !strings.Contains(c.Message+w.Status.Diff, part) {
			t.Errorf("%s: %s, which does not say %q", c.Reason, c.Message, part)
		}
	}
	expectRow(t, []string{"improvement_dry_run", "completed", "60"}, `SELECT l.operation_type, w.validation_results #>> '{wouldWrite,dgm_archive,status}', substring(w.validation_results #>> '{wouldWrite,improvement_workspaces,rollback_plan,diff}' FROM 'CACHE_TTL: "5" → "(60)"')
		FROM dgm.improvement_workspaces w JOIN dgm.constitutional_compliance_logs l USING (improvement_id) WHERE improvement_id = $1`, w.Status.ImprovementID)
	if after := checkoutConfig(t, ns); after.ResourceVersion != before.ResourceVersion || w.Status.Sandbox != nil {
		t.Errorf("a dry run wrote the ConfigMap, or made a sandbox: %v, %+v", after.Data, w.Status.Sandbox)
	}
}

func TestPolicyIsMirrored(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	policy := &dgmv1alpha1.BanditPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "tuning", Namespace: ns},
		Spec: dgmv1alpha1.BanditPolicySpec{
			Algorithm: dgmv1alpha1.Algorithm{Type: dgmv1alpha1.ConservativeBandit},
			Contexts:  []dgmv1alpha1.BanditContext{{Name: "default"}},
			Baseline:  &dgmv1alpha1.Baseline{Arm: "keep", Reward: new(dgmv1alpha1.Fraction("0.5"))},
			Safety:    dgmv1alpha1.Safety{Threshold: "0.8", RiskTolerance: "0.1"},
			Arms:      []dgmv1alpha1.Arm{{Name: "keep", Description: "change nothing"}, {Name: "cache-60s", Description: "longer"}},
		},
	}
	create(t, policy)
	arms := `SELECT string_agg(arm_id, ',' ORDER BY arm_id) FROM dgm.bandit_states WHERE namespace = $1 AND deleted_at IS NULL`
	expectRow(t, []string{"cache-60s,keep"}, arms, ns)
	if err := stack.client.Delete(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	expectRow(t, []string{""}, arms, ns)
}
