// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"
)

func TestDecodePatch(t *testing.T) {
	for _, test := range []struct{ name, patch, want, says string }{
		{"YAML", "data: {A: \"1\"}", `{"data":{"A":"1"}}`, ""},
		{"JSON", `[{"op":"remove","path":"/data/A"}]`, `[{"op":"remove","path":"/data/A"}]`, ""},
		{"an alias", "data: {A: &a \"1\", B: *a}", `{"data":{"A":"1","B":"1"}}`, ""},
		{"one document with marks", "---\ndata: {A: \"1\"}\n", `{"data":{"A":"1"}}`, ""},
		{"two documents", "data: {A: \"1\"}\n---\ndata: {B: \"1\"}\n", "", "several documents"},
		{"no YAML", "data: {A: ", "", "line 1"},
		{"a long text many times", "a: &a " + strings.Repeat("x", 200<<10) + "\nb: [" + strings.Repeat("*a,", 60_000) + "]", "", "aliases"},
		{"aliases of aliases", "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + doublings(40), "", "aliases"},
		{"an alias in itself", "a: &a [*a]", "", "contains itself"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := decodePatch(test.patch)
			if string(got) != test.want || (test.says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %.200s, %v, want %s and an error that says %q", got, err, test.want, test.says)
			}
		})
	}
}

// doublings are lists of which each holds the one before twice.
func doublings(n int) string {
	var text strings.Builder
	for i := range n {
		text.WriteString("a" + strings.Repeat("i", i+1) + ": &a" + strings.Repeat("i", i+1) + " [*a" + strings.Repeat("i", i) + ", *a" + strings.Repeat("i", i) + "]\n")
	}
	return strings.Replace(text.String(), "*a, *a]", "*a0, *a0]", 1)
}
