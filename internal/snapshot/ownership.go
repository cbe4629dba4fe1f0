package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// FieldOwner is one entry of metadata.managedFields, restricted to what the change takes from it.
type FieldOwner struct {
	Manager     string          `json:"manager"`
	Operation   string          `json:"operation"`
	APIVersion  string          `json:"apiVersion"`
	Subresource string          `json:"subresource,omitempty"`
	Time        *metav1.Time    `json:"time,omitempty"`
	Fields      json.RawMessage `json:"fields"` // FieldsV1
}

func (o FieldOwner) owns(entry metav1.ManagedFieldsEntry) bool {
	return o.Manager == entry.Manager && o.Operation == string(entry.Operation) &&
		o.APIVersion == entry.APIVersion && o.Subresource == entry.Subresource
}

// ownersBefore returns who owned the touched paths. Entries in another API version name paths of their own, so for
// those it is what they lose between before and after.
func ownersBefore(before, after *unstructured.Unstructured, paths []PathChange) ([]FieldOwner, error) {
	var owners []FieldOwner
	touched := newPathSet(paths)
	for _, entry := range before.GetManagedFields() {
		set, err := fieldSet(entry)
		if err != nil {
			return nil, err
		}
		owner := FieldOwner{
			Manager: entry.Manager, Operation: string(entry.Operation), APIVersion: entry.APIVersion,
			Subresource: entry.Subresource, Time: entry.Time,
		}
		if entry.APIVersion == before.GetAPIVersion() {
			set = members(set, touched.covers)
		} else if set, err = lost(owner, set, after); err != nil {
			return nil, err
		}
		if set.Empty() {
			continue
		}
		if owner.Fields, err = set.ToJSON(); err != nil {
			return nil, fmt.Errorf("managedFields of manager %q: %w", entry.Manager, err)
		}
		owners = append(owners, owner)
	}
	return owners, nil
}

func lost(owner FieldOwner, set *fieldpath.Set, after *unstructured.Unstructured) (*fieldpath.Set, error) {
	for _, entry := range after.GetManagedFields() {
		if !owner.owns(entry) {
			continue
		}
		remaining, err := fieldSet(entry)
		if err != nil {
			return nil, err
		}
		return set.Difference(remaining), nil
	}
	return set, nil
}

func members(set *fieldpath.Set, keep func(Path) bool) *fieldpath.Set {
	out := &fieldpath.Set{}
	set.Iterate(func(path fieldpath.Path) {
		if translated, ok := fromFieldPath(path); ok && keep(translated) {
			out.Insert(path.Copy())
		}
	})
	return out
}

// ReturnOwnership returns the JSON patch on metadata.managedFields that takes the manager's ownership of what was
// restored away and gives it back to those who had it before; nil when there is nothing to do. Call it on the object
// as it is after the inverse. The precondition and ErrReplaced are as in Forward.
func (p ObjectPlan) ReturnOwnership(live *unstructured.Unstructured, manager string) ([]byte, error) {
	_, _, findings, err := p.observe(live, toBefore)
	if err != nil {
		return nil, err
	}
	entries := live.GetManagedFields()
	r, err := p.returns(findings, entries, manager, live.GetAPIVersion())
	if err != nil || r.nothing() {
		return nil, err
	}
	updated, changed, err := r.rewrite(entries)
	if err != nil || !changed {
		return nil, err
	}
	if len(updated) == 0 {
		// One empty entry resets the list; an absent one would mean "leave it as it is".
		updated = []metav1.ManagedFieldsEntry{{}}
	}
	value, err := plain(updated)
	if err != nil {
		return nil, err
	}
	return guarded(live.Object, []operation{{Op: "replace", Path: "/metadata/managedFields", Value: value}})
}

// returning is what one call gives back.
type returning struct {
	plan     ObjectPlan
	manager  string
	version  string
	restored pathSet // touched paths that were restored and that the manager still owns parts of
	kept     pathSet // paths, or parts of them, that were left alone
}

