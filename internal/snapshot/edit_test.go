package snapshot

import "testing"

// What a path's element names is found without encoding each item; it must be what encoding them would find.
func TestMatcherAgreesWithTheNameOfAnItem(t *testing.T) {
	items := []any{
		nil, true, int64(1), 1.5, "1", "a", "", map[string]any{}, []any{"a"},
		map[string]any{"name": "a"}, map[string]any{"name": "a", "port": int64(80)}, map[string]any{"name": "a", "port": "80"},
		map[string]any{"name": nil}, map[string]any{"name": "null"}, map[string]any{"port": int64(80)}, map[string]any{"name": map[string]any{"x": "y"}},
	}
	for _, keys := range [][]string{nil, {"name"}, {"name", "port"}} {
		for _, named := range items {
			element, ok := elementOf(named, keys)
			if !ok {
				continue
			}
			matches, err := element.matcher()
			if err != nil {
				t.Fatalf("%s: %v", element, err)
			}
			for _, item := range items {
				candidate, ok := elementOf(item, keys)
				if want := ok && candidate.String() == element.String(); matches(item) != want {
					t.Errorf("%s names %v: %v, want %v", element, item, !want, want)
				}
			}
		}
	}
}
