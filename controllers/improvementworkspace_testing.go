// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/sandbox"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

const (
	// pollSandbox is how often what runs in a sandbox is looked at (docs/adr/0012).
	pollSandbox = 2 * time.Second
	// logPatience is how long the log of an ended test is asked for.
	logPatience = 15 * time.Second
	// maxLogRead bounds, in bytes, what is read of a log.
	maxLogRead = 1 << 20
)

// reconcileTesting tries the change in a sandbox: it makes one, waits until what
// was copied serves, and runs the tests there one after the other.
func (s *step) reconcileTesting(ctx context.Context) (lifecycle.Standing, error) {
	s.hold(s.w)
	plan, err := s.loadSnapshot(ctx)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if s.w.Status.Sandbox == nil {
		// In status before anything is made, so that it is removed whatever happens.
		s.w.Status.Sandbox = &dgmv1alpha1.SandboxStatus{Namespace: sandbox.NamespaceName(s.w.Status.ImprovementID)}
		return s.testing("sandbox %s is being made", s.w.Status.Sandbox.Namespace), nil
	}
	if running := s.runningTest(); running != nil {
		return s.followTest(ctx, running)
	}
	next := s.nextTest()
	if next == nil && len(s.w.Spec.Tests) > 0 {
		return s.proceed(ctx, plan)
	}
	held, err := lifecycle.EvaluateHold(s.w, s.surroundings(ctx))
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if held != nil {
		return lifecycle.Standing{}, &pause{reason: held.Reason, message: held.Message, recheck: held.Recheck}
	}
	return s.beginTest(ctx, plan, next)
}

// beginTest starts the next test once the sandbox serves; without one the
// sandbox has shown what it can.
func (s *step) beginTest(ctx context.Context, plan snapshot.Plan, next *dgmv1alpha1.Test) (lifecycle.Standing, error) {
	if err := s.reviewRightToRun(ctx); err != nil {
		return lifecycle.Standing{}, err
	}
	waitsFor, err := s.ensureSandbox(ctx, plan)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if waitsFor != "" {
		s.recheckWithin(pollSandbox)
		return s.testing("sandbox %s: waiting for %s", s.w.Status.Sandbox.Namespace, waitsFor), nil
	}
	if next == nil {
		if err := s.recordTest(ctx, "", nil); err != nil {
			return lifecycle.Standing{}, err
		}
		return s.proceed(ctx, plan)
	}
	return s.startTry(ctx, next, 1)
}

func (s *step) testing(format string, args ...any) lifecycle.Standing {
	return lifecycle.Standing{Phase: dgmv1alpha1.PhaseTesting, Reason: dgmv1alpha1.ReasonTesting, Message: fmt.Sprintf(format, args...)}
}

func (s *step) runningTest() *dgmv1alpha1.TestStatus {
	for i := range s.w.Status.Tests {
		if s.w.Status.Tests[i].Outcome == dgmv1alpha1.TestRunning {
			return &s.w.Status.Tests[i]
		}
	}
	return nil
}

// nextTest is the first test that was not started, nil when there is none.
func (s *step) nextTest() *dgmv1alpha1.Test {
	if started := len(s.w.Status.Tests); started < len(s.w.Spec.Tests) {
		return &s.w.Spec.Tests[started]
	}
	return nil
}

// startTry makes the Job of a try. It is noted in status after that: what status
// calls running was there, and is never started a second time.
func (s *step) startTry(ctx context.Context, test *dgmv1alpha1.Test, try int32) (lifecycle.Standing, error) {
	job, err := sandbox.NewJob(s.w.Status.Sandbox.Namespace, test, try)
	if err != nil {
		return lifecycle.Standing{}, testRefused(test.Name, err)
	}
	if err := s.createInSandbox(ctx, job); err != nil {
		return lifecycle.Standing{}, fmt.Errorf("start test %s: %w", test.Name, err)
	}
	status := dgmv1alpha1.TestStatus{Name: test.Name, Outcome: dgmv1alpha1.TestRunning, Tries: try, StartedAt: s.now()}
	if running := s.runningTest(); running != nil {
		*running = status
	} else {
		s.w.Status.Tests = append(s.w.Status.Tests, status)
	}
	s.recheckWithin(pollSandbox)
	return s.testRuns(test, try), nil
}

func (s *step) testRuns(test *dgmv1alpha1.Test, try int32) lifecycle.Standing {
	return s.testing("test %s runs in sandbox %s, try %d of %d", test.Name, s.w.Status.Sandbox.Namespace, try, sandbox.Tries(test))
}