func (p ObjectPlan) returns(findings []finding, entries []metav1.ManagedFieldsEntry, manager, version string) (returning, error) {
	r := returning{plan: p, manager: manager, version: version, restored: pathSet{}, kept: pathSet{}}
	for _, found := range findings {
		if found.place != atGoal {
			r.kept.add(found.path)
		}
	}
	touched := newPathSet(p.Paths)
	for _, entry := range entries {
		if !r.ours(entry) {
			continue
		}
		set, err := fieldSet(entry)
		if err != nil {
			return r, err
		}
		members(set, func(path Path) bool {
			cover, ok := touched.cover(path)
			if ok = ok && !r.kept.covers(path); ok {
				r.restored[cover] = struct{}{}
			}
			return ok
		})
	}
	return r, nil
}

func (r returning) ours(entry metav1.ManagedFieldsEntry) bool {
	return entry.Manager == r.manager && entry.Subresource == "" && entry.APIVersion == r.version
}

func (r returning) nothing() bool { return len(r.restored) == 0 }

func (r returning) applies(path Path) bool { return r.restored.covers(path) && !r.kept.covers(path) }

// rewrite returns the entries as they should be and whether that differs from how they are.
func (r returning) rewrite(entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool, error) {
	var updated []metav1.ManagedFieldsEntry
	changed := false
	given := map[int]bool{}
	for _, entry := range entries {
		set, err := fieldSet(entry)
		if err != nil {
			return nil, false, err
		}
		wanted := set
		if r.ours(entry) {
			wanted = members(set, func(path Path) bool { return !r.applies(path) })
		}
		for i, owner := range r.plan.Owners {
			if !owner.owns(entry) {
				continue
			}
			back, err := r.back(owner)
			if err != nil {
				return nil, false, err
			}
			wanted, given[i] = wanted.Union(back), true
		}
		changed = changed || !wanted.Equals(set)
		if wanted.Empty() {
			continue
		}
		if entry, err = withFields(entry, wanted); err != nil {
			return nil, false, err
		}
		updated = append(updated, entry)
	}
	missing, err := r.missing(given)
	return append(updated, missing...), changed || len(missing) > 0, err
}

// missing returns the entries that lost everything and so have to be made anew.
func (r returning) missing(given map[int]bool) ([]metav1.ManagedFieldsEntry, error) {
	var entries []metav1.ManagedFieldsEntry
	for i, owner := range r.plan.Owners {
		if given[i] {
			continue
		}
		back, err := r.back(owner)
		if err != nil {
			return nil, err
		}
		if back.Empty() {
			continue
		}
		entry, err := withFields(metav1.ManagedFieldsEntry{
			Manager: owner.Manager, Operation: metav1.ManagedFieldsOperationType(owner.Operation), APIVersion: owner.APIVersion,
			Subresource: owner.Subresource, Time: owner.Time, FieldsType: "FieldsV1",
		}, back)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// back is what one owner gets: of its fields those that were restored. Fields named in another API version cannot be
// told apart by path and come back only when everything was restored.
func (r returning) back(owner FieldOwner) (*fieldpath.Set, error) {
	set, err := fieldSet(metav1.ManagedFieldsEntry{Manager: owner.Manager, FieldsV1: metav1.NewFieldsV1(string(owner.Fields))})
	if err != nil {
		return nil, err
	}
	if owner.APIVersion == r.version {
		return members(set, r.applies), nil
	}
	if len(r.kept) > 0 {
		return &fieldpath.Set{}, nil
	}
	return set, nil
}

func withFields(entry metav1.ManagedFieldsEntry, set *fieldpath.Set) (metav1.ManagedFieldsEntry, error) {
	raw, err := set.ToJSON()
	if err != nil {
		return entry, fmt.Errorf("managedFields of manager %q: %w", entry.Manager, err)
	}
	entry.FieldsV1 = metav1.NewFieldsV1(string(raw))
	return entry, nil
}

func plain(entries []metav1.ManagedFieldsEntry) ([]any, error) {
	out := make([]any, len(entries))
	for i := range entries {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&entries[i])
		if err != nil {
			return nil, errors.Join(errors.New("encode managedFields"), err)
		}
		out[i] = fields
	}
	return out, nil
}
