// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/acgs/dgm-operator/config/admission"
)

// admissionMemory is how long an answer of the guard holds.
const admissionMemory = 10 * time.Second

// AdmissionGuard tells whether the policies that guard what an improvement may do
// are in force in the cluster as they are shipped (P7, P8).
type AdmissionGuard struct {
	live    client.Reader
	clock   clock.PassiveClock
	shipped []shippedPolicy

	mu      sync.Mutex
	memory  time.Duration // how long an answer holds
	asked   time.Time
	since   time.Time
	verdict error
}

// shippedPolicy is a policy with its binding as they are installed.
type shippedPolicy struct {
	policy  admissionv1.ValidatingAdmissionPolicy
	binding admissionv1.ValidatingAdmissionPolicyBinding
	// judges: the policy judges improvements themselves, so that one which is older
	// was not judged.
	judges bool
}

// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingadmissionpolicies;validatingadmissionpolicybindings,resourceNames=dgm-improvement-serviceaccount;dgm-improvement-approval;dgm-sandbox,verbs=get

// shippedManifest is a policy with its binding, in YAML.
type shippedManifest struct {
	content []byte
	judges  bool
}

// NewAdmissionGuard makes a guard, that reads the cluster through live, of the
// policies without which nothing is applied.
func NewAdmissionGuard(live client.Reader, c clock.PassiveClock) (*AdmissionGuard, error) {
	return newGuard(live, c, admissionMemory, shippedManifest{admission.ServiceAccountPolicy, true}, shippedManifest{admission.SandboxPolicy, false})
}

// NewApprovalGuard makes one of the policy without which no approval counts. It
// looks each time: approvals are rare.
func NewApprovalGuard(live client.Reader, c clock.PassiveClock) (*AdmissionGuard, error) {
	return newGuard(live, c, 0, shippedManifest{admission.ApprovalPolicy, true})
}

func newGuard(live client.Reader, c clock.PassiveClock, memory time.Duration, manifests ...shippedManifest) (*AdmissionGuard, error) {
	g := &AdmissionGuard{live: live, clock: c, memory: memory}
	for _, manifest := range manifests {
		p := shippedPolicy{judges: manifest.judges}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest.content), 4096)
		if err := errors.Join(decoder.Decode(&p.policy), decoder.Decode(&p.binding)); err != nil {
			return nil, fmt.Errorf("read the shipped admission policies: %w", err)
		}
		g.shipped = append(g.shipped, p)
	}
	return g, nil
}

// Admitted is nil when an object of that age was judged by the policies and their
// bindings as they are shipped, else says what is missing or differs. A question
// that cannot be answered counts as no. The time of creation is the one thing of
// an object that nobody can forge.
func (g *AdmissionGuard) Admitted(ctx context.Context, created time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.clock.Now(); g.asked.IsZero() || now.Sub(g.asked) >= g.memory {
		g.since, g.verdict = g.check(ctx)
		g.asked = now
	}
	if g.verdict != nil {
		return fmt.Errorf("%w; install config/admission", g.verdict)
	}
	if created.Before(g.since) {
		return fmt.Errorf("this improvement is older than the admission policy in force (since %s); delete it and create it again", g.since.UTC().Format(time.RFC3339))
	}
	return nil
}

// check reads the policies and their bindings; since is when those that judge
// improvements were there.
func (g *AdmissionGuard) check(ctx context.Context) (since time.Time, err error) {
	for _, shipped := range g.shipped {
		created, err := shipped.check(ctx, g.live)
		if err != nil {
			return since, err
		}
		if shipped.judges && created.After(since) {
			since = created
		}
	}
	return since, nil
}

func (p *shippedPolicy) check(ctx context.Context, live client.Reader) (since time.Time, err error) {
	var policy admissionv1.ValidatingAdmissionPolicy
	if err := live.Get(ctx, client.ObjectKeyFromObject(&p.policy), &policy); err != nil {
		return since, unreadable("ValidatingAdmissionPolicy", p.policy.Name, err)
	}
	var binding admissionv1.ValidatingAdmissionPolicyBinding
	if err := live.Get(ctx, client.ObjectKeyFromObject(&p.binding), &binding); err != nil {
		return since, unreadable("ValidatingAdmissionPolicyBinding", p.binding.Name, err)
	}
	since = policy.CreationTimestamp.Time
	if binding.CreationTimestamp.After(since) {
		since = binding.CreationTimestamp.Time
	}
	return since, errors.Join(evaluatePolicy(&p.policy.Spec, &policy.Spec), evaluateBinding(&p.binding.Spec, &binding.Spec))
}

func unreadable(kind, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %s is not installed", kind, name)
	}
	return fmt.Errorf("%s %s cannot be read", kind, name)
}

// evaluatePolicy compares what decides in a policy with the shipped one.
func evaluatePolicy(shipped, live *admissionv1.ValidatingAdmissionPolicySpec) error {
	var differs []string
	note := func(field string, same bool) {
		if !same {
			differs = append(differs, field)
		}
	}
	note("failurePolicy", live.FailurePolicy != nil && *live.FailurePolicy == admissionv1.Fail)
	note("paramKind", live.ParamKind == nil)
	note("matchConditions", len(live.MatchConditions) == 0)
	note("matchConstraints", live.MatchConstraints != nil && sameConstraints(shipped.MatchConstraints, live.MatchConstraints))
	note("variables", equality.Semantic.DeepEqual(shipped.Variables, live.Variables))
	note("validations", slices.EqualFunc(shipped.Validations, live.Validations, func(a, b admissionv1.Validation) bool {
		return a.Expression == b.Expression
	}))
	if len(differs) > 0 {
		return fmt.Errorf("the ValidatingAdmissionPolicy in the cluster differs from the shipped one in %s", strings.Join(differs, ", "))
	}
	return nil
}

func sameConstraints(shipped, live *admissionv1.MatchResources) bool {
	return len(live.ExcludeResourceRules) == 0 && selectsAll(live) &&
		slices.EqualFunc(shipped.ResourceRules, live.ResourceRules, func(a, b admissionv1.NamedRuleWithOperations) bool {
			return len(b.ResourceNames) == 0 && slices.Equal(a.Operations, b.Operations) && slices.Equal(a.APIGroups, b.APIGroups) &&
				slices.Equal(a.APIVersions, b.APIVersions) && slices.Equal(a.Resources, b.Resources) &&
				(b.Scope == nil || *b.Scope == admissionv1.AllScopes)
		})
}

func selectsAll(match *admissionv1.MatchResources) bool {
	return (match.NamespaceSelector == nil || len(match.NamespaceSelector.MatchLabels)+len(match.NamespaceSelector.MatchExpressions) == 0) &&
		(match.ObjectSelector == nil || len(match.ObjectSelector.MatchLabels)+len(match.ObjectSelector.MatchExpressions) == 0)
}

// evaluateBinding compares what decides in a binding with the shipped one.
func evaluateBinding(shipped, live *admissionv1.ValidatingAdmissionPolicyBindingSpec) error {
	inForce := live.PolicyName == shipped.PolicyName && live.ParamRef == nil && live.MatchResources == nil &&
		slices.Contains(live.ValidationActions, admissionv1.Deny)
	if !inForce {
		return errors.New("the ValidatingAdmissionPolicyBinding in the cluster does not deny everywhere, as the shipped one does")
	}
	return nil
}
