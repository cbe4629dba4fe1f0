package snapshot

import "strings"

// pathSet holds paths by their text, to find the one that leads to another or to a parent of it without comparing
// all: a plan can have ten thousand paths.
type pathSet map[string]struct{}

func newPathSet(changes []PathChange) pathSet {
	set := make(pathSet, len(changes))
	for _, change := range changes {
		set.add(change.Path)
	}
	return set
}

func (s pathSet) add(path Path) { s[path.String()] = struct{}{} }

// cover returns the path of the set that contains the given one.
func (s pathSet) cover(path Path) (string, bool) {
	for text := range path.prefixes {
		if _, ok := s[text]; ok {
			return text, true
		}
	}
	return "", false
}

func (s pathSet) covers(path Path) bool {
	_, ok := s.cover(path)
	return ok
}

// prefixes yields the texts of the path's parents from the outside in, and of itself.
func (p Path) prefixes(yield func(string) bool) {
	var out strings.Builder
	for i, element := range p {
		element.append(&out, i == 0)
		if !yield(out.String()) {
			return
		}
	}
}
