// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const (
	// LogLines is how many of the last lines of a test's log are kept.
	LogLines = 50
	// maxLog bounds, in bytes, the log that is kept of a test.
	maxLog = 8 << 10
	// MaxResults bounds, in bytes, the results that a test writes to its
	// termination message; the kubelet keeps no more of it.
	MaxResults = 4 << 10
	// maxEarlierLog bounds, in bytes, the log that is kept of each try but the last.
	maxEarlierLog = 1 << 10
	// maxLine bounds, in bytes, the line that is shown of a log.
	maxLine = 256
	// settleTime is how long a pod may fail to start by what often passes.
	settleTime = 20 * time.Second
)

// Try is what a try of a test has come to.
type Try struct {
	Outcome  dgmv1alpha1.TestOutcome
	ExitCode *int32
	// Results is what the test wrote, if that is a JSON object.
	Results json.RawMessage
	// Message says what happened: what the test wrote, if that is no JSON object,
	// or why it could not be run.
	Message            string
	StartedAt, EndedAt *metav1.Time
	// Container has the log; empty when none has started.
	Container string
}

// PodOfJob is the newest of the pods that a Job has made. Labels say nothing:
// those of a pod that is tried could be the same.
func PodOfJob(job *batchv1.Job, pods []corev1.Pod) *corev1.Pod {
	var newest *corev1.Pod
	for i := range pods {
		if owner := metav1.GetControllerOf(&pods[i]); owner == nil || owner.UID != job.UID {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&pods[i].CreationTimestamp) {
			newest = &pods[i]
		}
	}
	return newest
}

// EvaluateTry judges a try of a test by its Job and its pod, which may be nil.
func EvaluateTry(job *batchv1.Job, pod *corev1.Pod, timeout time.Duration, now time.Time) Try {
	try := Try{Outcome: dgmv1alpha1.TestRunning, StartedAt: new(job.CreationTimestamp)}
	if pod == nil {
		return withoutPod(try, job, timeout, now)
	}
	try.Container = pod.Spec.Containers[0].Name
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		try.Outcome, try.ExitCode = dgmv1alpha1.TestPassed, new(int32(0))
		try.fill(pod, pod.Spec.Containers[0].Name)
		return try
	case corev1.PodFailed:
		return failedPod(try, pod)
	default:
	}
	if why := cannotStart(pod, now); why != "" {
		return try.ended(dgmv1alpha1.TestError, why, now)
	}
	if now.Sub(job.CreationTimestamp.Time) > timeout {
		return try.ended(dgmv1alpha1.TestTimedOut, fmt.Sprintf("it did not end within %s", dgmv1alpha1.FormatDuration(timeout)), now)
	}
	return try
}

func (t Try) ended(outcome dgmv1alpha1.TestOutcome, message string, at time.Time) Try {
	t.Outcome, t.Message, t.EndedAt = outcome, message, new(metav1.NewTime(at.UTC().Truncate(time.Second)))
	return t
}

func withoutPod(try Try, job *batchv1.Job, timeout time.Duration, now time.Time) Try {
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue || (c.Type != batchv1.JobFailed && c.Type != batchv1.JobComplete) {
			continue
		}
		outcome := dgmv1alpha1.TestError
		if c.Reason == batchv1.JobReasonDeadlineExceeded {
			outcome = dgmv1alpha1.TestTimedOut
		}
		return try.ended(outcome, "its pod is gone, and what it wrote with it: "+cmp.Or(c.Message, c.Reason, string(c.Type)), c.LastTransitionTime.Time)
	}
	if now.Sub(job.CreationTimestamp.Time) > timeout {
		return try.ended(dgmv1alpha1.TestTimedOut, fmt.Sprintf("no pod was started within %s", dgmv1alpha1.FormatDuration(timeout)), now)
	}
	return try
}

// failedPod finds the container that failed.
func failedPod(try Try, pod *corev1.Pod) Try {
	try.Outcome = dgmv1alpha1.TestFailed
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if ended := status.State.Terminated; ended != nil && ended.ExitCode != 0 {
			try.ExitCode, try.Container = new(ended.ExitCode), status.Name
			try.fill(pod, status.Name)
			if ended.Reason != "" && ended.Reason != "Error" && try.Message == "" {
				try.Message = ended.Reason
			}
			return try
		}
	}
	try.Outcome, try.Container = dgmv1alpha1.TestError, ""
	try.Message = cmp.Or(strings.TrimPrefix(pod.Status.Reason+": "+pod.Status.Message, ": "), "its pod failed")
	try.EndedAt = podEnd(pod)
	return try
}

// fill reads what a container wrote to its termination message, and when it ended.
func (t *Try) fill(pod *corev1.Pod, container string) {
	t.EndedAt = podEnd(pod)
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if status.Name != container || status.State.Terminated == nil {
			continue
		}
		ended := status.State.Terminated
		if !ended.FinishedAt.IsZero() {
			t.EndedAt = new(ended.FinishedAt)
		}
		if t.Results = parseResults(ended.Message); t.Results == nil {
			t.Message = clean(ended.Message, MaxResults)
		}
	}
}

// podEnd is when the last container of a pod ended, else when the pod was made.
func podEnd(pod *corev1.Pod) *metav1.Time {
	end := pod.CreationTimestamp
	for _, status := range pod.Status.ContainerStatuses {
		if ended := status.State.Terminated; ended != nil && end.Before(&ended.FinishedAt) {
			end = ended.FinishedAt
		}
	}
	return &end
}

