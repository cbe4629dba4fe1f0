// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// newClient installs what belongs to the operator and returns a client of a
// user with the rights that the measurements need. An administrator would be
// served faster than the operator: past RBAC and without waiting in its queues.
func newClient(h *harness) (client.Client, error) {
	operatortest.Install(h)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{dgmv1alpha1.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	admin, err := client.New(kubetest.Start(h), client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	if err := grantRights(h.ctx, admin); err != nil {
		return nil, err
	}
	c, err := client.New(kubetest.UserConfig(h, user), client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	return c, waitForRights(h.ctx, c)
}

// user is who creates workspaces.
const user = "bench"

func grantRights(ctx context.Context, admin client.Client) error {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{dgmv1alpha1.GroupVersion.Group}, Resources: []string{"improvementworkspaces", "improvementworkspaces/status"}, Verbs: []string{"*"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}
	for _, object := range []client.Object{role, binding} {
		if err := admin.Create(ctx, object); client.IgnoreAlreadyExists(err) != nil {
			return err
		}
	}
	return nil
}

// waitForRights waits until the API server has taken up what was granted.
func waitForRights(ctx context.Context, c client.Client) error {
	for {
		err := c.Create(ctx, workspace(metav1.NamespaceDefault, 0), client.DryRunAll)
		if !apierrors.IsForbidden(err) {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// workspace is a suspended improvement of common size.
func workspace(namespace string, n int) *dgmv1alpha1.ImprovementWorkspace {
	return &dgmv1alpha1.ImprovementWorkspace{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("improvement-%05d", n)},
		Spec: dgmv1alpha1.ImprovementWorkspaceSpec{
			Description: "Serve the product list from cache for 60 s instead of 5 s",
			Type:        dgmv1alpha1.ConfigurationUpdate,
			Target: dgmv1alpha1.Target{
				Service: fmt.Sprintf("checkout-%05d", n),
				Ref:     dgmv1alpha1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "checkout"},
			},
			ServiceAccountName: "improver",
			Changes: []dgmv1alpha1.Change{{
				Name: "cache", Patch: `data: {CACHE_TTL: "60"}`,
				TargetRef: dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "checkout-config"},
			}},
			Suspend: new(true),
		},
	}
}

// each calls f for 0 to n-1 from some clients at a time.
func each(ctx context.Context, clients, n int, f func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range clients {
		group.Go(func() error {
			for i := range next {
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// patchStatus writes the status that the operator would, in the same way.
func patchStatus(ctx context.Context, c client.Client, w *dgmv1alpha1.ImprovementWorkspace) error {
	base := w.DeepCopy()
	digest := lifecycle.MaterialDigest(&w.Spec)
	w.Status.ImprovementID = lifecycle.ImprovementID(clusterName, w.Namespace, w.Name, digest, 1).String()
	w.Status.MaterialDigest = digest
	w.Status.Attempt = 1
	w.Status.StartedAt = w.CreationTimestamp.DeepCopy()
	lifecycle.SetStanding(w, lifecycle.Standing{
		Phase: dgmv1alpha1.PhasePending, Reason: dgmv1alpha1.ReasonSuspended,
		Message: "spec.suspend is true: no new step begins until it is false",
	})
	lifecycle.SetDatabaseSynced(&w.Status.Conditions, w.Generation, true, dgmv1alpha1.ReasonSynced, "the database holds this state")
	return c.Status().Patch(ctx, w, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
}

func isSynced(w *dgmv1alpha1.ImprovementWorkspace) bool {
	synced := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	return synced != nil && synced.Status == metav1.ConditionTrue && synced.ObservedGeneration == w.Generation
}
