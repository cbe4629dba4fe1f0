package snapshot

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// gitOpsTool is how one tool that continuously syncs objects can be recognised.
type gitOpsTool struct {
	name        string
	managers    []string // field managers
	labels      []string
	annotations []string
}

var gitOpsTools = []gitOpsTool{
	{
		name:     "Argo CD",
		managers: []string{"argocd-controller", "argocd-application-controller"},
		labels:   []string{"argocd.argoproj.io/instance"}, annotations: []string{"argocd.argoproj.io/tracking-id"},
	},
	{name: "Flux (Kustomization)", managers: []string{"kustomize-controller"}, labels: []string{"kustomize.toolkit.fluxcd.io/name"}},
	{name: "Flux (HelmRelease)", managers: []string{"helm-controller"}, labels: []string{"helm.toolkit.fluxcd.io/name"}},
	{
		name:     "Rancher Fleet",
		managers: []string{"fleetagent", "fleet-agent"},
		labels:   []string{"objectset.rio.cattle.io/hash"}, annotations: []string{"objectset.rio.cattle.io/id"},
	},
	{
		name:        "Config Sync",
		managers:    []string{"configsync", "config-sync"},
		annotations: []string{"configmanagement.gke.io/managed", "configsync.gke.io/declared-fields"},
	},
	{name: "kapp-controller", managers: []string{"kapp-controller"}, labels: []string{"kapp.k14s.io/app"}},
}

// GitOpsOwner says whether a GitOps tool would put the touched paths back: it owns one of them, or its tracking marks
// are on the object and it is not known which fields it syncs. A tool that applies server-side owns exactly the
// fields that it syncs, so that its marks alone do not count then. The detail names the evidence.
func GitOpsOwner(before *unstructured.Unstructured, paths []PathChange) (owner string, detail string, owned bool) {
	for _, tool := range gitOpsTools {
		if detail, owned := tool.ownsField(before, paths); owned {
			return tool.name, detail, true
		}
	}
	for _, tool := range gitOpsTools {
		if tool.applies(before) {
			continue
		}
		if mark, marked := tool.mark(before); marked {
			return tool.name, fmt.Sprintf("the %s says that it syncs this object", mark), true
		}
	}
	return "", "", false
}

func (t gitOpsTool) manages(entry metav1.ManagedFieldsEntry) bool {
	return slices.Contains(t.managers, entry.Manager)
}

func (t gitOpsTool) ownsField(object *unstructured.Unstructured, paths []PathChange) (detail string, owned bool) {
	for _, entry := range object.GetManagedFields() {
		if !t.manages(entry) {
			continue
		}
		set, err := fieldSet(entry)
		if err != nil {
			return fmt.Sprintf("field manager %q manages this object and its fields cannot be read: %v", entry.Manager, err), true
		}
		touched, found := newPathSet(paths), []string{}
		members(set, func(path Path) bool {
			cover, ok := touched.cover(path)
			if ok && !slices.Contains(found, cover) && len(found) < 10 {
				found = append(found, cover)
			}
			return ok
		})
		if len(found) > 0 {
			return fmt.Sprintf("field manager %q owns %s", entry.Manager, bounded(strings.Join(found, ", "), 512)), true
		}
	}
	return "", false
}

func (t gitOpsTool) applies(object *unstructured.Unstructured) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return t.manages(entry) && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Subresource == ""
	})
}

func (t gitOpsTool) mark(object *unstructured.Unstructured) (mark string, marked bool) {
	for _, name := range t.annotations {
		if value, ok := object.GetAnnotations()[name]; ok {
			return fmt.Sprintf("annotation %s=%s", name, bounded(value, 128)), true
		}
	}
	for _, name := range t.labels {
		if value, ok := object.GetLabels()[name]; ok {
			return fmt.Sprintf("label %s=%s", name, bounded(value, 128)), true
		}
	}
	return "", false
}
