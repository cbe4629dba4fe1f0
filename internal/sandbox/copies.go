// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// copiedKinds are in the order in which copies are made.
var copiedKinds = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("ConfigMap"),
	corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
	corev1.SchemeGroupVersion.WithKind("Service"),
	appsv1.SchemeGroupVersion.WithKind("Deployment"),
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
}

// Copies reports whether objects of a kind can be copied into a sandbox.
func Copies(apiVersion, kind string) bool {
	return slices.Contains(copiedKinds, schema.FromAPIVersionAndKind(apiVersion, kind))
}

// copyState adds the copy of an object. A field that this version does not know
// is left out, and said.
func (d *Design) copyState(state *unstructured.Unstructured) {
	switch state.GetKind() {
	case "ConfigMap":
		copyAs(d, state, d.configMap)
	case "PersistentVolumeClaim":
		copyAs(d, state, d.volumeClaim)
	case "Service":
		copyAs(d, state, d.service)
	case "Deployment":
		copyAs(d, state, d.deployment)
	case "StatefulSet":
		copyAs(d, state, d.statefulSet)
	case "DaemonSet":
		copyAs(d, state, d.daemonSet)
	}
}

func copyAs[T any](d *Design, state *unstructured.Unstructured, copyOf func(*T) Object) {
	name := state.GetKind() + "/" + state.GetName()
	typed := new(T)
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(state.Object, typed, true)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		for _, unknown := range strict.Errors() {
			d.leave("%s: %v, of a newer Kubernetes than the operator knows", name, unknown)
		}
	} else if err != nil {
		d.leave("%s: cannot be read: %v", name, err)
		return
	}
	object := copyOf(typed)
	if object == nil {
		return
	}
	id := kindOf(object) + "/" + object.GetName()
	if d.identity[id] {
		d.leave("%s: another object becomes %s in the sandbox", name, id)
		return
	}
	d.identity[id] = true
	d.Copies = append(d.Copies, object)
}

// kindOf is the kind that an object becomes.
func kindOf(object Object) string {
	switch object.(type) {
	case *corev1.ConfigMap:
		return "ConfigMap"
	case *corev1.PersistentVolumeClaim:
		return "PersistentVolumeClaim"
	case *corev1.Service:
		return "Service"
	case *appsv1.StatefulSet:
		return "StatefulSet"
	default:
		return "Deployment"
	}
}

// Labels and annotations by which tools find or change what they own, or take
// metrics of what serves: a copy is not theirs.
var foreignMarks = []string{
	"argocd.argoproj.io/", "kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/", "meta.helm.sh/", "prometheus.io/",
	"app.kubernetes.io/managed-by", "kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision",
	"pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/", "dgm.acgs.io/",
}

// copiedMeta is the metadata of a copy. Argo CD takes what bears the label
// app.kubernetes.io/instance for its own; pods keep it, since selectors name it.
func (d *Design) copiedMeta(from metav1.ObjectMeta) metav1.ObjectMeta {
	copied := d.meta(from.Name)
	copied.Labels, copied.Annotations = withoutMarks(from.Labels), withoutMarks(from.Annotations)
	delete(copied.Labels, "app.kubernetes.io/instance")
	return copied
}

func withoutMarks(marks map[string]string) map[string]string {
	kept := map[string]string{}
	for key, value := range marks {
		if !slices.ContainsFunc(foreignMarks, func(mark string) bool { return strings.HasPrefix(key, mark) }) {
			kept[key] = value
		}
	}
	return kept
}

func (d *Design) configMap(from *corev1.ConfigMap) Object {
	if from.Name == RecordName {
		d.leave("ConfigMap/%s: the sandbox has one of this name itself", from.Name)
		return nil
	}
	copied := &corev1.ConfigMap{ObjectMeta: d.copiedMeta(from.ObjectMeta), Data: map[string]string{}, BinaryData: from.BinaryData}
	for key, value := range from.Data {
		copied.Data[key] = d.rename.text(value)
	}
	return copied
}

func (d *Design) volumeClaim(from *corev1.PersistentVolumeClaim) Object {
	return &corev1.PersistentVolumeClaim{ObjectMeta: d.copiedMeta(from.ObjectMeta), Spec: emptyClaim(from.Spec)}
}

