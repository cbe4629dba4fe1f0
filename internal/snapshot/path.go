package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Path leads from the root of an object to a value. It is written like
// spec.template.spec.containers[name=checkout].image; names that need it are quoted as JSON strings:
// metadata.annotations["example.org/note"]. An item of a set is [=value].
type Path []Element

// Element is one step of a path: the field of a map, the item of a list that has merge keys, or the item of a set.
// Exactly one of the three is meant: Keys when not empty, else Value when not nil, else Field.
type Element struct {
	Field string
	Keys  []KeyField
	Value *Value
}

// KeyField is one of the fields that tell the items of a list apart. A null value stands for a field that the item
// does not have.
type KeyField struct {
	Name  string
	Value Value
}

var (
	bareField = regexp.MustCompile(`^[A-Za-z0-9_$/-]+$`)
	bareValue = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./:-]*$`)
)

// String returns the textual form, which ParsePath reads.
func (p Path) String() string {
	var out strings.Builder
	for i, element := range p {
		element.append(&out, i == 0)
	}
	return out.String()
}

func (e Element) append(out *strings.Builder, first bool) {
	text := e.String()
	if !first && text[0] != '[' {
		out.WriteByte('.')
	}
	out.WriteString(text)
}

// Child returns the path one step further; the receiver is not changed.
func (p Path) Child(element Element) Path {
	return append(slices.Clip(slices.Clone(p)), element)
}

// Contains says whether other is the same path or leads to something inside the value at p.
func (p Path) Contains(other Path) bool {
	if len(p) > len(other) {
		return false
	}
	for i := range p {
		if p[i].String() != other[i].String() {
			return false
		}
	}
	return true
}

// MarshalText writes the textual form.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the textual form.
func (p *Path) UnmarshalText(text []byte) error {
	parsed, err := ParsePath(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}

func (e Element) isField() bool { return len(e.Keys) == 0 && e.Value == nil }

// String returns the element as it stands in a path, without a leading dot.
func (e Element) String() string {
	switch {
	case len(e.Keys) > 0:
		parts := make([]string, len(e.Keys))
		for i, key := range e.Keys {
			parts[i] = quoteUnless(bareField, key.Name) + "=" + key.Value.pathText()
		}
		return "[" + strings.Join(parts, ",") + "]"
	case e.Value != nil:
		return "[=" + e.Value.pathText() + "]"
	case bareField.MatchString(e.Field):
		return e.Field
	default:
		return "[" + quote(e.Field) + "]"
	}
}

// pathText writes strings bare where they cannot be mistaken for another JSON value.
func (v Value) pathText() string {
	var text string
	if json.Unmarshal(v, &text) != nil || string(v) == "null" {
		return string(v)
	}
	if slices.Contains([]string{"true", "false", "null"}, text) {
		return quote(text)
	}
	return quoteUnless(bareValue, text)
}

func quoteUnless(bare *regexp.Regexp, text string) string {
	if bare.MatchString(text) {
		return text
	}
	return quote(text)
}

func quote(text string) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	// A string always encodes.
	_ = encoder.Encode(text)
	return strings.TrimSuffix(out.String(), "\n")
}

// ParsePath reads the textual form of a path; only what String writes is accepted.
func ParsePath(text string) (Path, error) {
	parser := pathParser{rest: text}
	path, err := parser.path()
	if err != nil {
		return nil, fmt.Errorf("path %q, at byte %d: %w", bounded(text, 200), len(text)-len(parser.rest), err)
	}
	if path.String() != text {
		return nil, fmt.Errorf("path %q is not in its one form, which is %q", bounded(text, 200), bounded(path.String(), 200))
	}
	return path, nil
}

type pathParser struct{ rest string }

func (p *pathParser) path() (Path, error) {
	path := Path{}
	for p.rest != "" {
		element, err := p.element(len(path) == 0)
		if err != nil {
			return nil, err
		}
		path = append(path, element)
	}
	return path, nil
}

func (p *pathParser) element(first bool) (Element, error) {
	if p.take("[") {
		return p.bracket()
	}
	if !first && !p.take(".") {
		return Element{}, errors.New(`expected "." or "["`)
	}
	name := p.until(".[")
	if !bareField.MatchString(name) {
		return Element{}, fmt.Errorf("the name %q must be quoted", bounded(name, 80))
	}
	return Element{Field: name}, nil
}

func (p *pathParser) bracket() (Element, error) {
	if p.take("=") {
		value, err := p.value()
		if err != nil {
			return Element{}, err
		}
		return Element{Value: &value}, p.expect("]")
	}
	name, err := p.name()
	if err != nil {
		return Element{}, err
	}
	if p.take("]") {
		return Element{Field: name}, nil
	}
	return p.keys(name)
}

func (p *pathParser) keys(name string) (Element, error) {
	var element Element
	for {
		if err := p.expect("="); err != nil {
			return Element{}, err
		}
		value, err := p.value()
		if err != nil {
			return Element{}, err
		}
		if n := len(element.Keys); n > 0 && element.Keys[n-1].Name >= name {
			return Element{}, fmt.Errorf("merge keys must be sorted, each given once: %q", bounded(name, 80))
		}
		element.Keys = append(element.Keys, KeyField{Name: name, Value: value})
		if p.take("]") {
			return element, nil
		}
		if err := p.expect(","); err != nil {
			return Element{}, err
		}
		if name, err = p.name(); err != nil {
			return Element{}, err
		}
	}
}

func (p *pathParser) name() (string, error) {
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	name := p.until("=,]")
	if name == "" {
		return "", errors.New("expected a name")
	}
	return name, nil
}

func (p *pathParser) value() (Value, error) {
	if strings.HasPrefix(p.rest, `"`) {
		text, err := p.quoted()
		if err != nil {
			return nil, err
		}
		return Canonical(text)
	}
	text := p.until(",]")
	if bareValue.MatchString(text) && !slices.Contains([]string{"true", "false", "null"}, text) {
		return Canonical(text)
	}
	value, err := decode([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%q is neither a bare word nor a JSON value", bounded(text, 80))
	}
	return Canonical(value)
}

