// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
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
