package snapshot

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Comparison counts where the touched paths of a live object are. A part that the change created or removed as a
// whole counts once, unless others wrote into it: then its parts count each.
type Comparison struct {
	Before, After, Foreign int
	// ForeignPaths lists the paths that are neither.
	ForeignPaths []PathReport
	// Replaced says that the live object is not the planned one: it was deleted and created again.
	Replaced bool
}

// AllBefore says that the live object has none of the change: it was not applied, or was restored exactly.
func (c Comparison) AllBefore() bool { return !c.Replaced && c.After == 0 && c.Foreign == 0 }

// AllAfter says that the live object has the whole change.
func (c Comparison) AllAfter() bool { return !c.Replaced && c.Before == 0 && c.Foreign == 0 }

// PathReport describes one path that was left alone. The values are for people: bounded, and hidden where the name
// of the field says that it holds a credential; empty when there is nothing at the path.
type PathReport struct {
	Path   string
	Before string
	After  string
	Live   string
	Reason string
}

// Compare says where each touched path of the live object is.
func (p ObjectPlan) Compare(live *unstructured.Unstructured) Comparison {
	_, _, findings, err := p.observe(live, toBefore)
	if err != nil {
		return Comparison{
			Replaced: live != nil && string(live.GetUID()) != p.Ref.UID, Foreign: 1,
			ForeignPaths: []PathReport{{Reason: err.Error()}},
		}
	}
	var comparison Comparison
	for _, found := range findings {
		switch found.place {
		case atGoal:
			comparison.Before++
		case atStart:
			comparison.After++
		case foreign:
			comparison.Foreign++
			comparison.ForeignPaths = append(comparison.ForeignPaths, found.report())
		}
	}
	return comparison
}

// Forward returns the JSON patch (RFC 6902) that puts every touched path that has its value before to its value
// after, nil when all have it already. Its resourceVersion precondition makes the server answer 409 when the object
// changed meanwhile. The error is ErrForeign when a path has neither value, ErrReplaced for another object.
func (p ObjectPlan) Forward(live *unstructured.Unstructured) ([]byte, error) {
	state, desired, findings, err := p.observe(live, toAfter)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, found := range findings {
		if found.place == foreign {
			others = append(others, fmt.Sprintf("%s (%s)", found.path, found.reason))
		}
	}
	if len(others) > 0 {
		return nil, fmt.Errorf("%s: %w: %s: plan the change anew", p.Ref, ErrForeign, bounded(strings.Join(others, ", "), 1024))
	}
	return jsonPatch(state, desired)
}

// Inverse returns the JSON patch that restores what still has its value after, nil when there is nothing to restore,
// and the paths that it leaves alone because others changed them. The precondition and ErrReplaced are as in Forward.
func (p ObjectPlan) Inverse(live *unstructured.Unstructured) (patch []byte, left []PathReport, err error) {
	state, desired, findings, err := p.observe(live, toBefore)
	if err != nil {
		return nil, nil, err
	}
	for _, found := range findings {
		if found.place == foreign {
			left = append(left, found.report())
		}
	}
	patch, err = jsonPatch(state, desired)
	return patch, left, err
}

// observe returns the live object as data, as it should become, and what was seen at the touched paths.
func (p ObjectPlan) observe(live *unstructured.Unstructured, to direction) (state, desired map[string]any, findings []finding, err error) {
	if live == nil || live.Object == nil {
		return nil, nil, nil, fmt.Errorf("%s: no live object", p.Ref)
	}
	if string(live.GetUID()) != p.Ref.UID {
		return nil, nil, nil, fmt.Errorf("%s: %w: its uid is %s instead of %s", p.Ref, ErrReplaced, live.GetUID(), p.Ref.UID)
	}
	if state, err = normalize(live.Object); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", p.Ref, err)
	}
	shape, err := learnShape(live)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", p.Ref, err)
	}
	desired, findings, err = p.converge(state, shape, to)
	return state, desired, findings, err
}

func (f finding) report() PathReport {
	return PathReport{
		Path: f.path.String(), Reason: f.reason,
		Before: render(f.path, f.goal), After: render(f.path, f.start), Live: render(f.path, f.live),
	}
}