func (p *pathParser) quoted() (string, error) {
	decoder := json.NewDecoder(strings.NewReader(p.rest))
	var text string
	if err := decoder.Decode(&text); err != nil {
		return "", fmt.Errorf("quoted name: %w", err)
	}
	p.rest = p.rest[decoder.InputOffset():]
	return text, nil
}

func (p *pathParser) until(stops string) string {
	end := strings.IndexAny(p.rest, stops)
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

func (p *pathParser) take(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	p.rest = rest
	return ok
}

func (p *pathParser) expect(token string) error {
	if !p.take(token) {
		return fmt.Errorf("expected %q", token)
	}
	return nil
}

// fromFieldPath translates a path of managedFields; false for positions in a list, which name nothing lasting.
func fromFieldPath(path fieldpath.Path) (Path, bool) {
	out := make(Path, 0, len(path))
	for _, element := range path {
		translated, ok := fromPathElement(element)
		if !ok {
			return nil, false
		}
		out = append(out, translated)
	}
	return out, true
}

func fromPathElement(element fieldpath.PathElement) (Element, bool) {
	switch {
	case element.FieldName != nil:
		return Element{Field: *element.FieldName}, true
	case element.Key != nil:
		keys := make([]KeyField, 0, len(*element.Key))
		for _, field := range *element.Key {
			value, err := Canonical(field.Value.Unstructured())
			if err != nil {
				return Element{}, false
			}
			keys = append(keys, KeyField{Name: field.Name, Value: value})
		}
		slices.SortFunc(keys, func(a, b KeyField) int { return strings.Compare(a.Name, b.Name) })
		return Element{Keys: keys}, len(keys) > 0
	case element.Value != nil:
		canonical, err := Canonical((*element.Value).Unstructured())
		if err != nil {
			return Element{}, false
		}
		value := Value(canonical)
		return Element{Value: &value}, true
	}
	return Element{}, false
}
