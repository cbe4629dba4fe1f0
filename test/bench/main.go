// SPDX-License-Identifier: Apache-2.0

// Command bench measures the operator against bare clients that do the same
// work, on a real API server and a real PostgreSQL, and prints the ratios.
// docs/benchmarks.md says what they mean.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

// sizes of the measurements.
type sizes struct {
	objects   int // of one round of the mirror
	clients   int // that create them
	rounds    int // of each side
	unchanged int // objects that a restarted operator finds
	writes    int // improvements that the writer takes in one round
	callers   int // of the writer at the same time
	observing int // improvements that are observed at a time
	terminal  int // improvements that have ended beside them
	samples   int // of one turn of ingest
	history   int // samples that are aggregated and asked for
	// Rows of the other tables that are asked for; an improvement has two.
	improvements, assessments, arms int
}

var (
	fullSizes = sizes{objects: 5000, clients: 16, rounds: 3, unchanged: 10000, writes: 20000, callers: 1000, observing: 1000, terminal: 10000, samples: 200000, history: 10000000,
		improvements: 10000000, assessments: 10000000, arms: 1000000}
	quickSizes = sizes{objects: 300, clients: 16, rounds: 1, unchanged: 500, writes: 10000, callers: 1000, observing: 60, terminal: 100, samples: 20000, history: 200000,
		improvements: 50000, assessments: 50000, arms: 20000}
)

type options struct {
	sizes
	quick, strict bool
	only          string
	managerArgs   string
	record        string
}

func main() {
	var o options
	o.sizes = fullSizes
	flag.BoolVar(&o.quick, "quick", false, "a smoke run of some seconds: small sizes, one round")
	flag.BoolVar(&o.strict, "strict", false, "exit with 1 when a limit is missed")
	flag.StringVar(&o.only, "only", "mirror,restart,observing,writer,ingest,aggregation,questions", "what to measure")
	flag.IntVar(&o.objects, "objects", o.objects, "workspaces of one round of the mirror")
	flag.IntVar(&o.clients, "clients", o.clients, "clients that create them")
	flag.IntVar(&o.rounds, "rounds", o.rounds, "rounds of each side; the median counts")
	flag.IntVar(&o.unchanged, "unchanged", o.unchanged, "objects that a restarted operator finds")
	flag.IntVar(&o.writes, "writes", o.writes, "improvements that the writer takes in one round")
	flag.IntVar(&o.observing, "observing", o.observing, "improvements that are observed at a time")
	flag.IntVar(&o.terminal, "terminal", o.terminal, "improvements that have ended beside them")
	flag.IntVar(&o.samples, "samples", o.samples, "samples that are recorded in one turn of ingest")
	flag.IntVar(&o.history, "history", o.history, "samples that are aggregated and asked for")
	flag.IntVar(&o.improvements, "improvements", o.improvements, "improvements in the tables that are asked")
	flag.IntVar(&o.assessments, "assessments", o.assessments, "assessments in the table that is asked")
	flag.IntVar(&o.arms, "arms", o.arms, "arms in the table that is asked")
	flag.StringVar(&o.managerArgs, "manager-args", "", "further flags of `manager run`, separated by spaces")
	flag.StringVar(&o.record, "record", "", "document to put the report into, in the place of the run that it has")
	flag.Parse()
	if o.quick {
		o.sizes = quickSizes
	}
	os.Exit(run(o))
}

func run(o options) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h := newHarness(ctx)
	defer h.close()
	ctrl.SetLogger(logr.Discard())
	measurements := []struct {
		name    string
		measure func(*harness, options) ([]result, error)
	}{
		// The large tables come last: PostgreSQL goes on vacuuming them.
		{"mirror", measureMirror}, {"restart", measureRestart}, {"observing", measureObserving},
		{"writer", measureWriter}, {"ingest", measureIngest}, {"aggregation", measureAggregation}, {"questions", measureQuestions},
	}
	var results []result
	for _, m := range measurements {
		if !slices.Contains(strings.Split(o.only, ","), m.name) {
			continue
		}
		found, err := m.measure(h, o)
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", m.name, err)
			return 1
		}
		results = append(results, found...)
	}
	facts := h.facts()
	printReport(os.Stdout, facts, results)
	if o.record != "" {
		if err := recordIn(o.record, facts, results); err != nil {
			fmt.Fprintf(os.Stderr, "bench: record: %v\n", err)
			return 1
		}
	}
	if o.strict && slices.ContainsFunc(results, result.missed) {
		return 1
	}
	return 0
}
