package snapshot

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

var restartFields = []string{"spec", "template", "metadata", "annotations", dgmv1alpha1.AnnotationRestartedFor}

// restartPath is where the annotation is whose change restarts the pods.
var restartPath = fieldsPath(restartFields)

func fieldsPath(fields []string) Path {
	path := make(Path, len(fields))
	for i, field := range fields {
		path[i] = Element{Field: field}
	}
	return path
}

// startsAt says whether a touched path is this one, or a parent of it that the change created.
func (p Path) startsAt(touched Path) bool { return len(touched) >= len(p)-2 && touched.Contains(p) }

// Restarting returns the JSON patch that makes the planned change of a live object, as Forward does, and restarts its
// pods by the same write.
func (p ObjectPlan) Restarting(live *unstructured.Unstructured, value string) ([]byte, error) {
	state, desired, findings, err := p.observe(live, toAfter)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(findings, func(f finding) bool { return f.place == foreign }) {
		return nil, fmt.Errorf("%s: %w: plan the change anew", p.Ref, ErrForeign)
	}
	return restartPatch(p.Ref, state, desired, value)
}

// RestartAgain returns the JSON patch that restarts the pods of a live object whose restart can no longer be taken
// back, since others have restarted it after; nil when it bears that value already.
func (p ObjectPlan) RestartAgain(live *unstructured.Unstructured, value string) ([]byte, error) {
	state, err := normalize(live.Object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Ref, err)
	}
	desired, ok := clone(state).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: the live object is empty", p.Ref)
	}
	return restartPatch(p.Ref, state, desired, value)
}

func restartPatch(ref ObjectRef, state, desired map[string]any, value string) ([]byte, error) {
	if _, ok := desired["spec"].(map[string]any); !ok {
		return nil, fmt.Errorf("%s: %w", ref, errors.New("it has no pod template to restart"))
	}
	if err := unstructured.SetNestedField(desired, value, restartFields...); err != nil {
		return nil, fmt.Errorf("%s: restart: %w", ref, err)
	}
	return jsonPatch(state, desired)
}

// WithoutRestart leaves out of the paths that a rollback left alone the one that restarts, and says whether it was
// among them.
func (p ObjectPlan) WithoutRestart(left []PathReport) (rest []PathReport, restarted bool) {
	for _, report := range left {
		if p.Restart && report.Path == restartPath.String() {
			restarted = true
			continue
		}
		rest = append(rest, report)
	}
	return rest, restarted
}

// RestartsLast orders objects so that those that restart pods come after all that these pods read.
func (p *Plan) RestartsLast() {
	slices.SortStableFunc(p.Objects, func(a, b ObjectPlan) int { return rank(a) - rank(b) })
}

// Undoing are the objects in the order in which they are put back: the reverse one, but that pods restart, here too,
// after all that they read.
func (p Plan) Undoing() []ObjectPlan {
	undoing := slices.Clone(p.Objects)
	slices.Reverse(undoing)
	slices.SortStableFunc(undoing, func(a, b ObjectPlan) int { return rank(a) - rank(b) })
	return undoing
}

func rank(o ObjectPlan) int {
	if o.Restart {
		return 1
	}
	return 0
}
