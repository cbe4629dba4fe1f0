// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

var began = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func testPod(phase corev1.PodPhase, statuses ...corev1.ContainerStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(began)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "test"}}},
		Status:     corev1.PodStatus{Phase: phase, ContainerStatuses: statuses},
	}
}

func ended(name string, code int32, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: code, Message: message, FinishedAt: metav1.NewTime(began.Add(5 * time.Second)),
	}}}
}

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "test", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why"}}}
}

func TestEvaluateTry(t *testing.T) {
	failedJob := func(reason string) *batchv1.Job {
		return &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(began)}}}}
	}
	initFailed := testPod(corev1.PodFailed)
	initFailed.Status.InitContainerStatuses = []corev1.ContainerStatus{ended("prepare", 4, "no data")}
	evicted := testPod(corev1.PodFailed)
	evicted.Status.Reason, evicted.Status.Message = "Evicted", "the node was low on memory"
	for name, test := range map[string]struct {
		job     *batchv1.Job
		pod     *corev1.Pod
		after   time.Duration
		outcome dgmv1alpha1.TestOutcome
		code    int32 // -1: none
		says    string
		results string
	}{
		"no pod yet":                    {after: time.Second, outcome: dgmv1alpha1.TestRunning, code: -1},
		"never a pod":                   {after: 2 * time.Minute, outcome: dgmv1alpha1.TestTimedOut, code: -1, says: "no pod was started within 1m"},
		"ended while nobody looked":     {job: failedJob(batchv1.JobReasonDeadlineExceeded), outcome: dgmv1alpha1.TestTimedOut, code: -1, says: "its pod is gone"},
		"its pod was deleted":           {job: failedJob(batchv1.JobReasonBackoffLimitExceeded), outcome: dgmv1alpha1.TestError, code: -1, says: "its pod is gone"},
		"running":                       {pod: testPod(corev1.PodRunning), after: 59 * time.Second, outcome: dgmv1alpha1.TestRunning, code: -1},
		"too long":                      {pod: testPod(corev1.PodRunning), after: 61 * time.Second, outcome: dgmv1alpha1.TestTimedOut, code: -1, says: "within 1m"},
		"passed":                        {pod: testPod(corev1.PodSucceeded, ended("test", 0, `{"p99": 12.5, "n": {"big": 1e3}}`)), outcome: dgmv1alpha1.TestPassed, results: `{"n":{"big":1000},"p99":12.5}`},
		"passed long ago":               {pod: testPod(corev1.PodSucceeded, ended("test", 0, "")), after: time.Hour, outcome: dgmv1alpha1.TestPassed},
		"passed with words":             {pod: testPod(corev1.PodSucceeded, ended("test", 0, "all fine")), outcome: dgmv1alpha1.TestPassed, says: "all fine"},
		"failed with results":           {pod: testPod(corev1.PodFailed, ended("test", 3, `{"p99":80}`)), outcome: dgmv1alpha1.TestFailed, code: 3, results: `{"p99":80}`},
		"another container failed":      {pod: testPod(corev1.PodFailed, ended("test", 0, "{}"), ended("proxy", 9, "refused")), outcome: dgmv1alpha1.TestFailed, code: 9, says: "refused"},
		"preparing failed":              {pod: initFailed, outcome: dgmv1alpha1.TestFailed, code: 4, says: "no data"},
		"evicted":                       {pod: evicted, outcome: dgmv1alpha1.TestError, code: -1, says: "Evicted: the node was low on memory"},
		"image not there, a moment ago": {pod: testPod(corev1.PodPending, waiting("ImagePullBackOff")), after: 5 * time.Second, outcome: dgmv1alpha1.TestRunning, code: -1},
		"image not there":               {pod: testPod(corev1.PodPending, waiting("ImagePullBackOff")), after: 30 * time.Second, outcome: dgmv1alpha1.TestError, code: -1, says: "ImagePullBackOff: why"},
		"being created":                 {pod: testPod(corev1.PodPending, waiting("ContainerCreating")), after: 30 * time.Second, outcome: dgmv1alpha1.TestRunning, code: -1},
	} {
		t.Run(name, func(t *testing.T) {
			job := test.job
			if job == nil {
				job = &batchv1.Job{}
			}
			job.CreationTimestamp = metav1.NewTime(began)
			try := EvaluateTry(job, test.pod, time.Minute, began.Add(test.after))
			code := int32(-1)
			if try.ExitCode != nil {
				code = *try.ExitCode
			}
			if try.Outcome != test.outcome || code != test.code || !strings.Contains(try.Message, test.says) || string(try.Results) != test.results {
				t.Errorf("got %s, exit code %d, %q, results %s", try.Outcome, code, try.Message, try.Results)
			}
			if (try.EndedAt != nil) != (test.outcome != dgmv1alpha1.TestRunning) {
				t.Errorf("it ended at %v", try.EndedAt)
			}
		})
	}
}

