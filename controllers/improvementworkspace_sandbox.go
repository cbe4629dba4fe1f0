// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/sandbox"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=create;delete;get;list
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=rolebindings,verbs=create
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterroles,resourceNames=dgm-sandbox,verbs=bind
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

const (
	// candidateTimeout bounds the wait for what was copied to serve, where
	// spec.rollout says nothing.
	candidateTimeout = 5 * time.Minute
	// settlePatience is how long one pass waits for a role that was just bound and
	// a quota that was just made to be in force.
	settlePatience = 3 * time.Second
	maxLeftOut     = 512
)

// reviewRightToRun asks whether the account may run Jobs in its own namespace, and
// open ways out of it if the sandbox has some: in a sandbox nothing runs for it that
// it could not run itself, and nothing reaches further (P8).
func (s *step) reviewRightToRun(ctx context.Context) error {
	if err := s.reviewRightToCreate(ctx, "batch", "Jobs", "so nothing runs for it in a sandbox"); err != nil {
		return err
	}
	if len(s.w.Spec.Sandbox.Egress) == 0 {
		return nil
	}
	return s.reviewRightToCreate(ctx, "networking.k8s.io", "NetworkPolicies", "so no sandbox of it reaches what spec.sandbox.egress names")
}

// reviewRightToCreate asks whether the account may create objects in its own namespace.
func (s *step) reviewRightToCreate(ctx context.Context, group, objects, consequence string) error {
	account, resource := s.w.Spec.ServiceAccountName, strings.ToLower(objects)
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   fmt.Sprintf("system:serviceaccount:%s:%s", s.w.Namespace, account),
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + s.w.Namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: s.w.Namespace, Verb: "create", Group: group, Resource: resource,
		},
	}}
	if err := s.Client.Create(ctx, review); err != nil {
		return fmt.Errorf("review the right of ServiceAccount %s to create %s: %w", account, resource, err)
	}
	if review.Status.Allowed {
		return nil
	}
	return &pause{reason: dgmv1alpha1.ReasonForbidden, recheck: recheckRights, message: fmt.Sprintf(
		"ServiceAccount %s may not create %s in namespace %s, %s: grant it by a Role there with the verb create on %s in the group %s",
		account, objects, s.w.Namespace, consequence, resource, group)}
}

// ensureSandbox makes the sandbox if it is not complete, and names what it waits
// for; empty when everything in it serves.
func (s *step) ensureSandbox(ctx context.Context, plan snapshot.Plan) (waitsFor string, err error) {
	record, err := s.sandboxRecord(ctx)
	if err != nil {
		return "", err
	}
	if record == nil {
		if waitsFor, err = s.makeSandbox(ctx, plan); err != nil || waitsFor != "" {
			return waitsFor, err
		}
		return "its pods", nil
	}
	if len(s.w.Status.Tests) > 0 {
		return "", nil
	}
	s.w.Status.Sandbox.LeftOut = leftOutSummary(record)
	return s.candidateWaits(ctx, record.CreationTimestamp.Time)
}

// sandboxRecord is what was made last, nil while the sandbox is not complete.
func (s *step) sandboxRecord(ctx context.Context) (*corev1.ConfigMap, error) {
	record := &corev1.ConfigMap{}
	err := s.Live.Get(ctx, client.ObjectKey{Namespace: s.w.Status.Sandbox.Namespace, Name: sandbox.RecordName}, record)
	switch {
	case err == nil:
		return record, nil
	case apierrors.IsNotFound(err) || isMissingRight(err):
		return nil, nil // the right comes with the sandbox
	default:
		return nil, fmt.Errorf("read sandbox %s: %w", s.w.Status.Sandbox.Namespace, err)
	}
}

// leftOut is what could not be copied.
func (s *step) leftOut(ctx context.Context) ([]string, error) {
	record, err := s.sandboxRecord(ctx)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, errors.New("the sandbox is gone")
	}
	if record.Data[sandbox.LeftOutKey] == "" {
		return nil, nil
	}
	return strings.Split(record.Data[sandbox.LeftOutKey], "\n"), nil
}

func leftOutSummary(record *corev1.ConfigMap) string {
	return cutTo(strings.ReplaceAll(record.Data[sandbox.LeftOutKey], "\n", "; "), maxLeftOut)
}

