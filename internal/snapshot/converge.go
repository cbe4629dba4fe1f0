package snapshot

import (
	"errors"
	"slices"
)

// direction says which side of a change is the goal.
type direction int

const (
	toBefore direction = iota
	toAfter
)

// place says on which side of the change a path of the live object is.
type place int

const (
	atGoal  place = iota // has the value to reach
	atStart              // has the value to leave, which the edit changes
	foreign              // has neither: left alone
)

// finding is what was seen at one path, or at one part of it where others wrote into a part that the change created
// or removed as a whole.
type finding struct {
	path   Path
	place  place
	start  maybe
	goal   maybe
	live   maybe
	reason string
}

const (
	reasonChanged = "changed by another since"
	reasonAdded   = "added by another inside a part that this change created or removed"
)

// convergence edits one object towards one side of a plan and notes what it sees.
type convergence struct {
	refine   bool // look inside parts that the change created or removed as a whole
	findings []finding
}

// converge returns the live object with every path that is at the start put to its goal.
func (p ObjectPlan) converge(live map[string]any, shape *node, to direction) (map[string]any, []finding, error) {
	desired, ok := clone(live).(map[string]any)
	if !ok {
		return nil, nil, errors.New("the live object is empty")
	}
	before, err := p.before()
	if err != nil {
		return nil, nil, err
	}
	c := &convergence{refine: to == toBefore}
	for _, change := range p.Paths {
		if err := c.step(p, change, before, desired, shape, to); err != nil {
			return nil, nil, err
		}
	}
	return desired, c.findings, nil
}

func (c *convergence) step(p ObjectPlan, change PathChange, before, desired map[string]any, shape *node, to direction) error {
	start, goal, err := change.sides(to)
	if err != nil {
		return err
	}
	last := change.Path[len(change.Path)-1]
	e := editor{order: func(list Path) []string {
		if to == toBefore {
			return itemsAt(before, list, last)
		}
		return p.orderAfter(list)
	}}
	seen := maybe{}
	err = e.apply(desired, change.Path, func(live maybe) maybe {
		seen = live
		return c.settle(shape.at(change.Path), change.Path, start, goal, live)
	})
	if err == nil {
		return nil
	}
	// Without the item nothing of the change is left to take away.
	found := finding{path: change.Path, place: foreign, start: start, goal: goal, live: seen, reason: err.Error()}
	if errors.Is(err, errItemGone) && to == toBefore && !goal.present {
		found.place = atGoal
	}
	c.findings = append(c.findings, found)
	return nil
}

// settle returns the value that belongs at a path.
func (c *convergence) settle(n *node, path Path, start, goal, live maybe) maybe {
	switch {
	case live.equal(goal):
		c.note(path, atGoal, start, goal, live, "")
		return live
	case live.equal(start):
		c.note(path, atStart, start, goal, live, "")
		return maybe{value: clone(goal.value), present: goal.present}
	case c.refine && start.present != goal.present && path[len(path)-1].isField():
		if settled, ok := c.settleInside(n, path, start, goal, live); ok {
			return settled
		}
	}
	reason := reasonChanged
	if !start.present && !goal.present {
		reason = reasonAdded
	}
	c.note(path, foreign, start, goal, live, reason)
	return live
}

// settleInside handles a part that the change created or removed as a whole and into which others wrote: only what
// the change itself put there or took away is undone. Created parents go when nothing is left in them.
func (c *convergence) settleInside(n *node, path Path, start, goal, live maybe) (maybe, bool) {
	whole := start
	if goal.present {
		whole = goal
	}
	// Empty is a value like any other: somebody said it.
	if isEmpty(live.value) {
		return maybe{}, false
	}
	settled, ok := maybe{}, false
	switch ours := whole.value.(type) {
	case map[string]any:
		theirs, isMap := live.value.(map[string]any)
		if ok = isMap && !n.atomicMap(); ok {
			settled = some(c.settleMap(n, path, ours, theirs, goal.present))
		}
	case []any:
		if theirs, isList := live.value.([]any); isList {
			settled, ok = c.settleList(n, path, ours, theirs, goal.present)
		}
	}
	if ok && !goal.present && isEmpty(settled.value) {
		settled = maybe{}
	}
	return settled, ok
}

func (c *convergence) settleMap(n *node, path Path, ours, theirs map[string]any, restore bool) map[string]any {
	settled := map[string]any{}
	for _, name := range unionKeys(ours, theirs) {
		start, goal := sidesOf(get(ours, name), restore)
		value := c.settle(n.field(name), path.Child(Element{Field: name}), start, goal, get(theirs, name))
		if value.present {
			settled[name] = value.value
		}
	}
	return settled
}

// settleList treats items as units: an item into which others wrote is theirs as a whole, since half of it is
// seldom a valid item.
func (c *convergence) settleList(n *node, path Path, ours, theirs []any, restore bool) (maybe, bool) {
	ourItems, ok1 := n.identify(ours)
	theirItems, ok2 := n.identify(theirs)
	if !ok1 || !ok2 {
		return maybe{}, false
	}
	ourIndex, theirIndex := index(ourItems), index(theirItems)
	settled := []any{}
	for i, element := range theirItems {
		own := maybe{}
		if j, ok := ourIndex[element.String()]; ok {
			own = some(ours[j])
		}
		start, goal := sidesOf(own, restore)
		if value := c.settle(n.listItem(), path.Child(element), start, goal, some(theirs[i])); value.present {
			settled = append(settled, value.value)
		}
	}
	for j, element := range ourItems {
		if _, ok := theirIndex[element.String()]; ok {
			continue
		}
		start, goal := sidesOf(some(ours[j]), restore)
		if value := c.settle(n.listItem(), path.Child(element), start, goal, maybe{}); value.present {
			settled = insert(settled, element, value.value, texts(ourItems))
		}
	}
	return some(settled), true
}

func sidesOf(own maybe, restore bool) (start, goal maybe) {
	if restore {
		return maybe{}, own
	}
	return own, maybe{}
}

func (c *convergence) note(path Path, at place, start, goal, live maybe, reason string) {
	c.findings = append(c.findings, finding{path: path, place: at, start: start, goal: goal, live: live, reason: reason})
}

func (c PathChange) sides(to direction) (start, goal maybe, err error) {
	if start, err = c.After.maybe(); err != nil {
		return start, goal, err
	}
	if goal, err = c.Before.maybe(); err != nil {
		return start, goal, err
	}
	if to == toAfter {
		start, goal = goal, start
	}
	return start, goal, nil
}

func (p ObjectPlan) orderAfter(list Path) []string {
	at := slices.IndexFunc(p.Orders, func(o ListOrder) bool { return o.Path.String() == list.String() })
	if at < 0 {
		return nil
	}
	return p.Orders[at].Items
}

func isEmpty(value any) bool {
	switch typed := value.(type) {
	case map[string]any:
		return len(typed) == 0
	case []any:
		return len(typed) == 0
	}
	return false
}

func (n *node) at(path Path) *node {
	for _, element := range path {
		if element.isField() {
			n = n.field(element.Field)
		} else {
			n = n.listItem()
		}
	}
	return n
}