func TestOnlyPodsOfTheJobCount(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "smoke-1", UID: "job"}}
	labels := map[string]string{batchv1.JobNameLabel: "smoke-1", dgmv1alpha1.LabelTest: "smoke"}
	owned := func(name, uid string, age time.Duration) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: labels, CreationTimestamp: metav1.NewTime(began.Add(-age)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "smoke-1", UID: "job", Controller: new(true)}},
		}}
	}
	forged, candidate := owned("forged", "job", 0), corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "candidate", Labels: labels}}
	forged.OwnerReferences[0].UID = "another"
	if pod := PodOfJob(job, []corev1.Pod{candidate, forged}); pod != nil {
		t.Errorf("pod %s counts", pod.Name)
	}
	if pod := PodOfJob(job, []corev1.Pod{candidate, owned("first", "job", time.Minute), owned("second", "job", time.Second), forged}); pod == nil || pod.Name != "second" {
		t.Errorf("pod %v counts; want the newest of the Job", pod)
	}
}

func TestResultsAreWhatADatabaseTakes(t *testing.T) {
	for message, want := range map[string]string{
		`{"a": "x\u0000y␛"}`: "{\"a\":\"x\uFFFDy\uFFFD\"}",
		`{"a": "\ud800"}`:    "{\"a\":\"\uFFFD\"}",
		"{\"a\": \"\xff\"}":  "{\"a\":\"\uFFFD\"}",
		`{"a": 1e-400000}`:   `{"a":0}`,
		`{"a": 1e400000}`:    "",
		`[1]`:                "",
		`null`:               "",
		``:                   "",
		`{} {}`:              "",
		`{"a": "` + strings.Repeat("x", 4096) + `"}`: "",
	} {
		if got := string(parseResults(message)); got != want {
			t.Errorf("%.40q becomes %q; want %q", message, got, want)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	lines := Log(strings.Repeat("line\n", 60) + "last\x00\n\n")
	if got := strings.Split(lines, "\n"); len(got) != LogLines || got[len(got)-1] != "last\uFFFD" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-1])
	}
	long := Log("first\n" + strings.Repeat("é", maxLog))
	if len(long) > maxLog || len(long) < maxLog-2 || !strings.HasSuffix(long, "é") || strings.ContainsRune(long, '\uFFFD') {
		t.Errorf("%d bytes are kept: %.20q", len(long), long)
	}
}

// Of each try its end is kept, within bounds, whatever was interrupted.
func TestEarlierTriesAreKept(t *testing.T) {
	long := strings.Repeat("ä\n", 5000) + "the end"
	first := Try{Outcome: dgmv1alpha1.TestFailed, ExitCode: new(int32(3)), Message: strings.Repeat("m", 5000)}
	record := TestRecord{}.Tried(first, 1, long)
	again := record.Tried(first, 1, long)
	record = again.Tried(Try{Outcome: dgmv1alpha1.TestTimedOut}, 2, "")
	if len(again.Earlier) != 1 || len(record.Earlier) != 2 || record.Earlier[1].Outcome != dgmv1alpha1.TestTimedOut || record.Tries != 3 {
		t.Fatalf("%+v", record)
	}
	kept := record.Earlier[0]
	if *kept.ExitCode != 3 || !strings.HasSuffix(kept.Log, "the end") || len(kept.Log) > 1<<10 || len(kept.Message) > 1<<10 || !utf8.ValidString(kept.Log) {
		t.Errorf("%+v", kept)
	}
}