// emptyClaim is a claim of the same storage without what is on it.
func emptyClaim(from corev1.PersistentVolumeClaimSpec) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: from.AccessModes, Resources: from.Resources, StorageClassName: from.StorageClassName, VolumeMode: from.VolumeMode,
	}
}

func (d *Design) service(from *corev1.Service) Object {
	if from.Spec.Type == corev1.ServiceTypeExternalName {
		d.leave("Service/%s: it leads out of the sandbox, to %s", from.Name, from.Spec.ExternalName)
		return nil
	}
	if len(from.Spec.Selector) == 0 {
		d.leave("Service/%s: it has no selector, and its endpoints are not copied", from.Name)
	}
	spec := corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Selector: from.Spec.Selector, SessionAffinity: from.Spec.SessionAffinity,
		SessionAffinityConfig: from.Spec.SessionAffinityConfig, PublishNotReadyAddresses: from.Spec.PublishNotReadyAddresses,
	}
	if from.Spec.ClusterIP == corev1.ClusterIPNone {
		spec.ClusterIP = corev1.ClusterIPNone
	}
	for _, port := range from.Spec.Ports {
		port.NodePort = 0
		spec.Ports = append(spec.Ports, port)
	}
	copied := &corev1.Service{ObjectMeta: d.copiedMeta(from.ObjectMeta), Spec: spec}
	copied.Annotations = nil // they have names in the DNS and load balancers of the live one made
	return copied
}

func (d *Design) deployment(from *appsv1.Deployment) Object {
	copied := &appsv1.Deployment{ObjectMeta: d.copiedMeta(from.ObjectMeta), Spec: from.Spec}
	copied.Spec.Replicas, copied.Spec.Paused = atMostOne(from.Spec.Replicas), false
	d.isolate("Deployment/"+from.Name, &copied.Spec.Template)
	return copied
}

func (d *Design) statefulSet(from *appsv1.StatefulSet) Object {
	copied := &appsv1.StatefulSet{ObjectMeta: d.copiedMeta(from.ObjectMeta), Spec: from.Spec}
	copied.Spec.Replicas, copied.Spec.Ordinals = atMostOne(from.Spec.Replicas), nil
	copied.Spec.VolumeClaimTemplates = nil
	for _, claim := range from.Spec.VolumeClaimTemplates {
		copied.Spec.VolumeClaimTemplates = append(copied.Spec.VolumeClaimTemplates, corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: claim.Name, Labels: withoutMarks(claim.Labels)}, Spec: emptyClaim(claim.Spec),
		})
	}
	d.isolate("StatefulSet/"+from.Name, &copied.Spec.Template)
	return copied
}

// daemonSet becomes one pod: trying a change needs no pod on every node.
func (d *Design) daemonSet(from *appsv1.DaemonSet) Object {
	copied := &appsv1.Deployment{ObjectMeta: d.copiedMeta(from.ObjectMeta), Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(1)), Selector: from.Spec.Selector, Template: from.Spec.Template, MinReadySeconds: from.Spec.MinReadySeconds,
	}}
	d.leave("DaemonSet/%s: it is tried as a Deployment of one pod", from.Name)
	d.isolate("DaemonSet/"+from.Name, &copied.Spec.Template)
	return copied
}

func atMostOne(replicas *int32) *int32 {
	if replicas == nil || *replicas > 1 {
		return new(int32(1))
	}
	return replicas
}

// renaming turns the addresses of copied Services, as "name.namespace.svc", into
// those of the copies.
type renaming struct {
	pattern *regexp.Regexp
	to      string
}

func newRenaming(states []*unstructured.Unstructured, from, to string) renaming {
	var names []string
	for _, state := range states {
		if state.GetKind() == "Service" {
			names = append(names, regexp.QuoteMeta(state.GetName()))
		}
	}
	if len(names) == 0 {
		return renaming{}
	}
	pattern := regexp.MustCompile(`(^|[^-a-z0-9])(` + strings.Join(names, "|") + `)\.` + regexp.QuoteMeta(from) + `\.svc\b`)
	return renaming{pattern: pattern, to: "${1}${2}." + to + ".svc"}
}

func (r renaming) text(s string) string {
	if r.pattern == nil {
		return s
	}
	return r.pattern.ReplaceAllString(s, r.to)
}

func (r renaming) texts(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		out[i] = r.text(out[i])
	}
	return out
}
