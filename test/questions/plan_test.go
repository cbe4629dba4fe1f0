// SPDX-License-Identifier: Apache-2.0

package questions

import (
	"slices"
	"strings"
	"testing"
)

// question is about one table and returns two rows.
var question = Question{Table: "dgm_archive", Index: "by_status", Rows: 2}

func TestProblems(t *testing.T) {
	scan := func(index string, rows int) Scan { return Scan{Relation: "dgm_archive", Index: index, Rows: rows} }
	for _, test := range []struct {
		name string
		plan Plan
		want string // part of the only problem; empty for none
	}{
		{"as it should be", Plan{Returned: 2, Scans: []Scan{scan("by_status", 2)}, Sorted: 2, Blocks: 8}, ""},
		{"with look-ups by another index", Plan{Returned: 2, Scans: []Scan{scan("by_name", 2), scan("by_status", 2)}}, ""},
		{"too few rows", Plan{Returned: 1, Scans: []Scan{scan("by_status", 1)}}, "returns 1 rows instead of 2"},
		{"another index", Plan{Returned: 2, Scans: []Scan{scan("by_name", 2)}}, "by_status is used for [] instead of [dgm_archive]"},
		{"rows read in vain", Plan{Returned: 2, Scans: []Scan{scan("by_status", 3)}}, "reads 3 rows of dgm_archive by by_status to return 2"},
		{"rows sorted in vain", Plan{Returned: 2, Scans: []Scan{scan("by_status", 2)}, Sorted: 3}, "sorts 3 rows"},
		{"blocks looked at in vain", Plan{Returned: 2, Scans: []Scan{scan("by_status", 2)}, Blocks: 25}, "looks at 25 blocks"},
		{"a partition too many", Plan{Returned: 2, Scans: []Scan{scan("by_status", 2), {"dgm_archive_old", "by_status", 0}}}, "touches [dgm_archive dgm_archive_old]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := strings.Join(test.plan.problems(question, []string{"dgm_archive"}, []string{"by_status"}), "; ")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("problems are %q, want %q", got, test.want)
			}
		})
	}
	whole := Plan{Returned: 2, Scans: []Scan{scan("", 2)}}
	if got := whole.problems(question, []string{"dgm_archive"}, []string{"by_status"}); !slices.Contains(got, "it reads dgm_archive from one end to the other") {
		t.Errorf("problems of a sequential scan are %q", got)
	}
}

func TestReadPlan(t *testing.T) {
	got, err := readPlan([]byte(`[{"Execution Time": 1.5, "Plan": {"Node Type": "Limit", "Actual Rows": 3, "Actual Loops": 1, "Shared Hit Blocks": 7, "Shared Read Blocks": 2, "Plans": [
		{"Node Type": "Incremental Sort", "Actual Rows": 3, "Actual Loops": 1, "Plans": [
			{"Node Type": "Nested Loop", "Actual Rows": 4, "Actual Loops": 1, "Plans": [
				{"Node Type": "Bitmap Heap Scan", "Relation Name": "a", "Actual Rows": 4, "Rows Removed by Filter": 5, "Rows Removed by Index Recheck": 6, "Actual Loops": 1, "Plans": [
					{"Node Type": "Bitmap Index Scan", "Index Name": "ia", "Actual Rows": 15, "Actual Loops": 1}]},
				{"Node Type": "Index Scan", "Relation Name": "b", "Index Name": "ib", "Actual Rows": 1, "Actual Loops": 4},
				{"Node Type": "Seq Scan", "Relation Name": "c", "Actual Rows": 0, "Actual Loops": 0}]}]}]}}]`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []Scan{{"a", "ia", 15}, {"b", "ib", 4}}; !slices.Equal(got.Scans, want) {
		t.Errorf("scans are %v, want %v", got.Scans, want)
	}
	if got.Returned != 3 || got.Sorted != 4 || got.Blocks != 9 || got.Milliseconds != 1.5 {
		t.Errorf("the plan is read as %+v", got)
	}
}
