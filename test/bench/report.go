// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
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
	// digits of a value that has a unit.
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

func printReport(out io.Writer, facts []string, results []result) {
	fmt.Fprintf(out, "%s\n\n", strings.Join(facts, "; "))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MEASURED\tVALUE\tLIMIT\t\tDETAIL")
	for _, r := range results {
		value := fmt.Sprintf("%.2f", r.value)
		if r.unit != "" {
			value = fmt.Sprintf("%.*f %s", r.digits, r.value, r.unit)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.name, value, r.limit(), r.verdict(), r.detail)
	}
	_ = table.Flush()
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
