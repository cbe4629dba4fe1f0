package snapshot

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Lost lists, as text, the touched paths at which a live object no longer has what the change set. A restart that
// somebody has made anew is not among them.
func (p ObjectPlan) Lost(live *unstructured.Unstructured) []string {
	var texts []string
	for _, found := range p.lost(live) {
		texts = append(texts, found.path.String())
	}
	return texts
}

// lost are the findings behind Lost.
func (p ObjectPlan) lost(live *unstructured.Unstructured) []finding {
	_, _, findings, err := p.observe(live, toAfter)
	if err != nil {
		return []finding{{path: Path{{Field: err.Error()}}, place: foreign}}
	}
	return slices.DeleteFunc(findings, func(f finding) bool {
		return f.place == atGoal || (p.Restart && restartPath.startsAt(f.path))
	})
}

// PutBackBy names who has taken a touched path back: who owned it before the change and has set it again since, or the
// GitOps tool that syncs the object; "" when that was somebody else.
func (p ObjectPlan) PutBackBy(live *unstructured.Unstructured) string {
	var changes []PathChange
	putBack := true
	for _, found := range p.lost(live) {
		changes = append(changes, PathChange{Path: found.path})
		putBack = putBack && found.place == atStart
	}
	touched := newPathSet(changes)
	for _, tool := range gitOpsTools {
		_, owns := tool.ownsField(live, changes)
		_, marked := tool.mark(live)
		if owns || (marked && putBack) {
			return tool.name
		}
	}
	for _, entry := range live.GetManagedFields() {
		if entry.Manager != p.Manager && ownsAny(entry, touched) && p.ownedBefore(entry, touched) {
			return "field manager " + entry.Manager
		}
	}
	return ""
}

func ownsAny(entry metav1.ManagedFieldsEntry, touched pathSet) bool {
	set, err := fieldSet(entry)
	return err == nil && !members(set, touched.covers).Empty()
}

func (p ObjectPlan) ownedBefore(entry metav1.ManagedFieldsEntry, touched pathSet) bool {
	return slices.ContainsFunc(p.Owners, func(owner FieldOwner) bool {
		fields := metav1.ManagedFieldsEntry{Manager: owner.Manager, FieldsV1: metav1.NewFieldsV1(string(owner.Fields))}
		return owner.Manager == entry.Manager && ownsAny(fields, touched)
	})
}
