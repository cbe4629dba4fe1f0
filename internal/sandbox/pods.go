// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// isolate makes a copied pod template one that runs apart from what serves: with
// no rights, no Secrets, nothing of the node and nothing of others' storage.
func (d *Design) isolate(owner string, template *corev1.PodTemplateSpec) {
	if name := cmp.Or(template.Spec.ServiceAccountName, template.Spec.DeprecatedServiceAccount, "default"); d.liveAs[name] == "" {
		d.liveAs[name] = owner
	}
	template.Annotations = withoutMarks(template.Annotations)
	delete(template.Labels, dgmv1alpha1.LabelTest)
	confine(template)
	pod := &template.Spec
	d.leaveHost(owner, pod)
	d.isolateContainers(owner, pod)
	for i := range pod.Volumes {
		d.isolateVolume(owner, &pod.Volumes[i])
	}
	d.renameNamespaces(pod.Affinity)
	if len(pod.ResourceClaims) > 0 {
		d.leave("%s: its claims of devices are not copied", owner)
		pod.ResourceClaims = nil
	}
	d.Pods = append(d.Pods, PodTemplate{Owner: owner, Template: *template})
}

// maxGrace is how long, in seconds, a pod of a sandbox may take to end.
const maxGrace = 30

// confine runs pods as an account without rights or token, and ahead of nobody, and
// lets nothing in them keep the sandbox from ending: controllers hand the finalizers
// of a template on to its pods.
func confine(template *corev1.PodTemplateSpec) {
	template.ObjectMeta = metav1.ObjectMeta{Labels: template.Labels, Annotations: template.Annotations}
	pod := &template.Spec
	if grace := pod.TerminationGracePeriodSeconds; grace != nil && *grace > maxGrace {
		pod.TerminationGracePeriodSeconds = new(int64(maxGrace))
	}
	pod.ServiceAccountName, pod.DeprecatedServiceAccount = Account, ""
	pod.AutomountServiceAccountToken = new(false)
	pod.PriorityClassName, pod.Priority, pod.PreemptionPolicy = "", nil, nil
	pod.NodeName = ""
}

func (d *Design) leaveHost(owner string, pod *corev1.PodSpec) {
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		d.leave("%s: it runs without the network and the processes of the node", owner)
	}
	pod.HostNetwork, pod.HostPID, pod.HostIPC = false, false, false
	if pod.DNSPolicy == corev1.DNSClusterFirstWithHostNet {
		pod.DNSPolicy = corev1.DNSClusterFirst
	}
}

func (d *Design) isolateContainers(owner string, pod *corev1.PodSpec) {
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			c := &containers[i]
			c.Command, c.Args = d.rename.texts(c.Command), d.rename.texts(c.Args)
			c.Resources.Claims = nil
			for j := range c.Ports {
				c.Ports[j].HostPort, c.Ports[j].HostIP = 0, ""
			}
			for j := range c.Env {
				c.Env[j].Value = d.rename.text(c.Env[j].Value)
				if from := c.Env[j].ValueFrom; from != nil && from.SecretKeyRef != nil {
					d.leaveSecret(owner, from.SecretKeyRef.Name)
					from.SecretKeyRef.Optional = new(true)
				}
			}
			for j := range c.EnvFrom {
				if from := c.EnvFrom[j].SecretRef; from != nil {
					d.leaveSecret(owner, from.Name)
					from.Optional = new(true)
				}
			}
		}
	}
}

func (d *Design) leaveSecret(owner, name string) {
	d.leave("Secret/%s, which %s uses: Secrets are not copied, it runs without", name, owner)
}

// ofSandbox reports whether a volume has nothing but what is in the sandbox itself:
// a network volume is mounted by the node, past every NetworkPolicy.
func ofSandbox(source *corev1.VolumeSource) bool {
	return source.ConfigMap != nil || source.EmptyDir != nil || source.DownwardAPI != nil || source.PersistentVolumeClaim != nil ||
		source.Image != nil || source.Secret != nil || source.Projected != nil || (source.Ephemeral != nil && source.Ephemeral.VolumeClaimTemplate != nil)
}

// isolateVolume keeps what is in the sandbox itself; anything else becomes an
// empty directory.
func (d *Design) isolateVolume(owner string, volume *corev1.Volume) {
	source := &volume.VolumeSource
	switch {
	case !ofSandbox(source):
		d.leave("volume %s of %s: it is not of the sandbox, an empty directory takes its place", volume.Name, owner)
		*source = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	case source.Secret != nil:
		d.leaveSecret(owner, source.Secret.SecretName)
		source.Secret.Optional = new(true)
	case source.Ephemeral != nil:
		source.Ephemeral.VolumeClaimTemplate.Spec = emptyClaim(source.Ephemeral.VolumeClaimTemplate.Spec)
	case source.Projected != nil:
		source.Projected.Sources = slices.DeleteFunc(source.Projected.Sources, func(p corev1.VolumeProjection) bool {
			if p.Secret != nil {
				d.leaveSecret(owner, p.Secret.Name)
			}
			if p.ServiceAccountToken != nil || p.PodCertificate != nil {
				d.leave("volume %s of %s: pods of a sandbox get no token and no certificate", volume.Name, owner)
			}
			return p.Secret != nil || p.ServiceAccountToken != nil || p.PodCertificate != nil
		})
	}
}

