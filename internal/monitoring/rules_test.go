// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	namePattern       = regexp.MustCompile(`dgm_[a-z0-9_]+`)
	definitionPattern = regexp.MustCompile(`"(dgm_[a-z0-9_]+)"`)
)

// exported lists the names of the metrics that this package makes.
func exported(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range definitionPattern.FindAllSubmatch(content, -1) {
			names = append(names, string(name[1]))
		}
	}
	return names
}

// An alert on a metric that nobody exports never fires; docs/monitoring.md lists
// all of them.
func TestRulesAndDocumentNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	names := exported(t)
	for _, file := range []string{"../../config/monitoring/rules.yaml", "../../docs/monitoring.md"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namePattern.FindAllString(string(content), -1) {
			if !slices.Contains(names, name) && !slices.Contains([]string{"dgm_readonly", "dgm_service", "dgm_owner", "dgm_archive"}, name) {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
		}
		if strings.HasSuffix(file, ".md") {
			for _, name := range names {
				if !strings.Contains(string(content), "`"+name) {
					t.Errorf("%s does not list %s", file, name)
				}
			}
		}
	}
}