// parseResults reads a JSON object in a form that every database takes: numbers
// are those of float64, strings are plain. It is nil for anything else.
func parseResults(message string) json.RawMessage {
	if len(message) > MaxResults {
		return nil
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(message), &object); err != nil || object == nil {
		return nil
	}
	results, err := json.Marshal(plainJSON(object))
	if err != nil {
		return nil
	}
	return results
}

func plainJSON(value any) any {
	switch typed := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(typed))
		for key, item := range typed {
			out[plain(key)] = plainJSON(item)
		}
		return out
	case []any:
		for i := range typed {
			typed[i] = plainJSON(typed[i])
		}
		return typed
	case string:
		return plain(typed)
	default:
		return value
	}
}

// plain replaces what a database cannot hold (NUL, bytes that are not UTF-8), and
// the mark by which it would be escaped: what is read back is what was stored.
func plain(text string) string {
	return strings.NewReplacer("\x00", "\uFFFD", "\u241B", "\uFFFD").Replace(strings.ToValidUTF8(text, "\uFFFD"))
}

// Log is the end of a log as it is kept: the last lines, whole characters.
func Log(text string) string {
	text = strings.TrimRight(plain(text), "\n")
	lines := strings.Split(text, "\n")
	return end(strings.Join(lines[max(0, len(lines)-LogLines):], "\n"), maxLog)
}

// end is at most the last n bytes of a text, in whole characters.
func end(text string, n int) string {
	excess := max(0, len(text)-n)
	for excess > 0 && excess < len(text) && text[excess]&0xC0 == 0x80 {
		excess++
	}
	return text[excess:]
}

// lastLine is the last line of a log that says something.
func lastLine(log string) string {
	for _, line := range slices.Backward(strings.Split(log, "\n")) {
		if line = strings.TrimSpace(line); line != "" {
			return clean(line, maxLine)
		}
	}
	return ""
}

// clean makes a text of a pod fit for a message: what would steer a terminal is
// taken out.
func clean(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, plain(text))
	return cut(strings.TrimSpace(text), n)
}

// TestRecord is how a test went, as the database keeps it.
type TestRecord struct {
	Outcome   dgmv1alpha1.TestOutcome `json:"outcome"`
	ExitCode  *int32                  `json:"exitCode,omitempty"`
	Tries     int32                   `json:"tries"`
	StartedAt *metav1.Time            `json:"startedAt,omitempty"`
	EndedAt   *metav1.Time            `json:"endedAt,omitempty"`
	// Results is the JSON object that the last try wrote.
	Results json.RawMessage `json:"results,omitempty"`
	Message string          `json:"message,omitempty"`
	// Log is the end of the log of the last try.
	Log string `json:"log,omitempty"`
	// Earlier are the tries before the last one, in order.
	Earlier []EarlierTry `json:"earlierTries,omitempty"`
}

// EarlierTry is how a try went that was followed by another.
type EarlierTry struct {
	Try      int32                   `json:"try"`
	Outcome  dgmv1alpha1.TestOutcome `json:"outcome"`
	ExitCode *int32                  `json:"exitCode,omitempty"`
	EndedAt  *metav1.Time            `json:"endedAt,omitempty"`
	Message  string                  `json:"message,omitempty"`
	// Log is the end of its log.
	Log string `json:"log,omitempty"`
}

// Tried adds a try that is followed by another; the same one again takes its place.
func (r TestRecord) Tried(try Try, number int32, log string) TestRecord {
	r.Outcome, r.Tries = dgmv1alpha1.TestRunning, number+1
	r.Earlier = slices.DeleteFunc(slices.Clone(r.Earlier), func(e EarlierTry) bool { return e.Try >= number })
	r.Earlier = append(r.Earlier, EarlierTry{
		Try: number, Outcome: try.Outcome, ExitCode: try.ExitCode, EndedAt: try.EndedAt,
		Message: cut(try.Message, maxEarlierLog), Log: end(Log(log), maxEarlierLog),
	})
	return r
}

// Record is improvement_workspaces.test_results.
type Record struct {
	Sandbox SandboxRecord         `json:"sandbox"`
	Tests   map[string]TestRecord `json:"tests"`
}

// SandboxRecord says where the tests ran, and against what.
type SandboxRecord struct {
	Namespace string   `json:"namespace"`
	LeftOut   []string `json:"leftOut,omitempty"`
}

// NewTestRecord is what is kept of a test whose last try has ended.
func NewTestRecord(try Try, tries int32, log string) TestRecord {
	return TestRecord{
		Outcome: try.Outcome, ExitCode: try.ExitCode, Tries: tries, StartedAt: try.StartedAt, EndedAt: try.EndedAt,
		Results: try.Results, Message: try.Message, Log: Log(log),
	}
}

// Summary says in a line how a test ended.
func (r TestRecord) Summary(name string) string {
	said := cmp.Or(lastLine(r.Log), clean(r.Message, maxLine))
	if r.Outcome == dgmv1alpha1.TestError || r.Outcome == dgmv1alpha1.TestTimedOut {
		said = clean(r.Message, maxLine)
		if line := lastLine(r.Log); line != "" {
			said += "; its last line: " + line
		}
	}
	words := fmt.Sprintf("test %s: %s", name, r.Outcome)
	if r.ExitCode != nil {
		words += fmt.Sprintf(" with exit code %d", *r.ExitCode)
	}
	if r.Tries > 1 {
		words += fmt.Sprintf(" in try %d", r.Tries)
	}
	return strings.TrimSuffix(words+": "+said, ": ")
}
