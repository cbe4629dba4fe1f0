package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrRefused marks a change that no plan is made for, whatever its size.
	ErrRefused = errors.New("change refused")
	// ErrForeign marks a path that is neither at its value before nor at its value after.
	ErrForeign = errors.New("changed by another")
	// ErrReplaced marks a live object that is not the one of the plan: it was deleted and created again.
	ErrReplaced = errors.New("the object was deleted and created again")
)

// ObjectRef names one object at one time of its life.
type ObjectRef struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// String returns Kind/name, as kubectl writes it.
func (r ObjectRef) String() string { return r.Kind + "/" + r.Name }

// GroupKind is the kind, whatever the version.
func (r ObjectRef) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: group(r.APIVersion), Kind: r.Kind}
}

// sameObject ignores version and uid: the object is the same for whoever names it.
func (r ObjectRef) sameObject(o ObjectRef) bool {
	return group(r.APIVersion) == group(o.APIVersion) && r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name
}

func group(apiVersion string) string {
	group, _, grouped := strings.Cut(apiVersion, "/")
	if !grouped {
		return ""
	}
	return group
}

// ObjectPlan is what a change does to one object.
type ObjectPlan struct {
	// Change is the name of the change in the spec.
	Change string `json:"change"`
	// Ref is the object, with its uid before the change.
	Ref ObjectRef `json:"ref"`
	// Manager is the field manager under which the change is applied and taken back.
	Manager string `json:"manager"`
	// Before is the whole object before as canonical JSON, without status and what a controller's writes to it change:
	// managedFields, resourceVersion and generation.
	Before json.RawMessage `json:"before"`
	// AfterDigest is the digest of the whole object after, apart from what the server manages.
	AfterDigest string `json:"afterDigest"`
	// Paths are the touched paths, sorted by their text.
	Paths []PathChange `json:"paths"`
	// Orders hold the order after the change of lists that gain items.
	Orders []ListOrder `json:"orders,omitempty"`
	// Owners are the ownership entries before, restricted to the touched paths.
	Owners []FieldOwner `json:"owners,omitempty"`
	// Restart says that the change restarts the pods of this workload, by an annotation on their template.
	Restart bool `json:"restart,omitempty"`
}

// NewObjectPlan compares an object before with the server's dry-run answer to the change, which was sent under the
// given field manager. It proves the plan before it returns it. The error is ErrRefused when the change touches what
// no improvement may: identity, owners, finalizers, Secrets.
func NewObjectPlan(change string, before, after *unstructured.Unstructured, manager string) (ObjectPlan, error) {
	if before == nil || after == nil || before.Object == nil || after.Object == nil {
		return ObjectPlan{}, errors.New("a plan needs the object before and after the change")
	}
	plan := ObjectPlan{Change: change, Ref: refOf(before), Manager: manager}
	beforeState, err := normalize(before.Object)
	if err != nil {
		return ObjectPlan{}, fmt.Errorf("%s before: %w", plan.Ref, err)
	}
	afterState, err := normalize(after.Object)
	if err != nil {
		return ObjectPlan{}, fmt.Errorf("%s after: %w", plan.Ref, err)
	}
	if err := refuse(plan.Ref, beforeState, afterState); err != nil {
		return ObjectPlan{}, err
	}
	if err := plan.fill(before, after, beforeState, afterState); err != nil {
		return ObjectPlan{}, fmt.Errorf("%s: %w", plan.Ref, err)
	}
	return plan, plan.proveAgainst(compared(afterState))
}

func (p *ObjectPlan) fill(before, after *unstructured.Unstructured, beforeState, afterState map[string]any) error {
	shape, err := learnShape(before, after)
	if err != nil {
		return err
	}
	if p.Before, err = Canonical(kept(beforeState)); err != nil {
		return err
	}
	afterBytes, err := Canonical(compared(afterState))
	if err != nil {
		return err
	}
	p.AfterDigest = Digest(afterBytes)
	if p.Paths, p.Orders, err = diff(shape, compared(beforeState), compared(afterState)); err != nil {
		return err
	}
	p.Owners, err = ownersBefore(before, after, p.Paths)
	return err
}

func refOf(object *unstructured.Unstructured) ObjectRef {
	return ObjectRef{
		APIVersion: object.GetAPIVersion(), Kind: object.GetKind(),
		Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
	}
}

