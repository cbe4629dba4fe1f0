// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
)

func init() { log.SetLogger(logr.Discard()) }

// scenario runs a test in a namespace of its own, at the same time as others,
// under the operator that is running.
func (w *world) scenario(name string, test func(w *world)) {
	w.Helper()
	w.Run(name, func(t *testing.T) {
		t.Parallel()
		own := *w
		own.T, own.namespace = t, kubetest.Namespace(t)
		own.tenant("improver", "configmaps", "services")
		test(&own)
	})
}

// crash ends the operator with SIGKILL; the next one need not wait for its lease.
func (w *world) crash() {
	w.Helper()
	w.operator.Kill()
	w.removeLease()
}

// removeLease spares the next operator the wait for one that is gone.
func (w *world) removeLease() {
	w.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "dgm-system", Name: "dgm-operator"}}
	if err := w.Delete(context.Background(), lease); client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
}

// over makes an improvement change several objects by merge patches, in order;
// each is "Kind/name" and its patch.
func over(changes ...[2]string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Changes = nil
		for i, change := range changes {
			kind, name, _ := strings.Cut(change[0], "/")
			apiVersion := "v1"
			if kind == "Deployment" {
				apiVersion = "apps/v1"
			}
			object.Spec.Changes = append(object.Spec.Changes, dgmv1alpha1.Change{
				Name: fmt.Sprintf("change-%d", i), Type: dgmv1alpha1.PatchStrategicMerge, Patch: change[1],
				TargetRef: dgmv1alpha1.ObjectReference{APIVersion: apiVersion, Kind: kind, Name: name},
			})
		}
	}
}

// message is the message of Ready, which says why an improvement stands where it does.
func message(object *dgmv1alpha1.ImprovementWorkspace) string {
	return conditionOf(object, dgmv1alpha1.ConditionReady).Message
}

// conditionOf is a condition of an improvement, empty when it is not there.
func conditionOf(object *dgmv1alpha1.ImprovementWorkspace, conditionType string) metav1.Condition {
	if c := meta.FindStatusCondition(object.Status.Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// stalls waits until an improvement is in a phase and Stalled for a reason.
func (w *world) stalls(object *dgmv1alpha1.ImprovementWorkspace, phase dgmv1alpha1.Phase, reason string) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	fresh := w.reaches(object, phase, reason)
	if stalled := conditionOf(fresh, dgmv1alpha1.ConditionStalled); stalled.Status != metav1.ConditionTrue || stalled.Reason != reason {
		w.Errorf("Stalled is %+v, want True for %s", stalled, reason)
	}
	return fresh
}

// says fails the test unless a text contains every part.
func (w *world) says(text string, parts ...string) {
	w.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			w.Errorf("%q does not say %q", text, part)
		}
	}
}

// live reads an object, "Kind/name", as it is.
func (w *world) live(object string) *unstructured.Unstructured {
	w.Helper()
	kind, name, _ := strings.Cut(object, "/")
	live := &unstructured.Unstructured{}
	live.SetKind(kind)
	live.SetAPIVersion("v1")
	if kind == "Deployment" {
		live.SetAPIVersion("apps/v1")
	}
	if err := w.Get(context.Background(), client.ObjectKey{Namespace: w.namespace, Name: name}, live); err != nil {
		w.Fatal(err)
	}
	return live
}

// content is an object without what the server counts and dates.
func (w *world) content(object string) string {
	w.Helper()
	live := w.live(object)
	for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
		unstructured.RemoveNestedField(live.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(live.Object, "status")
	return indented(w, live.Object)
}

// owners are the field managers of an object with what they own, without times.
func (w *world) owners(object string) string {
	w.Helper()
	var lines []string
	for _, entry := range w.live(object).GetManagedFields() {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", entry.Manager, entry.Operation, entry.Subresource, entry.FieldsV1.GetRawString()))
	}
	return strings.Join(lines, "\n")
}

func indented(w *world, value any) string {
	w.Helper()
	text, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		w.Fatal(err)
	}
	return string(text)
}

// replaceRevision puts another ControllerRevision in the place of an
// improvement's: its own with one value altered, or one that is no plan at all.
func (w *world) replaceRevision(object *dgmv1alpha1.ImprovementWorkspace, altered string) {
	w.Helper()
	revision, err := w.revision(object)
	if err != nil {
		w.Fatal(err)
	}
	w.deleteRevision(object)
	revision.ResourceVersion, revision.UID = "", ""
	content := `{"version":1,"objects":"none"}`
	if altered != "" {
		content = strings.ReplaceAll(string(revision.Data.Raw), `"CACHE_TTL":"5"`, altered)
		if content == string(revision.Data.Raw) {
			w.Fatalf("the snapshot does not hold the value: %s", content)
		}
	}
	revision.Data.Raw = []byte(content)
	w.create(revision)
}

// convert turns one form of an object into another.
func convert(from, to any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func contains(text, part string) bool { return strings.Contains(text, part) }
