// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result is one line of the report.
type result struct {
	name  string
	value float64
	unit  string
	// digits behind the point; of a ratio at least two.
	digits int
	// atMost and atLeast are limits; nil for none.
	atMost, atLeast *float64
	detail          string
}

func (r result) missed() bool {
	return (r.atMost != nil && r.value > *r.atMost) || (r.atLeast != nil && r.value < *r.atLeast)
}

func (r result) limit() string {
	switch {
	case r.atMost != nil:
		return fmt.Sprintf("at most %g", *r.atMost)
	case r.atLeast != nil:
		return fmt.Sprintf("at least %g", *r.atLeast)
	}
	return ""
}

func (r result) verdict() string {
	switch {
	case r.atMost == nil && r.atLeast == nil:
		return ""
	case r.missed():
		return "MISSED"
	}
	return "met"
}

func (r result) shown() string {
	if r.unit == "" {
		return fmt.Sprintf("%.*f", max(2, r.digits), r.value)
	}
	return fmt.Sprintf("%.*f %s", r.digits, r.value, r.unit)
}

func printReport(out io.Writer, facts []string, results []result) {
	fmt.Fprintf(out, "%s\n\n", strings.Join(facts, "; "))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MEASURED\tVALUE\tLIMIT\t\tDETAIL")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.name, r.shown(), r.limit(), r.verdict(), r.detail)
	}
	_ = table.Flush()
}

// A recorded run stands between these lines of a document.
const recordBegin, recordEnd = "<!-- begin of a recorded run -->\n", "<!-- end of a recorded run -->\n"

// record puts a report as Markdown in the place of the one that a document has.
func record(document string, facts []string, results []result) (string, error) {
	before, rest, begins := strings.Cut(document, recordBegin)
	_, after, ends := strings.Cut(rest, recordEnd)
	if !begins || !ends {
		return "", fmt.Errorf("no lines %q and %q to put the run between", strings.TrimSpace(recordBegin), strings.TrimSpace(recordEnd))
	}
	var run strings.Builder
	fmt.Fprintf(&run, "%s.\n\n| measured | value | limit | | detail |\n|---|---|---|---|---|\n", strings.Join(facts, "; "))
	for _, r := range results {
		fmt.Fprintf(&run, "| %s | %s | %s | %s | %s |\n", r.name, r.shown(), r.limit(), r.verdict(), r.detail)
	}
	return before + recordBegin + run.String() + recordEnd + after, nil
}

// recordIn does so in a file.
func recordIn(path string, facts []string, results []result) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	updated, err := record(string(document), facts, results)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(updated), 0o644) //nolint:gosec // a document of the repository
}

// median of an odd number of values, and of an even one the lower of the two in
// the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

// spread shows the median and the ends of some values.
func spread(values []float64, format string) string {
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf(format+" ("+format+" to "+format+")", median(values), sorted[0], sorted[len(sorted)-1])
}

func rates(n int, times []time.Duration) []float64 {
	out := make([]float64, len(times))
	for i, t := range times {
		out[i] = float64(n) / t.Seconds()
	}
	return out
}
