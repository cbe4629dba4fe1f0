// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// reconcileValidating judges the plan before anything live is touched.
func (s *step) reconcileValidating(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	return s.proceed(ctx, plan)
}

// reconcileAwaitingApproval waits until a person has agreed to the plan.
func (s *step) reconcileAwaitingApproval(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	return s.proceed(ctx, plan)
}