// followTest looks at the try that runs. What an ended one came to is committed
// to the database before status says so, and so before anything of it goes.
func (s *step) followTest(ctx context.Context, status *dgmv1alpha1.TestStatus) (lifecycle.Standing, error) {
	test := s.testNamed(status.Name)
	if test == nil {
		return lifecycle.Standing{}, fail(dgmv1alpha1.ReasonTestsFailed, "test %s is not in spec.tests any more", status.Name)
	}
	if status.StartedAt == nil {
		if gone, err := s.endTry(ctx, test, status.Tries-1); err != nil {
			return lifecycle.Standing{}, err
		} else if !gone {
			return s.startTry(ctx, test, status.Tries)
		}
		status.StartedAt = s.now()
	}
	job, try, log, err := s.readTry(ctx, test, status)
	if err != nil {
		return lifecycle.Standing{}, err
	}
	if try.Outcome == dgmv1alpha1.TestRunning {
		s.recheckWithin(pollSandbox)
		return s.testRuns(test, status.Tries), nil
	}
	if try.Outcome != dgmv1alpha1.TestPassed && status.Tries < sandbox.Tries(test) && job != nil {
		if err := s.recordTest(ctx, test.Name, func(was sandbox.TestRecord) sandbox.TestRecord { return was.Tried(try, status.Tries, log) }); err != nil {
			return lifecycle.Standing{}, err
		}
		// In status before the Job goes: one that is gone is not tried again.
		status.Tries, status.StartedAt = status.Tries+1, nil
		return s.testing("test %s: try %d of %d follows", test.Name, status.Tries, sandbox.Tries(test)), nil
	}
	record := sandbox.NewTestRecord(try, status.Tries, log)
	if err := s.recordTest(ctx, test.Name, func(was sandbox.TestRecord) sandbox.TestRecord {
		record.Earlier = was.Earlier
		return record
	}); err != nil {
		return lifecycle.Standing{}, err
	}
	status.Outcome, status.ExitCode, status.EndedAt = record.Outcome, record.ExitCode, record.EndedAt
	if record.Outcome != dgmv1alpha1.TestPassed {
		return lifecycle.Standing{}, fail(dgmv1alpha1.ReasonTestsFailed, "%s", record.Summary(test.Name))
	}
	return s.testing("test %s passed", test.Name), nil
}

func (s *step) testNamed(name string) *dgmv1alpha1.Test {
	for i := range s.w.Spec.Tests {
		if s.w.Spec.Tests[i].Name == name {
			return &s.w.Spec.Tests[i]
		}
	}
	return nil
}

// readTry finds out what a try has come to, with its log when it has ended. The
// Job is nil when it is gone.
func (s *step) readTry(ctx context.Context, test *dgmv1alpha1.Test, status *dgmv1alpha1.TestStatus) (*batchv1.Job, sandbox.Try, string, error) {
	namespace := s.w.Status.Sandbox.Namespace
	job := &batchv1.Job{}
	err := s.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: sandbox.JobName(test.Name, status.Tries)}, job)
	gone := apierrors.IsNotFound(err)
	if isMissingRight(err) { // the rights go with the sandbox, or are not known yet
		gone, err = s.sandboxGone(ctx, err)
	}
	if gone {
		return nil, sandbox.Try{
			Outcome: dgmv1alpha1.TestError, Message: "its Job is gone: somebody has deleted it, or the sandbox",
			StartedAt: status.StartedAt, EndedAt: s.now(),
		}, "", nil
	}
	if err != nil {
		return nil, sandbox.Try{}, "", fmt.Errorf("read test %s: %w", test.Name, err)
	}
	var pods corev1.PodList
	if err := s.Live.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{batchv1.JobNameLabel: job.Name}); err != nil {
		return nil, sandbox.Try{}, "", fmt.Errorf("read the pod of test %s: %w", test.Name, err)
	}
	pod := sandbox.PodOfJob(job, pods.Items)
	try := sandbox.EvaluateTry(job, pod, sandbox.Timeout(test), s.Clock.Now())
	if try.Outcome == dgmv1alpha1.TestRunning || try.Container == "" {
		return job, try, "", nil
	}
	log, err := s.readLog(ctx, pod, try)
	return job, try, log, err
}