// makeSandbox makes what is missing of the sandbox, in order.
func (s *step) makeSandbox(ctx context.Context, plan snapshot.Plan) (waitsFor string, err error) {
	design, err := s.designSandbox(ctx, plan)
	if err != nil {
		return "", err
	}
	live, err := s.ensureNamespace(ctx, design.Namespace)
	if err != nil {
		return "", err
	}
	err = s.createAll(ctx, design.Fence)
	if err == nil {
		err = s.askForPods(ctx, design)
	}
	if err == nil {
		err = s.createAll(ctx, design.Copies)
	}
	if err == nil {
		err = s.createInSandbox(ctx, design.Record())
	}
	if settles(err) && s.Clock.Since(live.CreationTimestamp.Time) < s.candidateTimeout() {
		return "its rights and its quota to be in force", nil
	}
	if err != nil && (settles(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) {
		return "", fail(dgmv1alpha1.ReasonSandboxFailed, "sandbox %s cannot be made: %s; install config/rbac and config/admission as they are, or leave the object out of the sandbox", live.Name, refusal(err))
	}
	return "", err
}

// designSandbox reads what is to be copied, as the tenant's account.
func (s *step) designSandbox(ctx context.Context, plan snapshot.Plan) (*sandbox.Design, error) {
	home, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	operatorNamespace, operatorAccount, _ := strings.Cut(s.Operator, ":")
	source := sandbox.Source{
		Improvement: s.w, NamespaceLabels: home.Labels, NamespaceAnnotations: home.Annotations, Plan: plan,
		OperatorNamespace: operatorNamespace, OperatorAccount: operatorAccount,
	}
	var others []dgmv1alpha1.ObjectReference
	for _, ref := range s.w.Spec.Sandbox.Include {
		if !sandbox.Copies(ref.APIVersion, ref.Kind) {
			others = append(others, ref)
			continue
		}
		object, err := s.get(ctx, ref)
		if err != nil {
			return nil, err
		}
		source.Included = append(source.Included, object)
	}
	design, err := sandbox.New(source)
	if err != nil {
		return nil, fail(dgmv1alpha1.ReasonSnapshotDamaged, "the objects after the change: %v", err)
	}
	for _, ref := range others {
		design.Leave(ref.String() + ": objects of this kind are not copied")
	}
	return design, s.addPullSecrets(ctx, design)
}

// addPullSecrets adds the Secrets to pull images by that the templates name, or
// the ServiceAccounts as which the workloads and the tests run, as far as the
// account may get them.
func (s *step) addPullSecrets(ctx context.Context, design *sandbox.Design) error {
	for _, name := range design.PullSecrets() {
		if err := s.addPullSecret(ctx, design, name, false); err != nil {
			return err
		}
	}
	accounts := design.Accounts()
	if !slices.Contains(accounts, s.w.Spec.ServiceAccountName) {
		accounts = append(accounts, s.w.Spec.ServiceAccountName)
	}
	for _, name := range accounts {
		if err := s.addPullSecretsOf(ctx, design, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) addPullSecretsOf(ctx context.Context, design *sandbox.Design, name string) error {
	object, err := s.get(ctx, dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "ServiceAccount", Name: name})
	if isAnswer(err) {
		design.LeaveAccount(name)
		return nil
	}
	if err != nil {
		return err
	}
	var account corev1.ServiceAccount
	if err := typed(object, &account); err != nil {
		return err
	}
	for _, ref := range account.ImagePullSecrets {
		if err := s.addPullSecret(ctx, design, ref.Name, true); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) addPullSecret(ctx context.Context, design *sandbox.Design, name string, byDefault bool) error {
	object, err := s.get(ctx, dgmv1alpha1.ObjectReference{APIVersion: "v1", Kind: "Secret", Name: name})
	if isAnswer(err) {
		design.Leave("Secret/" + name + ": it is named to pull images by, but does not exist or the account may not get it")
		return nil
	}
	if err != nil {
		return err
	}
	var secret corev1.Secret
	if err := typed(object, &secret); err != nil {
		return err
	}
	design.AddPullSecret(&secret, byDefault)
	return nil
}

func typed(object *unstructured.Unstructured, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, into); err != nil {
		return fmt.Errorf("read %s/%s: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}

// ensureNamespace makes the sandbox's namespace, or finds that of this attempt.
func (s *step) ensureNamespace(ctx context.Context, wanted *corev1.Namespace) (*corev1.Namespace, error) {
	created := wanted.DeepCopy()
	err := s.Client.Create(ctx, created)
	if err == nil {
		return created, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make sandbox %s: %w", wanted.Name, err)
	}
	live := &corev1.Namespace{}
	if err := s.Live.Get(ctx, client.ObjectKeyFromObject(wanted), live); err != nil {
		return nil, fmt.Errorf("read sandbox %s: %w", wanted.Name, err)
	}
	if !s.owns(live) || live.Annotations[dgmv1alpha1.AnnotationImprovementID] != s.w.Status.ImprovementID {
		return nil, fail(dgmv1alpha1.ReasonSandboxFailed, "namespace %s is there and is not the sandbox of this improvement: delete it, then retry", live.Name)
	}
	if !live.DeletionTimestamp.IsZero() {
		return nil, fail(dgmv1alpha1.ReasonSandboxFailed, "somebody has deleted sandbox %s; to try again: %s", live.Name, s.retryCommand())
	}
	return live, nil
}

// sandboxGone tells why the operator has no right in the sandbox: since that is
// deleted, or else for a reason that passes, which is the error.
func (s *step) sandboxGone(ctx context.Context, refused error) (bool, error) {
	name := s.w.Status.Sandbox.Namespace
	namespace := &corev1.Namespace{}
	err := s.Live.Get(ctx, client.ObjectKey{Name: name}, namespace)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read sandbox %s: %w", name, err)
	}
	if namespace.DeletionTimestamp.IsZero() && s.owns(namespace) {
		return false, fmt.Errorf("the rights in sandbox %s are not in force: %w", name, refused)
	}
	return true, nil
}

// owns reports whether a namespace is a sandbox of this improvement.
func (s *step) owns(namespace *corev1.Namespace) bool {
	return namespace.Labels[dgmv1alpha1.LabelSandbox] == string(s.w.UID)
}

func (s *step) createAll(ctx context.Context, objects []sandbox.Object) error {
	for _, object := range objects {
		if err := s.createInSandbox(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// createInSandbox makes an object; one of that name was made before a crash.
func (s *step) createInSandbox(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	var refused error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, settlePatience, true, func(ctx context.Context) (bool, error) {
		refused = s.Client.Create(ctx, object, options...)
		if settles(refused) {
			return false, nil
		}
		if apierrors.IsAlreadyExists(refused) {
			refused = nil
		}
		return true, nil
	})
	if refused == nil && err != nil {
		return err
	}
	return refused
}

// settles reports whether a refusal passes by itself: the role was bound, or the
// quota made, a moment ago.
func settles(err error) bool {
	return isMissingRight(err) || (apierrors.IsForbidden(err) && strings.Contains(err.Error(), "status unknown for quota"))
}

// askForPods asks the API server, before anything runs, whether it would take the
// pods of the copies and of the tests: pod security and the quota are to agree.
func (s *step) askForPods(ctx context.Context, design *sandbox.Design) error {
	for i := range design.Pods {
		pod := &design.Pods[i]
		err := s.createInSandbox(ctx, sandbox.PodOf(design.Namespace.Name, &pod.Template), client.DryRunAll)
		if refusesForGood(err) {
			return fail(dgmv1alpha1.ReasonSandboxFailed, "pods of %s are refused in a sandbox: %s; change its pod template, or leave it out of spec.sandbox.include (a sandbox has the pod security of namespace %s, at least baseline)",
				pod.Owner, refusal(err), s.w.Namespace)
		}
		if err != nil {
			return err
		}
	}
	for i := range s.w.Spec.Tests {
		test := &s.w.Spec.Tests[i]
		job, err := sandbox.NewJob(design.Namespace.Name, test, 1)
		if err != nil {
			return testRefused(test.Name, err)
		}
		err = s.createInSandbox(ctx, job.DeepCopy(), client.DryRunAll)
		if err == nil {
			err = s.createInSandbox(ctx, sandbox.PodOf(design.Namespace.Name, &job.Spec.Template), client.DryRunAll)
		}
		if refusesForGood(err) {
			return testRefused(test.Name, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func refusesForGood(err error) bool {
	return (apierrors.IsForbidden(err) && !settles(err)) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

func (s *step) candidateTimeout() time.Duration {
	if s.w.Spec.Rollout == nil {
		return candidateTimeout
	}
	return s.w.Spec.Rollout.Timeout.Or(candidateTimeout)
}

// candidateWaits names what does not serve yet of what was copied, and fails when
// it will not.
func (s *step) candidateWaits(ctx context.Context, since time.Time) (string, error) {
	in := client.InNamespace(s.w.Status.Sandbox.Namespace)
	var deployments appsv1.DeploymentList
	var sets appsv1.StatefulSetList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&deployments, &sets, &pods} {
		if err := s.Live.List(ctx, list, in); err != nil {
			return "", fmt.Errorf("read sandbox %s: %w", s.w.Status.Sandbox.Namespace, err)
		}
	}
	waitsFor := sandbox.Waiting(deployments.Items, sets.Items)
	if waitsFor == "" {
		return "", nil
	}
	why, final := sandbox.WhyNotReady(deployments.Items, pods.Items, s.Clock.Now())
	if why != "" {
		waitsFor += " (" + why + ")"
	}
	if limit := s.candidateTimeout(); final || s.Clock.Since(since) > limit {
		return "", fail(dgmv1alpha1.ReasonSandboxFailed, "with the change, %s does not serve in sandbox %s within %s; nothing live was touched", waitsFor, s.w.Status.Sandbox.Namespace, dgmv1alpha1.FormatDuration(limit))
	}
	return waitsFor, nil
}