func TestSummarySaysWhatHappened(t *testing.T) {
	for want, record := range map[string]TestRecord{
		"test a: Failed with exit code 3 in try 2: p99 is 80 ms":              {Outcome: dgmv1alpha1.TestFailed, ExitCode: new(int32(3)), Tries: 2, Log: "start\np99 is 80 ms\n\n"},
		"test a: Failed with exit code 1: said so":                            {Outcome: dgmv1alpha1.TestFailed, ExitCode: new(int32(1)), Tries: 1, Message: "said so"},
		"test a: Failed with exit code 1: \uFFFD[2Jdone":                      {Outcome: dgmv1alpha1.TestFailed, ExitCode: new(int32(1)), Tries: 1, Log: "\x1b[2Jdone"},
		"test a: TimedOut: it did not end within 1m; its last line: still on": {Outcome: dgmv1alpha1.TestTimedOut, Tries: 1, Message: "it did not end within 1m", Log: "still on"},
		"test a: Error: no image":                                             {Outcome: dgmv1alpha1.TestError, Tries: 1, Message: "no image"},
	} {
		if got := record.Summary("a"); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}

func TestNewJob(t *testing.T) {
	job := func(template string) (*batchv1.Job, error) {
		return NewJob("sandbox", &dgmv1alpha1.Test{Name: "smoke", Timeout: "90s", JobTemplate: runtime.RawExtension{Raw: []byte(template)}}, 2)
	}
	made, err := job(`{"metadata":{"labels":{"team":"shop"}},"spec":{"backoffLimit":6,"parallelism":4,"ttlSecondsAfterFinished":1,"template":{"metadata":{"labels":{"dgm.acgs.io/test":"other"},"finalizers":["example.com/never"]},
		"spec":{"serviceAccountName":"admin","terminationGracePeriodSeconds":31536000,
		"volumes":[{"name":"v","ephemeral":{"volumeClaimTemplate":{"spec":{"volumeName":"pv-live","accessModes":["ReadWriteOnce"]}}}}],"restartPolicy":"OnFailure","priorityClassName":"high","containers":[{"name":"c","image":"i"}]}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	pod := made.Spec.Template.Spec
	if made.Name != "smoke-2" || *made.Spec.BackoffLimit != 0 || *made.Spec.Parallelism != 1 || made.Spec.TTLSecondsAfterFinished != nil || *made.Spec.ActiveDeadlineSeconds != 210 {
		t.Errorf("the Job is %+v", made)
	}
	if pod.ServiceAccountName != Account || *pod.AutomountServiceAccountToken || pod.RestartPolicy != corev1.RestartPolicyNever || pod.PriorityClassName != "" || made.Spec.Template.Labels[dgmv1alpha1.LabelTest] != "smoke" {
		t.Errorf("its pod is %+v", pod)
	}
	if len(made.Spec.Template.Finalizers) != 0 || *pod.TerminationGracePeriodSeconds != 30 || pod.Volumes[0].Ephemeral.VolumeClaimTemplate.Spec.VolumeName != "" {
		t.Errorf("its pod keeps the sandbox from ending, or takes storage of others: %+v", made.Spec.Template)
	}
	for template, want := range map[string]string{
		`{"spec":{"template":{"spec":{"containers":[{"name":"c"}],"volumes":[{"name":"v","nfs":{"server":"live","path":"/"}}]}}}}`:     "volume v, which is not of the sandbox",
		`{"spec":{"template":{"spec":{"containers":[{"name":"c"}],"volumes":[{"name":"v","csi":{"driver":"secrets.example.com"}}]}}}}`: "volume v, which is not of the sandbox",
		`{"spec":{"template":{"spec":{"containers":[{"name":"c","imagee":"i"}]}}}}`:                                                    "imagee",
		`{"spec":{"template":{"spec":{}}}}`: "no containers",
		`{"spec":"x"}`:                      "not one of a batch/v1 Job",
		`{"spec":{"template":{"spec":{"containers":[{"name":"c"}],"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}]}}}}`: "a token or a certificate in volume v",
	} {
		if _, err := job(template); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error that says %q", template, err, want)
		}
	}
}

func TestRecordIsReadBackAsItWas(t *testing.T) {
	record := Record{Tests: map[string]TestRecord{"a": NewTestRecord(Try{Outcome: dgmv1alpha1.TestPassed, Results: parseResults(`{"p99":1}`)}, 1, "done")}}
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(text, &back); err != nil || string(back.Tests["a"].Results) != `{"p99":1}` || back.Tests["a"].Log != "done" {
		t.Errorf("%s becomes %+v: %v", text, back, err)
	}
}
