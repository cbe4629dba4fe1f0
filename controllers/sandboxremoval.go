// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/sandbox"
)

// mayHaveSandbox reports whether a sandbox of this name is still needed.
func mayHaveSandbox(w *dgmv1alpha1.ImprovementWorkspace, name string) bool {
	return w.Status.Phase == dgmv1alpha1.PhaseTesting && w.Status.Sandbox != nil && w.Status.Sandbox.Namespace == name && w.DeletionTimestamp.IsZero()
}

// removeSandbox deletes the sandbox of an improvement that is past Testing, and
// notes when it is gone. What else is to be done does not wait for it, but an
// ended improvement is not let go before it is deleted.
func (s *step) removeSandbox(ctx context.Context) error {
	status := s.w.Status.Sandbox
	if status == nil || status.Removed || s.w.Status.Phase == dgmv1alpha1.PhaseTesting {
		return nil
	}
	for i := range s.w.Status.Tests {
		if test := &s.w.Status.Tests[i]; test.Outcome == dgmv1alpha1.TestRunning {
			test.Outcome, test.EndedAt = dgmv1alpha1.TestError, s.now()
			s.recordEnded(ctx, *test)
		}
	}
	var namespace corev1.Namespace
	err := s.Live.Get(ctx, client.ObjectKey{Name: status.Namespace}, &namespace)
	if apierrors.IsNotFound(err) || (err == nil && !s.owns(&namespace)) {
		status.Removed = true
		return nil
	}
	recheck := pollSandbox
	defer func() { s.wakeAt(s.Clock.Now().Add(recheck)) }()
	if err == nil && !namespace.DeletionTimestamp.IsZero() {
		// What keeps a namespace from ending takes a person, or its time.
		recheck = max(pollSandbox, min(s.Clock.Since(namespace.DeletionTimestamp.Time)/2, lifecycle.FallbackInterval))
		return nil
	}
	if err == nil {
		err = deleteSandbox(ctx, s.Client, &namespace)
	}
	if err != nil && !s.w.Status.Phase.IsTerminal() {
		log.FromContext(ctx).Error(err, "Cannot remove a sandbox; trying again", "sandbox", status.Namespace)
		return nil
	}
	return err
}

// recordEnded stores that a test was ended with its sandbox. Nothing waits for
// it: a resync writes from status what the database does not have.
func (s *step) recordEnded(ctx context.Context, test dgmv1alpha1.TestStatus) {
	err := s.recordTest(ctx, test.Name, func(was sandbox.TestRecord) sandbox.TestRecord {
		return sandbox.TestRecord{
			Outcome: test.Outcome, Tries: test.Tries, StartedAt: test.StartedAt, EndedAt: test.EndedAt, Earlier: was.Earlier,
			Message: "it was ended with its sandbox",
		}
	})
	if err != nil {
		log.FromContext(ctx).Info("The end of a test is stored at the next resync", "test", test.Name, "reason", err.Error())
	}
}

func deleteSandbox(ctx context.Context, c client.Client, namespace *corev1.Namespace) error {
	if !strings.HasPrefix(namespace.Name, sandbox.NamePrefix) {
		return nil // somebody has put the label on a namespace of theirs
	}
	err := c.Delete(ctx, namespace, client.Preconditions{UID: &namespace.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove sandbox %s: %w", namespace.Name, err)
	}
	return nil
}

// SweepSandboxes deletes every sandbox whose improvement is gone or past Testing:
// a crash, or a hand, has parted them.
func (r *ImprovementWorkspaceReconciler) SweepSandboxes(ctx context.Context) error {
	var sandboxes corev1.NamespaceList
	if err := r.Live.List(ctx, &sandboxes, client.HasLabels{dgmv1alpha1.LabelSandbox}); err != nil {
		return fmt.Errorf("list the sandboxes: %w", err)
	}
	var failed []error
	for i := range sandboxes.Items {
		if !sandboxes.Items[i].DeletionTimestamp.IsZero() {
			continue
		}
		failed = append(failed, r.sweepSandbox(ctx, &sandboxes.Items[i]))
	}
	return errors.Join(failed...)
}

// sweepSandbox reads the improvement past the cache, after the sandbox: it began
// Testing before that was made.
func (r *ImprovementWorkspaceReconciler) sweepSandbox(ctx context.Context, sandbox *corev1.Namespace) error {
	namespace, name, _ := strings.Cut(sandbox.Annotations[dgmv1alpha1.AnnotationSandboxOf], "/")
	var found dgmv1alpha1.ImprovementWorkspaceList
	if err := r.Live.List(ctx, &found, client.InNamespace(namespace), client.MatchingFields{"metadata.name": name}); err != nil {
		return fmt.Errorf("find the improvement of sandbox %s: %w", sandbox.Name, err)
	}
	for i := range found.Items {
		if w := &found.Items[i]; string(w.UID) == sandbox.Labels[dgmv1alpha1.LabelSandbox] && mayHaveSandbox(w, sandbox.Name) {
			return nil
		}
	}
	log.FromContext(ctx).Info("Removing a sandbox that nobody needs", "sandbox", sandbox.Name, "improvement", name, "namespace", namespace)
	return deleteSandbox(ctx, r.Client, sandbox)
}
