// SPDX-License-Identifier: Apache-2.0

package questions

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Plan is what EXPLAIN (ANALYZE, BUFFERS) says of one execution.
type Plan struct {
	// Returned is the number of rows in the answer.
	Returned int
	// Scans of tables and partitions, in the order of their names and indexes.
	Scans []Scan
	// Sorted is the most rows that went into one sort.
	Sorted int
	// Blocks of 8 KiB were looked at, wherever they were found.
	Blocks int
	// Milliseconds that executing took.
	Milliseconds float64
}

// Scan of a table or partition.
type Scan struct {
	Relation string
	// Index that it was read by; empty for a sequential scan.
	Index string
	// Rows that were read, those that were thrown away included.
	Rows int
}

func (s Scan) String() string {
	if s.Index == "" {
		return s.Relation + " from one end to the other"
	}
	return s.Relation + " by " + s.Index
}

// planNode is the part of a node that is looked at.
type planNode struct {
	Type      string  `json:"Node Type"`
	Relation  string  `json:"Relation Name"`
	Index     string  `json:"Index Name"`
	Rows      float64 `json:"Actual Rows"` // of one loop
	Loops     float64 `json:"Actual Loops"`
	Filtered  float64 `json:"Rows Removed by Filter"`
	Rechecked float64 `json:"Rows Removed by Index Recheck"`
	Hit       int     `json:"Shared Hit Blocks"` // of the nodes below as well
	Fetched   int     `json:"Shared Read Blocks"`
	Plans     []planNode
}

// Explain executes a query and returns its plan.
func Explain(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (Plan, error) {
	var answer []byte
	if err := conn.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) "+sql, args...).Scan(&answer); err != nil {
		return Plan{}, fmt.Errorf("explain: %w", err)
	}
	return readPlan(answer)
}

func readPlan(explained []byte) (Plan, error) {
	var answers []struct {
		Plan         planNode
		Milliseconds float64 `json:"Execution Time"`
	}
	if err := json.Unmarshal(explained, &answers); err != nil {
		return Plan{}, fmt.Errorf("read the answer of EXPLAIN: %w", err)
	}
	if len(answers) != 1 {
		return Plan{}, fmt.Errorf("EXPLAIN answered with %d plans", len(answers))
	}
	root := answers[0].Plan
	p := Plan{
		Returned: int(root.Rows), Blocks: root.Hit + root.Fetched, Milliseconds: answers[0].Milliseconds,
	}
	p.add(root)
	slices.SortFunc(p.Scans, func(a, b Scan) int { return cmp.Compare(a.String(), b.String()) })
	return p, nil
}

// add takes in a node and those below, but for what was never executed.
func (p *Plan) add(n planNode) {
	if n.Loops == 0 {
		return
	}
	if n.Relation != "" {
		p.Scans = append(p.Scans, Scan{n.Relation, n.index(), int(n.Loops * (n.Rows + n.Filtered + n.Rechecked))})
	}
	if strings.HasSuffix(n.Type, "Sort") {
		for _, below := range n.Plans {
			p.Sorted = max(p.Sorted, int(below.Loops*below.Rows))
		}
	}
	for _, below := range n.Plans {
		p.add(below)
	}
}

// index that a scan reads by, which a bitmap scan has below it.
func (n planNode) index() string {
	for n.Index == "" && len(n.Plans) == 1 {
		n = n.Plans[0]
	}
	return n.Index
}

// blocksPerRow is how many blocks a row may cost: the way down an index, and its
// place in the table. Once for each scan there is another way down.
const blocksPerRow, blocksPerScan = 6, 12

// problems says what is wrong with the plan of a question that is about some
// partitions, and whose index is named, or stands for a partition of it, in indexes.
func (p Plan) problems(q Question, partitions, indexes []string) (out []string) {
	complain := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case p.Returned == 0:
		complain("it returns nothing")
	case q.Rows > 0 && p.Returned != q.Rows:
		complain("it returns %d rows instead of %d", p.Returned, q.Rows)
	}
	if touched := p.touched(q.Table, nil); !slices.Equal(touched, partitions) {
		complain("it touches %v instead of %v", touched, partitions)
	}
	if by := p.touched(q.Table, indexes); !slices.Equal(by, partitions) {
		complain("%s is used for %v instead of %v", q.Index, by, partitions)
	}
	read := 0
	for _, scan := range p.Scans {
		read += scan.Rows
		if scan.Index == "" {
			complain("it reads %s", scan)
		}
		// Merging partitions reads a first row of each, which may be left.
		if slack := len(partitions) - 1; scan.Rows > p.Returned+slack {
			complain("it reads %d rows of %s to return %d", scan.Rows, scan, p.Returned)
		}
	}
	if p.Sorted > p.Returned {
		complain("it sorts %d rows to return %d", p.Sorted, p.Returned)
	}
	if most := blocksPerRow*read + blocksPerScan*len(p.Scans); p.Blocks > most {
		complain("it looks at %d blocks for %d rows, more than %d", p.Blocks, read, most)
	}
	return out
}

// touched are the parts of a table that were read, by some indexes or, with nil,
// by any or none; sorted.
func (p Plan) touched(table string, indexes []string) (out []string) {
	for _, scan := range p.Scans {
		if (scan.Relation == table || strings.HasPrefix(scan.Relation, table+"_")) && (indexes == nil || slices.Contains(indexes, scan.Index)) {
			out = append(out, scan.Relation)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
