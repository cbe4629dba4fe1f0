package snapshot

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// maxEnvironment bounds, in bytes, the objects that an Environment holds; of those beyond, the digest is left.
const maxEnvironment = 256 << 10

// lastApplied is a copy of the object inside the object, in which no field can be hidden.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// The parts that objects of an Environment play.
const (
	RoleChanged    = "changed"
	RoleTarget     = "target"
	RoleReferenced = "referenced"
)

// Environment is what a change found: what it changes, its target, and what that reads. It is for people and
// auditors; what is put back is in the Plan.
type Environment struct {
	Objects []EnvironmentObject `json:"objects"`
	// Secrets are known by their digest only.
	Secrets []EnvironmentSecret `json:"secrets,omitempty"`
	// Notes say what could not be captured, and why.
	Notes []string `json:"notes,omitempty"`

	size int
}

// EnvironmentObject is one object as it was.
type EnvironmentObject struct {
	Role string    `json:"role"`
	Ref  ObjectRef `json:"ref"`
	// SHA256 is the digest, in hex, of the whole object, without status and what a controller's writes to it change.
	SHA256 string `json:"sha256"`
	// Object is the object, its credentials hidden; nothing when there was no more room.
	Object json.RawMessage `json:"object,omitempty"`
}

// EnvironmentSecret is one Secret as it was.
type EnvironmentSecret struct {
	Name string `json:"name"`
	// SHA256 is the digest, in hex, of its uid, type and data.
	SHA256 string `json:"sha256"`
}

// NewEnvironment has the objects of a plan as they were before.
func NewEnvironment(plan Plan) (*Environment, error) {
	e := &Environment{Objects: []EnvironmentObject{}}
	for _, object := range plan.Objects {
		state, err := object.before()
		if err != nil {
			return nil, err
		}
		if err := e.add(RoleChanged, object.Ref, state, object.Before); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Add adds a live object; one that is there already stays as it is.
func (e *Environment) Add(role string, live *unstructured.Unstructured) error {
	ref := refOf(live)
	for _, object := range e.Objects {
		if object.Ref.sameObject(ref) {
			return nil
		}
	}
	state, err := normalize(live.Object)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	state = kept(state)
	canonical, err := Canonical(state)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	return e.add(role, ref, state, canonical)
}

func (e *Environment) add(role string, ref ObjectRef, state map[string]any, canonical []byte) error {
	object := EnvironmentObject{Role: role, Ref: ref, SHA256: Digest(canonical)}
	metadata, _ := state["metadata"].(map[string]any)
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
	}
	shown, err := json.Marshal(hide("", state))
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	if e.size+len(shown) <= maxEnvironment {
		e.size += len(shown)
		object.Object = shown
	} else {
		e.Note("%s: its content is left out, %d bytes are too many", ref, len(shown))
	}
	e.Objects = append(e.Objects, object)
	return nil
}

// AddSecret adds the digest of a live Secret.
func (e *Environment) AddSecret(live *unstructured.Unstructured) error {
	canonical, err := Canonical(map[string]any{"uid": live.GetUID(), "type": live.Object["type"], "data": live.Object["data"]})
	if err != nil {
		return fmt.Errorf("Secret/%s: its content is not JSON", live.GetName()) // the error might show some of it
	}
	e.Secrets = append(e.Secrets, EnvironmentSecret{Name: live.GetName(), SHA256: Digest(canonical)})
	return nil
}

// Note notes what could not be captured.
func (e *Environment) Note(format string, args ...any) {
	e.Notes = append(e.Notes, bounded(fmt.Sprintf(format, args...), 512))
}
