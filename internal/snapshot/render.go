package snapshot

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/pmezard/go-difflib/difflib"
)

const (
	maxRendered     = 200      // bytes of one value on one line
	maxDiffedText   = 32 << 10 // bytes of a text that is compared line by line
	maxDiffedLines  = 1000
	maxUnifiedLines = 40
)

// Diff describes the plan for people: one line per touched path, texts of several lines as a unified diff. Each value
// is bounded, and hidden where the field's name says that it holds a credential.
func (p Plan) Diff() string {
	var out strings.Builder
	for _, object := range p.Objects {
		for _, change := range object.Paths {
			before, after := change.display()
			fmt.Fprintf(&out, "%s  %s: ", object.Ref, change.Path)
			if unified, ok := unifiedDiff(change.Path, before, after); ok {
				out.WriteString("\n" + unified)
				continue
			}
			out.WriteString(arrow(change.Path, before, after) + "\n")
		}
	}
	return out.String()
}

// Summary describes the plan on one line of at most limit bytes.
func (p Plan) Summary(limit int) string {
	var parts []string
	paths := 0
	for _, object := range p.Objects {
		for _, change := range object.Paths {
			before, after := change.display()
			parts = append(parts, fmt.Sprintf("%s %s: %s", object.Ref, change.Path, arrow(change.Path, before, after)))
			paths++
		}
	}
	if paths == 0 {
		return bounded("nothing changes", limit)
	}
	head := ""
	if paths > 1 {
		head = fmt.Sprintf("%d values in %d objects: ", paths, len(p.Objects))
	}
	return bounded(head+strings.Join(parts, "; "), limit)
}

// display decodes both sides; what does not decode is shown as it is stored.
func (c PathChange) display() (before, after maybe) {
	show := func(v *Value) maybe {
		decoded, err := v.maybe()
		if err != nil {
			return some(string(*v))
		}
		return decoded
	}
	return show(c.Before), show(c.After)
}

func arrow(path Path, before, after maybe) string {
	switch {
	case !before.present:
		return "added " + render(path, after)
	case !after.present:
		return "removed " + render(path, before)
	}
	return render(path, before) + " → " + render(path, after)
}

// render writes a value on one bounded line; nothing when there is none.
func render(path Path, m maybe) string {
	if !m.present {
		return ""
	}
	hidden := hide(names(path), m.value)
	if text, ok := hidden.(redacted); ok {
		return string(text)
	}
	value, err := some(hidden).pointer()
	if err != nil {
		return "(not JSON)"
	}
	text := readable(*value)
	if len(text) <= maxRendered {
		return text
	}
	return fmt.Sprintf("%s (%d bytes)", bounded(text, maxRendered), len(text))
}

var htmlEscapes = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")

func readable(value Value) string { return htmlEscapes.Replace(string(value)) }

// redacted stands for a hidden text.
type redacted string

var (
	credentialName = regexp.MustCompile(`(?i)(passw(or)?d|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key)$`)
	credentialURL  = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)
)

// hide copies a value without texts whose field, or whose neighbouring field "name", is named like a credential, and
// without passwords in URLs.
func hide(name string, value any) any {
	switch typed := value.(type) {
	case string:
		if credentialName.MatchString(name) {
			return redacted(fmt.Sprintf("(hidden, %d bytes)", len(typed)))
		}
		return credentialURL.ReplaceAllString(typed, "$1***@")
	case map[string]any:
		out := make(map[string]any, len(typed))
		for key, item := range typed {
			out[key] = hide(nameIn(typed, key), item)
		}
		return out
	case []any:
		out := make([]any, len(typed))
		for i, item := range typed {
			out[i] = hide(name, item)
		}
		return out
	}
	return value
}

// nameIn is the name that tells what a field holds: that of the item for {name: …, value: …}.
func nameIn(fields map[string]any, key string) string {
	if name, ok := fields["name"].(string); ok && key == "value" {
		return name
	}
	return key
}

// names is nameIn for the last step of a path.
func names(path Path) string {
	if len(path) == 0 {
		return ""
	}
	last := path[len(path)-1]
	if last.Field != "value" || len(path) < 2 {
		return last.Field
	}
	for _, key := range path[len(path)-2].Keys {
		var name string
		if decoded, err := decode(key.Value); err == nil && key.Name == "name" {
			name, _ = decoded.(string)
			return name
		}
	}
	return last.Field
}

// unifiedDiff compares texts of several lines.
func unifiedDiff(path Path, before, after maybe) (string, bool) {
	old, ok1 := hide(names(path), before.value).(string)
	updated, ok2 := hide(names(path), after.value).(string)
	if !ok1 || !ok2 || !strings.Contains(old+updated, "\n") || tooLong(old) || tooLong(updated) {
		return "", false
	}
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: textLines(old), B: textLines(updated), Context: 2,
	})
	if err != nil {
		return "", false
	}
	lines := strings.SplitAfter(diff, "\n")
	var out strings.Builder
	for i, line := range lines {
		if line == "" {
			continue
		}
		if i == maxUnifiedLines {
			fmt.Fprintf(&out, "    … %d more lines\n", len(lines)-i)
			break
		}
		out.WriteString("    " + bounded(strings.TrimSuffix(line, "\n"), maxRendered) + "\n")
	}
	return out.String(), true
}

func textLines(text string) []string {
	lines := strings.SplitAfter(text, "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	} else {
		lines[last] += "\n\\ No newline at the end\n"
	}
	return lines
}

func tooLong(text string) bool {
	return len(text) > maxDiffedText || strings.Count(text, "\n") > maxDiffedLines
}

// bounded cuts a text to at most limit bytes, between characters, and shows that it did.
func bounded(text string, limit int) string {
	const mark = "…"
	if len(text) <= limit {
		return text
	}
	if limit < len(mark) {
		return ""
	}
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