// leaveMissing names what the pods need and nobody has included.
func (d *Design) leaveMissing() {
	for _, pod := range d.Pods {
		need := func(kind, name string, optional *bool) {
			if name != "" && (optional == nil || !*optional) && !d.identity[kind+"/"+name] {
				d.leave("%s/%s, which %s uses: name it in spec.sandbox.include", kind, name, pod.Owner)
			}
		}
		spec := &pod.Template.Spec
		for i := range spec.Volumes {
			source := &spec.Volumes[i].VolumeSource
			if source.ConfigMap != nil {
				need("ConfigMap", source.ConfigMap.Name, source.ConfigMap.Optional)
			}
			if source.PersistentVolumeClaim != nil {
				need("PersistentVolumeClaim", source.PersistentVolumeClaim.ClaimName, nil)
			}
			if source.Projected == nil {
				continue
			}
			for _, part := range source.Projected.Sources {
				if part.ConfigMap != nil {
					need("ConfigMap", part.ConfigMap.Name, part.ConfigMap.Optional)
				}
			}
		}
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			for _, from := range c.EnvFrom {
				if from.ConfigMapRef != nil {
					need("ConfigMap", from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
				}
			}
			for _, env := range c.Env {
				if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
					need("ConfigMap", env.ValueFrom.ConfigMapKeyRef.Name, env.ValueFrom.ConfigMapKeyRef.Optional)
				}
			}
		}
	}
}

func (d *Design) renameNamespaces(affinity *corev1.Affinity) {
	rename := func(term *corev1.PodAffinityTerm) {
		for i, namespace := range term.Namespaces {
			if namespace == d.source.Improvement.Namespace {
				term.Namespaces[i] = d.Namespace.Name
			}
		}
	}
	renameAll := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			rename(&required[i])
		}
		for i := range preferred {
			rename(&preferred[i].PodAffinityTerm)
		}
	}
	if affinity == nil {
		return
	}
	if a := affinity.PodAffinity; a != nil {
		renameAll(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		renameAll(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// PullSecrets are the names of the Secrets by which the templates pull images.
func (d *Design) PullSecrets() []string {
	var names []string
	for _, pod := range d.Pods {
		for _, ref := range pod.Template.Spec.ImagePullSecrets {
			if ref.Name != "" && !slices.Contains(names, ref.Name) {
				names = append(names, ref.Name)
			}
		}
	}
	return names
}

// Accounts are the names of the ServiceAccounts as which the copied workloads run
// live, which may name Secrets to pull images by.
func (d *Design) Accounts() []string { return slices.Sorted(maps.Keys(d.liveAs)) }

// LeaveAccount notes that the pull secrets of one of them are not known. Nobody
// names the account default, which mostly has none.
func (d *Design) LeaveAccount(name string) {
	if owner := d.liveAs[name]; owner != "" && name != "default" {
		d.leave("ServiceAccount/%s, as which %s runs: the Secrets to pull images by that it may name, since the account may not get it", name, owner)
	}
}

// AddPullSecret copies a Secret if it is one to pull images by: of no other
// Secret is anything ever copied. byDefault: for pods that name none.
func (d *Design) AddPullSecret(secret *corev1.Secret, byDefault bool) {
	byName := func(ref corev1.LocalObjectReference) bool { return ref.Name == secret.Name }
	if byDefault && !slices.ContainsFunc(d.account.ImagePullSecrets, byName) {
		d.account.ImagePullSecrets = append(d.account.ImagePullSecrets, corev1.LocalObjectReference{Name: secret.Name})
	}
	key := map[corev1.SecretType]string{
		corev1.SecretTypeDockerConfigJson: corev1.DockerConfigJsonKey, corev1.SecretTypeDockercfg: corev1.DockerConfigKey,
	}[secret.Type]
	if key == "" {
		d.leave("Secret/%s: it is named to pull images by, but is of type %s", secret.Name, secret.Type)
		return
	}
	if d.identity["Secret/"+secret.Name] {
		return
	}
	d.identity["Secret/"+secret.Name] = true
	d.Fence = append(d.Fence, &corev1.Secret{
		ObjectMeta: d.meta(secret.Name), Type: secret.Type, Data: map[string][]byte{key: secret.Data[key]},
	})
}
