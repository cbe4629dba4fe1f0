// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

// beginObserving is where the metrics after the change begin to be compared.
func (s *step) beginObserving() lifecycle.Standing {
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseObserving, Reason: dgmv1alpha1.ReasonObserving, Message: "the metrics after the change are compared with those before"}
}

// reconcileObserving compares the metrics after the change with those before.
func (s *step) reconcileObserving(ctx context.Context) (lifecycle.Standing, error) {
	s.claims.Hold(candidateOf(s.w))
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	return s.keep(ctx, plan, "changed "+plan.Summary(maxSummary)), nil
}
