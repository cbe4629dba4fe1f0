// SPDX-License-Identifier: Apache-2.0

// Package sandbox designs the isolated namespace in which a change is tried, the
// Jobs that test it there, and reads what they came to. It is pure: it makes
// objects and judges them; the controllers send them.
package sandbox

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

const (
	// NamePrefix begins the name of every sandbox.
	NamePrefix = "dgm-sandbox-"
	// Role is the ClusterRole that the operator binds to itself in a sandbox.
	Role = "dgm-sandbox"
	// Account is the ServiceAccount of every pod in a sandbox; it has no rights.
	Account = "dgm-sandbox"
	// RecordName is the ConfigMap that is made last: with it a sandbox is complete.
	RecordName = "dgm-sandbox"
	// LeftOutKey of that ConfigMap holds what could not be copied, a line each.
	LeftOutKey = "leftOut"
)

// NamespaceName is the name of the sandbox of an attempt: the same after a crash.
func NamespaceName(improvementID string) string {
	digits := strings.ReplaceAll(improvementID, "-", "")
	return NamePrefix + digits[:min(20, len(digits))]
}

// Object is an object to make.
type Object interface {
	metav1.Object
	runtime.Object
}

// Source is what a sandbox is made from.
type Source struct {
	// Improvement is the one whose sandbox it is.
	Improvement *dgmv1alpha1.ImprovementWorkspace
	// NamespaceLabels are those of the improvement's namespace.
	NamespaceLabels map[string]string
	// NamespaceAnnotations are those of the improvement's namespace.
	NamespaceAnnotations map[string]string
	// Plan has the objects that change.
	Plan snapshot.Plan
	// Included are further objects to copy.
	Included []*unstructured.Unstructured
	// OperatorNamespace and OperatorAccount name the operator's ServiceAccount.
	OperatorNamespace, OperatorAccount string
}

// Design is what a sandbox consists of.
type Design struct {
	// Namespace is made first.
	Namespace *corev1.Namespace
	// Fence are the objects that keep the sandbox apart, in order; the first lets
	// the operator make the others.
	Fence []Object
	// Copies are the objects to try, in order.
	Copies []Object
	// Pods are the templates of all copied pods, with the name of their workload.
	Pods []PodTemplate
	// LeftOut are what could not be copied, and why.
	LeftOut []string

	source   Source
	account  *corev1.ServiceAccount
	liveAs   map[string]string // ServiceAccounts as which workloads run live, with the first of those
	rename   renaming
	identity map[string]bool // Kind/name of each copy
}

// PodTemplate is a template of pods in a sandbox.
type PodTemplate struct {
	// Owner is the workload or the test, for messages.
	Owner    string
	Template corev1.PodTemplateSpec
}

// New designs the sandbox of an improvement. The error says that an object of the
// plan cannot be read; what cannot be copied is no error.
func New(source Source) (*Design, error) {
	d := &Design{source: source, identity: map[string]bool{}, liveAs: map[string]string{}}
	d.Namespace = d.namespace()
	states, err := d.states()
	if err != nil {
		return nil, err
	}
	d.rename = newRenaming(states, source.Improvement.Namespace, d.Namespace.Name)
	d.Fence = d.fence()
	for _, kind := range copiedKinds {
		for _, state := range states {
			if state.GroupVersionKind() == kind {
				d.copyState(state)
			}
		}
	}
	d.leaveMissing()
	for _, state := range states {
		if !Copies(state.GetAPIVersion(), state.GetKind()) {
			d.leave("%s/%s: objects of this kind are not copied", state.GetKind(), state.GetName())
		}
	}
	return d, nil
}

// states are the objects to copy: the changed ones as they are after the change,
// and the included ones that do not change.
func (d *Design) states() ([]*unstructured.Unstructured, error) {
	var states []*unstructured.Unstructured
	changed := map[string]bool{}
	for _, object := range d.source.Plan.Objects {
		_, after, err := object.States()
		if err != nil {
			return nil, err
		}
		changed[object.Ref.String()] = true
		states = append(states, &unstructured.Unstructured{Object: after})
	}
	for _, object := range d.source.Included {
		if !changed[object.GetKind()+"/"+object.GetName()] {
			states = append(states, object.DeepCopy())
		}
	}
	return states, nil
}

// leave notes what is not copied as it is.
func (d *Design) leave(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(d.LeftOut, note) {
		d.LeftOut = append(d.LeftOut, note)
	}
}

// Leave notes what the caller could not get.
func (d *Design) Leave(note string) { d.leave("%s", note) }

// Record is the ConfigMap to make last.
func (d *Design) Record() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: d.meta(RecordName),
		Data:       map[string]string{LeftOutKey: cut(strings.Join(d.LeftOut, "\n"), maxRecord)},
	}
}

// maxRecord bounds, in bytes, what is kept of what was left out.
const maxRecord = 16 << 10

func (d *Design) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: d.Namespace.Name, Name: name}
}

// cut shortens s to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
