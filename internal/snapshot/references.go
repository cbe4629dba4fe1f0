package snapshot

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// References are the names of the ConfigMaps and Secrets that the pods of an object read: a Pod, or an object with a
// pod template. Both are sorted; none for other objects.
func References(object *unstructured.Unstructured) (configMaps, secrets []string) {
	for _, fields := range [][]string{{"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}, {"spec"}} {
		found, ok, err := unstructured.NestedMap(object.Object, fields...)
		if err != nil || !ok {
			continue
		}
		var spec corev1.PodSpec
		if runtime.DefaultUnstructuredConverter.FromUnstructured(found, &spec) != nil || len(spec.Containers) == 0 {
			continue
		}
		r := &references{}
		r.read(&spec)
		return r.sorted()
	}
	return nil, nil
}

type references struct{ configMaps, secrets []string }

func (r *references) sorted() (configMaps, secrets []string) {
	for _, list := range []*[]string{&r.configMaps, &r.secrets} {
		slices.Sort(*list)
		*list = slices.DeleteFunc(slices.Compact(*list), func(name string) bool { return name == "" })
	}
	return r.configMaps, r.secrets
}

func (r *references) read(spec *corev1.PodSpec) {
	for _, volume := range spec.Volumes {
		r.readVolume(volume.VolumeSource)
	}
	for _, secret := range spec.ImagePullSecrets {
		r.secrets = append(r.secrets, secret.Name)
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		r.readContainer(container)
	}
}

func (r *references) readVolume(source corev1.VolumeSource) {
	if source.ConfigMap != nil {
		r.configMaps = append(r.configMaps, source.ConfigMap.Name)
	}
	if source.Secret != nil {
		r.secrets = append(r.secrets, source.Secret.SecretName)
	}
	if source.Projected == nil {
		return
	}
	for _, projected := range source.Projected.Sources {
		if projected.ConfigMap != nil {
			r.configMaps = append(r.configMaps, projected.ConfigMap.Name)
		}
		if projected.Secret != nil {
			r.secrets = append(r.secrets, projected.Secret.Name)
		}
	}
}

func (r *references) readContainer(container corev1.Container) {
	for _, from := range container.EnvFrom {
		if from.ConfigMapRef != nil {
			r.configMaps = append(r.configMaps, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			r.secrets = append(r.secrets, from.SecretRef.Name)
		}
	}
	for _, env := range container.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.ConfigMapKeyRef; ref != nil {
			r.configMaps = append(r.configMaps, ref.Name)
		}
		if ref := env.ValueFrom.SecretKeyRef; ref != nil {
			r.secrets = append(r.secrets, ref.Name)
		}
	}
}