// Metadata that changes without anybody's intent, and so belongs to no state.
var volatile = []string{"managedFields", "resourceVersion", "generation"}

// Metadata that the server manages and that says nothing about what was asked for.
var serverManaged = []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"}

// Metadata that no change may touch.
var untouchable = []string{
	"name", "generateName", "namespace", "uid", "ownerReferences", "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds",
}

func refuse(ref ObjectRef, before, after map[string]any) error {
	if ref.Kind == "Secret" && ref.APIVersion == "v1" {
		return fmt.Errorf("%w: %s is a Secret; a snapshot would hold its data: keep the setting in a ConfigMap, or change the reference to the Secret", ErrRefused, ref)
	}
	for _, name := range []string{"apiVersion", "kind"} {
		if !get(before, name).equal(get(after, name)) {
			return fmt.Errorf("%w: it touches %s of %s: remove that from the patch", ErrRefused, name, ref)
		}
	}
	beforeMeta, _ := before["metadata"].(map[string]any)
	afterMeta, _ := after["metadata"].(map[string]any)
	for _, name := range untouchable {
		if !get(beforeMeta, name).equal(get(afterMeta, name)) {
			return fmt.Errorf("%w: it touches metadata.%s of %s: remove that from the patch", ErrRefused, name, ref)
		}
	}
	return nil
}

// kept is the object as a snapshot holds it.
func kept(object map[string]any) map[string]any {
	return without(object, volatile)
}

// compared is the object apart from what the server manages.
func compared(object map[string]any) map[string]any {
	return without(object, serverManaged)
}

func without(object map[string]any, metadata []string) map[string]any {
	out := map[string]any{}
	for name, value := range object {
		if name != "status" {
			out[name] = clone(value)
		}
	}
	fields, _ := out["metadata"].(map[string]any)
	for _, name := range metadata {
		delete(fields, name)
	}
	return out
}

func (p ObjectPlan) before() (map[string]any, error) {
	value, err := decode(p.Before)
	if err != nil {
		return nil, fmt.Errorf("%s: state before: %w", p.Ref, err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: the state before is not an object", p.Ref)
	}
	return object, nil
}

// States returns the whole object before and after the change, apart from status and what the server manages. Both
// are the caller's to change.
func (p ObjectPlan) States() (before, after map[string]any, err error) {
	whole, err := p.before()
	if err != nil {
		return nil, nil, err
	}
	before = compared(whole)
	after, _, err = p.converge(before, nil, toAfter)
	return before, after, err
}

// Empty says that the change changes nothing in this object.
func (p ObjectPlan) Empty() bool { return len(p.Paths) == 0 }

// Prove shows, over the whole object, that the change leads from the state before to the state after and its inverse
// back; the error names the path at which it does not.
func (p ObjectPlan) Prove() error { return p.proveAgainst(nil) }

// proveAgainst also names the path when the state after is at hand and not only its digest.
func (p ObjectPlan) proveAgainst(after map[string]any) error {
	whole, err := p.before()
	if err != nil {
		return err
	}
	before := compared(whole)
	forward, _, err := p.converge(before, nil, toAfter)
	if err != nil {
		return err
	}
	if after != nil && !reflect.DeepEqual(forward, after) {
		return fmt.Errorf("%s: the planned change does not lead to the server's answer at %s", p.Ref, firstDifference(forward, after))
	}
	canonical, err := Canonical(forward)
	if err != nil {
		return err
	}
	if Digest(canonical) != p.AfterDigest {
		return fmt.Errorf("%s: the planned change does not lead to the recorded state after: the plan is damaged", p.Ref)
	}
	inverse, findings, err := p.converge(forward, nil, toBefore)
	if err != nil {
		return err
	}
	if at := slices.IndexFunc(findings, func(f finding) bool { return f.place != atStart }); at >= 0 {
		return fmt.Errorf("%s: the inverse does not find the value after at %s", p.Ref, findings[at].path)
	}
	if !reflect.DeepEqual(inverse, before) {
		return fmt.Errorf("%s: the inverse does not lead back to the state before at %s", p.Ref, firstDifference(inverse, before))
	}
	return nil
}

func firstDifference(a, b map[string]any) string {
	paths, _, err := diff(nil, a, b)
	if err != nil || len(paths) == 0 {
		return "an unknown path"
	}
	return paths[0].Path.String()
}
