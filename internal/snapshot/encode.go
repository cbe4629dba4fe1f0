package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	kjson "sigs.k8s.io/json"
)

const (
	// Version is the version of the plan's stored form.
	Version = 1
	// MaxBytes is the largest stored form of a plan, in bytes: it has to fit into one object of the cluster.
	MaxBytes = 900 << 10
)

// ErrTooLarge marks a plan whose stored form is larger than MaxBytes.
var ErrTooLarge = errors.New("the snapshot is too large")

// Plan is what one improvement changes.
type Plan struct {
	// Version is that of the stored form; Encode fills it in when it is 0.
	Version int          `json:"version"`
	Objects []ObjectPlan `json:"objects"`
}

// Encode returns the stored form: canonical JSON, the same bytes for the same plan. The error is ErrTooLarge above
// MaxBytes.
func (p Plan) Encode() ([]byte, error) {
	if p.Version == 0 {
		p.Version = Version
	}
	data, err := Canonical(p)
	if err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	return data, checkSize(data)
}

func checkSize(data []byte) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are possible: change fewer or smaller objects in one improvement",
			ErrTooLarge, len(data), MaxBytes)
	}
	return nil
}

// Decode reads the stored form. It refuses an unknown version, and anything that would be lost on encoding again:
// unknown or repeated fields, paths that are not in their one form.
func Decode(data []byte) (Plan, error) {
	if err := checkSize(data); err != nil {
		return Plan{}, err
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Plan{}, fmt.Errorf("decode the plan: %w", err)
	}
	if head.Version != Version {
		return Plan{}, fmt.Errorf("decode the plan: it has version %d, this operator reads version %d: use the operator release that wrote it", head.Version, Version)
	}
	var plan Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return Plan{}, fmt.Errorf("decode the plan: %w", err)
	}
	if err := plan.check(data); err != nil {
		return Plan{}, fmt.Errorf("decode the plan: %w", err)
	}
	return plan, nil
}

func (p Plan) check(data []byte) error {
	var tree any
	if repeated, err := kjson.UnmarshalStrict(data, &tree, kjson.DisallowDuplicateFields); err != nil || len(repeated) > 0 {
		return errors.Join(append(repeated, err)...)
	}
	given, err := recode(data)
	if err != nil {
		return err
	}
	again, err := Canonical(p)
	if err != nil {
		return err
	}
	if !bytes.Equal(given, again) {
		return errors.New("it has unknown, repeated or missing fields: it was not written by this operator or is damaged")
	}
	for _, object := range p.Objects {
		if _, err := object.before(); err != nil {
			return err
		}
		for _, change := range object.Paths {
			if len(change.Path) == 0 {
				return fmt.Errorf("%s: a touched path is empty", object.Ref)
			}
		}
	}
	return nil
}

// UnmarshalJSON keeps a value null apart from no value.
func (c *PathChange) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	*c = PathChange{}
	for name, raw := range fields {
		var err error
		switch name {
		case "path":
			err = json.Unmarshal(raw, &c.Path)
		case "before":
			c.Before = new(Value)
			err = c.Before.UnmarshalJSON(raw)
		case "after":
			c.After = new(Value)
			err = c.After.UnmarshalJSON(raw)
		}
		if err != nil {
			return fmt.Errorf("touched path, %s: %w", name, err)
		}
	}
	return nil
}

// BeforeDigest returns the digest that an approval names: over the objects and the touched paths with their values
// before and after. It does not change when other parts of the objects do.
func (p Plan) BeforeDigest() string {
	type touched struct {
		Change string       `json:"change"`
		Ref    ObjectRef    `json:"ref"`
		Paths  []PathChange `json:"paths"`
	}
	objects := make([]touched, len(p.Objects))
	for i, object := range p.Objects {
		objects[i] = touched{Change: object.Change, Ref: object.Ref, Paths: object.Paths}
	}
	canonical, err := Canonical(objects)
	if err != nil {
		// Only values that are not JSON fail, and Value holds none; no approval can name this.
		return ""
	}
	return Digest(canonical)
}

// Overlaps lists the touched paths of the same objects of which one is the other or lies inside it. That both restart
// a workload does not count: a restart is undone by another one.
func (p Plan) Overlaps(q Plan) []string {
	var shared []string
	for _, mine := range p.Objects {
		for _, other := range q.Objects {
			if mine.Ref.sameObject(other.Ref) {
				shared = append(shared, overlaps(mine, other)...)
			}
		}
	}
	return shared
}

func overlaps(mine, other ObjectPlan) []string {
	theirs, parents := newPathSet(other.Paths), pathSet{}
	for _, change := range other.Paths {
		for text := range change.Path.prefixes {
			parents[text] = struct{}{}
		}
	}
	var shared []string
	for _, change := range mine.Paths {
		if mine.Restart && other.Restart && restartPath.startsAt(change.Path) {
			continue
		}
		text := change.Path.String()
		if _, inside := parents[text]; inside || theirs.covers(change.Path) {
			shared = append(shared, mine.Ref.String()+" "+text)
		}
	}
	return shared
}
