// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/safety"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// checkDeclared ends an improvement that could not pass the gates whatever its
// plan is, before anything runs.
func (s *step) checkDeclared() error {
	if ref := s.w.Spec.Target.Ref; ref.APIVersion == "v1" && ref.Kind == "Secret" { // made before the CRD refused it
		return fail(dgmv1alpha1.ReasonChangeRefused, "a Secret cannot be the target: name the workload that uses it in spec.target.ref")
	}
	if err := safety.Compile(&s.w.Spec); err != nil {
		return fail(dgmv1alpha1.ReasonSafetyCheckFailed, "%v", err)
	}
	return nil
}

// reconcileValidating judges the plan before anything live is touched. What the
// gates say is committed before the phase goes on.
func (s *step) reconcileValidating(ctx context.Context) (lifecycle.Standing, error) {
	s.hold(s.w)
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if held, err := s.heldHere(ctx); held != nil || err != nil {
		return orNothing(held), err
	}
	if err := s.checkUntouched(ctx, plan); err != nil {
		return lifecycle.Standing{}, err
	}
	if err := s.passGates(ctx, plan); err != nil {
		return lifecycle.Standing{}, err
	}
	return s.proceed(ctx, plan)
}

// passGates judges a plan and records the verdict; its error is why the plan may
// not be applied.
func (s *step) passGates(ctx context.Context, plan snapshot.Plan) error {
	j, err := s.judge(ctx, plan, operationImprovement)
	if err != nil {
		return err
	}
	if err := s.recordJudgement(ctx, j); err != nil {
		return err
	}
	s.w.Status.Compliance = complianceOf(j)
	return j.refusal()
}

// awaitApproval is where a plan waits for a person.
func (s *step) awaitApproval(approval lifecycle.Approval) lifecycle.Standing {
	message := approval.Message
	if c := s.w.Status.Compliance; c != nil {
		message = "its compliance is " + c.ExactScore + " (" + c.Level + "); " + message
	}
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseAwaitingApproval, Reason: dgmv1alpha1.ReasonAwaitingApproval, Message: message}
}

// reconcileAwaitingApproval waits until a person has agreed to the plan, for as
// long as it takes; the annotation wakes it.
func (s *step) reconcileAwaitingApproval(ctx context.Context) (lifecycle.Standing, error) {
	s.hold(s.w)
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	lifecycle.ForgetEarlierApproval(s.w)
	approval := lifecycle.EvaluateApproval(s.w, plan.BeforeDigest())
	if !approval.Given {
		s.w.Status.Approval = nil
		return s.awaitApproval(approval), nil
	}
	if err := s.Approvals.Admitted(ctx, s.w.CreationTimestamp.Time); err != nil {
		return lifecycle.Standing{}, &pause{
			reason: dgmv1alpha1.ReasonAdmissionPolicyMissing, recheck: lifecycle.RecheckInterval,
			message: "an approval does not count while who may approve was not checked: " + err.Error(),
		}
	}
	if held, err := s.heldHere(ctx); held != nil || err != nil {
		return orNothing(held), err
	}
	if err := s.checkUntouched(ctx, plan); err != nil {
		return lifecycle.Standing{}, err
	}
	if err := s.passGates(ctx, plan); err != nil { // by what holds now
		return lifecycle.Standing{}, err
	}
	return s.approve(ctx, plan, approval.By)
}

// approve records who agreed, and goes on; the time limit starts anew.
func (s *step) approve(ctx context.Context, plan snapshot.Plan, by string) (lifecycle.Standing, error) {
	now := s.now()
	err := s.Store.ReviewAssessments(ctx, parseID(s.w.Status.ImprovementID).UUID, &now.Time)
	if errors.Is(err, pgstore.ErrUnavailable) {
		return lifecycle.Standing{}, &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "the approval by " + by + " is stored when the database is back: " + s.databaseReason(err),
		}
	}
	if err != nil {
		return lifecycle.Standing{}, err
	}
	s.w.Status.Approval = &dgmv1alpha1.ApprovalStatus{PlanDigest: plan.BeforeDigest(), ApprovedBy: cutTo(by, maxUser), ApprovedAt: now}
	s.w.Status.ActiveSince = now
	return s.proceed(ctx, plan)
}

// announceApproval tells who agreed to which plan, once.
func (s *step) announceApproval(ctx context.Context) {
	if agreed := s.w.Status.Approval; agreed != nil && s.before.Status.Approval == nil {
		s.Events.Write(ctx, s.w, corev1.EventTypeNormal, dgmv1alpha1.ReasonApproved, "Approve", fmt.Sprintf("%s has approved the plan %s", agreed.ApprovedBy, agreed.PlanDigest))
	}
}

// closeReview notes that nobody is asked any more, when an attempt has ended without
// an approval.
func (s *step) closeReview(ctx context.Context) error {
	if s.w.Status.Compliance == nil || s.w.Status.Approval != nil || !lifecycle.NeedsApproval(s.w) {
		return nil
	}
	return s.Store.ReviewAssessments(ctx, parseID(s.w.Status.ImprovementID).UUID, nil)
}

// maxUser is what of a user's name has room in status.
const maxUser = 253

// heldHere is where the improvement stays while something holds it; nil when
// nothing does.
func (s *step) heldHere(ctx context.Context) (*lifecycle.Standing, error) {
	held, err := lifecycle.EvaluateHold(s.w, s.surroundings(ctx))
	if held == nil || err != nil {
		return nil, err
	}
	s.recheck = held.Recheck
	return &lifecycle.Standing{Phase: s.w.Status.Phase, Reason: held.Reason, Message: held.Message}, nil
}

func orNothing(standing *lifecycle.Standing) lifecycle.Standing {
	if standing == nil {
		return lifecycle.Standing{}
	}
	return *standing
}

// checkUntouched makes sure that the plan that is judged, or was agreed to, is
// still what would be done.
func (s *step) checkUntouched(ctx context.Context, plan snapshot.Plan) error {
	for _, object := range plan.Objects {
		live, err := s.getLive(ctx, object.Ref)
		if err != nil {
			return gone(err)
		}
		if !object.Compare(live).AllBefore() {
			return fail(dgmv1alpha1.ReasonTargetChanged, "%s was changed by somebody else since the plan was made, so that the plan is void; to make another: %s", object.Ref, s.retryCommand())
		}
	}
	return nil
}

// frozen says by whom new steps are frozen. Before the first change the database
// itself is asked, not what is remembered of it.
func (s *step) frozen(ctx context.Context) (string, error) {
	namespace, err := s.namespace(ctx)
	if err != nil {
		return "", err
	}
	if namespace.Labels[dgmv1alpha1.LabelFreeze] == "true" {
		return lifecycle.FrozenNamespace(s.w.Namespace), nil
	}
	if s.w.Status.Phase == dgmv1alpha1.PhasePending && !s.Store.Settings().Freeze {
		return "", nil
	}
	by, err := s.Store.Frozen(ctx)
	if errors.Is(err, pgstore.ErrUnavailable) {
		return "", &pause{
			reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval,
			message: "whether improvements are frozen is in the database: " + s.databaseReason(err),
		}
	}
	if err != nil || by == "" {
		return "", err
	}
	return lifecycle.FrozenCluster(by), nil
}
