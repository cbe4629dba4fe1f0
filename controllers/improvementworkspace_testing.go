// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=create;delete;get;list
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=rolebindings,verbs=create
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterroles,resourceNames=dgm-sandbox,verbs=bind
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// reconcileTesting tries the change in a sandbox.
func (s *step) reconcileTesting(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	return s.proceed(ctx, plan)
}
