// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMissed(t *testing.T) {
	limit := 1.25
	for _, test := range []struct {
		name string
		result
		want bool
	}{
		{"below a most", result{value: 1.2, atMost: &limit}, false},
		{"at a most", result{value: 1.25, atMost: &limit}, false},
		{"above a most", result{value: 1.26, atMost: &limit}, true},
		{"below a least", result{value: 1.24, atLeast: &limit}, true},
		{"at a least", result{value: 1.25, atLeast: &limit}, false},
		{"without a limit", result{value: 100}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.missed(); got != test.want {
				t.Errorf("missed is %t", got)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	if got, want := spread([]float64{3, 1, 2}, "%.1f"), "2.0 (1.0 to 3.0)"; got != want {
		t.Errorf("spread is %q, want %q", got, want)
	}
}

func TestRecord(t *testing.T) {
	limit := 10.0
	results := []result{{name: "question", value: 0.254, unit: "ms", digits: 2, atMost: &limit, detail: "of one"}}
	document := "before\n" + recordBegin + "an older run\n" + recordEnd + "after\n"
	want := "before\n" + recordBegin + "2 cores; calm.\n\n| measured | value | limit | | detail |\n|---|---|---|---|---|\n" +
		"| question | 0.25 ms | at most 10 | met | of one |\n" + recordEnd + "after\n"
	for _, before := range []string{document, want} {
		got, err := record(before, []string{"2 cores", "calm"}, results)
		if err != nil || got != want {
			t.Errorf("recorded in %q: %q, %v", before, got, err)
		}
	}
	if _, err := record("no place for it", nil, results); err == nil {
		t.Error("a run was recorded in a document without a place for it")
	}
}

func TestRequestsSince(t *testing.T) {
	earlier := requests{"POST a": 2, "PATCH b": 1}
	total, list := requests{"POST a": 2, "PATCH b": 4, "DELETE c": 1}.since(earlier)
	if total != 4 || list != "DELETE c 1, PATCH b 3" {
		t.Errorf("since is %v, %q", total, list)
	}
}

func TestReadProcess(t *testing.T) {
	var p process
	for began := time.Now(); p.used == 0; _ = strings.Repeat("x", 1<<20) { // compute, to have a time
		var err error
		if p, err = readProcess(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) > time.Minute {
			t.Fatal("a minute of computing took no time")
		}
	}
	if p.parent != os.Getppid() || !strings.HasPrefix(p.name, "bench") {
		t.Errorf("this process is read as %+v", p)
	}
	if times := readCPUTimes(); times.total() < p.used {
		t.Errorf("all processes %s used less than this one, %s", times, p.used)
	}
}
