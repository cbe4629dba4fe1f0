// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// jobGrace is how long past its timeout a Job is left to the operator, which
// reads the log first; then the Job controller ends it.
const jobGrace = 2 * time.Minute

// JobName is the name of the Job of a try of a test, from 1: the same after a crash.
func JobName(test string, try int32) string { return fmt.Sprintf("%s-%d", test, try) }

// NewJob is the Job of a try of a test. Of spec.jobTemplate only the metadata and
// the pod template count: a try is one pod, and what it came to is read from it.
// The error says what in the template to mend.
func NewJob(namespace string, test *dgmv1alpha1.Test, try int32) (*batchv1.Job, error) {
	template, err := jobTemplate(test)
	if err != nil {
		return nil, err
	}
	pods := &template.Spec.Template
	confine(pods)
	pods.Spec.RestartPolicy = corev1.RestartPolicyNever
	pods.Labels = marked(pods.Labels, test.Name)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: JobName(test.Name, try),
			Labels: marked(template.Labels, test.Name), Annotations: template.Annotations,
		},
		Spec: batchv1.JobSpec{
			Parallelism: new(int32(1)), Completions: new(int32(1)), BackoffLimit: new(int32(0)),
			ActiveDeadlineSeconds: new(int64(math.Ceil((Timeout(test) + jobGrace).Seconds()))),
			Template:              *pods,
		},
	}
	return job, nil
}

// Timeout bounds a try of a test.
func Timeout(test *dgmv1alpha1.Test) time.Duration { return test.Timeout.Or(defaultTestTimeout) }

const defaultTestTimeout = 10 * time.Minute

// Tries is how often a test may be started.
func Tries(test *dgmv1alpha1.Test) int32 {
	if test.Retries == nil {
		return 1
	}
	return 1 + *test.Retries
}

func jobTemplate(test *dgmv1alpha1.Test) (*batchv1.JobTemplateSpec, error) {
	var object map[string]any
	if err := json.Unmarshal(test.JobTemplate.Raw, &object); err != nil {
		return nil, fmt.Errorf("jobTemplate is not an object: %w", err)
	}
	template := &batchv1.JobTemplateSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object, template, true); err != nil {
		return nil, fmt.Errorf("jobTemplate is not one of a batch/v1 Job: %w", err)
	}
	pod := &template.Spec.Template.Spec
	if len(pod.Containers) == 0 {
		return nil, errors.New("jobTemplate has no containers: add spec.template.spec.containers")
	}
	for i := range pod.Volumes {
		if err := checkVolume(&pod.Volumes[i]); err != nil {
			return nil, err
		}
	}
	return template, nil
}

// checkVolume refuses what a pod of a sandbox does not get, and empties claims.
func checkVolume(volume *corev1.Volume) error {
	source := &volume.VolumeSource
	switch {
	case !ofSandbox(source):
		return fmt.Errorf("jobTemplate has the volume %s, which is not of the sandbox: take emptyDir, configMap, downwardAPI, ephemeral, image or a copied persistentVolumeClaim", volume.Name)
	case source.Ephemeral != nil:
		source.Ephemeral.VolumeClaimTemplate.Spec = emptyClaim(source.Ephemeral.VolumeClaimTemplate.Spec)
	case source.Projected != nil:
		for _, part := range source.Projected.Sources {
			if part.ServiceAccountToken != nil || part.PodCertificate != nil {
				return fmt.Errorf("jobTemplate asks for a token or a certificate in volume %s: pods of a sandbox get none; remove it", volume.Name)
			}
		}
	}
	return nil
}

func marked(labels map[string]string, test string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[dgmv1alpha1.LabelTest] = test
	return out
}

// PodOf is a pod of a template, to ask the API server whether it would take it.
func PodOf(namespace string, template *corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "dry-run-", Labels: template.Labels, Annotations: template.Annotations},
		Spec:       *template.Spec.DeepCopy(),
	}
}
