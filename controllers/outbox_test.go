// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// A ConfigMap holds 1 MiB: a deleted improvement with large patches must not
// hang because its last state does not fit.
func TestP3_ALastStateIsKeptWhateverItsSize(t *testing.T) {
	for _, patch := range []int{10, 1 << 20} {
		changes := []dgmv1alpha1.Change{{Name: "a", Patch: strings.Repeat("x", patch)}}
		row := pgstore.Improvement{
			Object:        pgstore.Object{Namespace: "shop", Name: "a", UID: "u", Generation: 3},
			ImprovementID: uuid.New(), Attempt: 2, ArchiveStatus: "rolled_back", WorkspaceStatus: "failed", OutcomeReason: "Deleted",
			AlgorithmChanges: mustJSON(changes), Configuration: mustJSON(dgmv1alpha1.ImprovementWorkspaceSpec{Changes: changes}),
			Metadata: mustJSON("m"), RollbackData: mustJSON("r"),
		}
		encoded, err := encodeKept(row)
		if err != nil || len(encoded) > 1<<20 {
			t.Fatalf("a patch of %d bytes is kept in %d bytes, %v", patch, len(encoded), err)
		}
		if patch > maxKept {
			row.AlgorithmChanges, row.Configuration = nil, nil
		}
		if want := mustJSON(row); string(encoded) != string(want) {
			t.Errorf("a patch of %d bytes is kept as\n%s, want\n%s", patch, encoded, want)
		}
	}
}

// What is kept of samples makes the same rows as they did; as many as a window
// may have have room in a ConfigMap, which holds 1 MiB.
func TestP3_SamplesAreKeptAsTheyAre(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2))
	series := sampleSeries{
		ImprovementID: uuid.New(), Object: pgstore.Object{Namespace: "shop", Name: "a", UID: "u", Generation: 3},
		Service: "checkout", Metric: "p99", Type: "latency", Unit: "ms", Side: sideWatch,
	}
	for i := range 20_000 {
		series.Samples = append(series.Samples, analysis.Sample{At: noon.Add(time.Duration(i) * time.Second), Value: random.ExpFloat64()})
	}
	encoded, err := encodeSamples(series)
	if err != nil || len(encoded) > maxKept {
		t.Fatalf("%d samples are kept in %d bytes, %v", len(series.Samples), len(encoded), err)
	}
	kept, err := decodeSamples(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(series.rows(), kept.rows()); diff != "" {
		t.Errorf("(-as they were +as they are kept):\n%s", diff)
	}
	if again, _ := encodeSamples(kept); !bytes.Equal(again, encoded) {
		t.Error("the same samples are kept under another name")
	}
	if _, err := decodeSamples(encoded[:len(encoded)/2]); err == nil {
		t.Error("half of it is read as if it were all")
	}
}
