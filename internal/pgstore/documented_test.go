// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"os"
	"strings"
	"testing"
)

// documented returns the SQL that docs/database.md shows under a heading, as
// far as it holds a text.
func documented(t testing.TB, heading, holding string) []string {
	t.Helper()
	content, err := os.ReadFile("../../docs/database.md")
	must(t, err)
	_, section, found := strings.Cut(string(content), "\n"+heading+"\n")
	if !found {
		t.Fatalf("docs/database.md has no heading %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, part := range strings.Split(section, "```sql\n")[1:] {
		if block, _, _ := strings.Cut(part, "```"); strings.Contains(block, holding) {
			blocks = append(blocks, block)
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("docs/database.md shows no SQL with %q under %q", holding, heading)
	}
	return blocks
}