// readLog reads the end of a test's log. One that cannot be read for long is
// given up, and the log says so.
func (s *step) readLog(ctx context.Context, pod *corev1.Pod, try sandbox.Try) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, logPatience)
	defer cancel()
	stream, err := s.Pods.Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: try.Container, TailLines: new(int64(sandbox.LogLines)), LimitBytes: new(int64(maxLogRead)),
	}).Stream(ctx)
	var log []byte
	if err == nil {
		defer func() { _ = stream.Close() }()
		log, err = io.ReadAll(io.LimitReader(stream, maxLogRead))
	}
	passes := err != nil && !apierrors.IsBadRequest(err) && !apierrors.IsNotFound(err)
	if passes && try.EndedAt != nil && s.Clock.Since(try.EndedAt.Time) < logPatience {
		return "", fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
	}
	if err != nil {
		return fmt.Sprintf("(the log cannot be read: %v)", err), nil
	}
	return string(log), nil
}

// endTry has the Job of a try that is over, and whose pod may still run, removed.
// gone says that the sandbox is.
func (s *step) endTry(ctx context.Context, test *dgmv1alpha1.Test, try int32) (gone bool, err error) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.w.Status.Sandbox.Namespace, Name: sandbox.JobName(test.Name, try)}}
	err = s.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if isMissingRight(err) {
		return s.sandboxGone(ctx, err)
	}
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("end Job %s: %w", job.Name, err)
	}
	return false, nil
}

// recordTest commits how a test went, which follows from what was recorded of it
// before, beside the others; an empty name records the sandbox alone. The same
// again changes nothing.
func (s *step) recordTest(ctx context.Context, name string, record func(was sandbox.TestRecord) sandbox.TestRecord) error {
	all, err := s.recordedTests(ctx)
	if err != nil {
		return s.classifyRecord(err)
	}
	all.Sandbox.Namespace = s.w.Status.Sandbox.Namespace
	if leftOut, err := s.leftOut(ctx); err == nil {
		all.Sandbox.LeftOut = leftOut
	}
	if name != "" {
		all.Tests[name] = record(all.Tests[name])
	}
	row := s.row(lifecycle.CurrentStanding(s.w))
	row.TestResults = mustJSON(all)
	return s.classifyRecord(s.Store.MirrorImprovement(ctx, row))
}

// recordedTests is what the database has of the tests of this attempt.
func (s *step) recordedTests(ctx context.Context) (sandbox.Record, error) {
	record := sandbox.Record{}
	stored, err := s.Store.TestResults(ctx, parseID(s.w.Status.ImprovementID).UUID)
	if err == nil && len(stored) > 0 {
		err = json.Unmarshal(stored, &record)
	}
	if record.Tests == nil {
		record.Tests = map[string]sandbox.TestRecord{}
	}
	return record, err
}

func (s *step) classifyRecord(err error) error {
	var refused *pgstore.RowError
	switch {
	case errors.Is(err, pgstore.ErrUnavailable):
		return &pause{reason: dgmv1alpha1.ReasonDatabaseUnavailable, recheck: lifecycle.RecheckInterval, message: "the test results cannot be stored yet: " + s.databaseReason(err)}
	case errors.As(err, &refused):
		return fail(dgmv1alpha1.ReasonRowRefused, "the test results cannot be stored: %v", err)
	default:
		return err
	}
}

func testRefused(test string, err error) error {
	return fail(dgmv1alpha1.ReasonTestsFailed, "test %s cannot be run: %v; correct spec.tests[%s].jobTemplate", test, strings.TrimSuffix(refusal(err), "."), test)
}

// announceTests sends an event for each test that has ended, and for what the
// sandbox lacks, once.
func (s *step) announceTests(ctx context.Context) {
	for i := range s.w.Status.Tests {
		test := &s.w.Status.Tests[i]
		if test.Outcome == dgmv1alpha1.TestRunning || (i < len(s.before.Status.Tests) && s.before.Status.Tests[i].Outcome == test.Outcome) {
			continue
		}
		kind := corev1.EventTypeNormal
		if test.Outcome != dgmv1alpha1.TestPassed {
			kind = corev1.EventTypeWarning
		}
		s.Events.Write(ctx, s.w, kind, dgmv1alpha1.ReasonTestEnded, string(dgmv1alpha1.PhaseTesting), fmt.Sprintf("test %s: %s", test.Name, test.Outcome))
	}
	is, was := s.w.Status.Sandbox, s.before.Status.Sandbox
	if is != nil && is.LeftOut != "" && (was == nil || was.LeftOut != is.LeftOut) {
		s.Events.Write(ctx, s.w, corev1.EventTypeWarning, dgmv1alpha1.ReasonSandboxIncomplete, string(dgmv1alpha1.PhaseTesting),
			"not in the sandbox: "+cutTo(is.LeftOut, maxSummary*2))
	}
}
