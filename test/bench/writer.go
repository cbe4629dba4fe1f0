// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/tink-crypto/tink-go/v2/tink"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// rowsPerImprovement: one in dgm_archive, one in improvement_workspaces.
const rowsPerImprovement = 2

// measureWriter compares the batched writer with a bare client that writes the
// same rows as multi-row statements.
func measureWriter(h *harness, o options) ([]result, error) {
	improvements := make([]pgstore.Improvement, o.writes)
	for i := range improvements {
		improvements[i] = improvementRow(i)
	}
	var created, changed, ratios, changedRatios []float64
	var bareRates []float64
	for round := range o.rounds {
		bare, err := bareWrites(h, improvements)
		if err != nil {
			return nil, err
		}
		batched, err := batchedWrites(h, o.callers, improvements)
		if err != nil {
			return nil, err
		}
		rows := float64(rowsPerImprovement * o.writes)
		bareRates = append(bareRates, rows/bare.create.Seconds())
		created, changed = append(created, rows/batched.create.Seconds()), append(changed, rows/batched.change.Seconds())
		ratios = append(ratios, bare.create.Seconds()/batched.create.Seconds())
		changedRatios = append(changedRatios, bare.change.Seconds()/batched.change.Seconds())
		h.progress("writer, round %d: new rows %.2f of a bare client, changed rows %.2f", round+1, ratios[round], changedRatios[round])
	}
	limit := 0.5
	return []result{{
		name: "writer: new rows/s against a bare client", value: median(ratios), atLeast: &limit,
		detail: fmt.Sprintf("%s; bare %s rows/s, writer %s rows/s, %d rows", spread(ratios, "%.2f"), spread(bareRates, "%.0f"), spread(created, "%.0f"), rowsPerImprovement*o.writes),
	}, {
		name: "writer: changed rows/s against a bare client", value: median(changedRatios), atLeast: &limit,
		detail: fmt.Sprintf("%s; writer %s rows/s", spread(changedRatios, "%.2f"), spread(changed, "%.0f")),
	}}, nil
}

// writeTimes are how long it took to write all rows anew, and to change them.
type writeTimes struct{ create, change time.Duration }

func batchedWrites(h *harness, callers int, improvements []pgstore.Improvement) (writeTimes, error) {
	store, stop, err := h.lead(h.database())
	if err != nil {
		return writeTimes{}, err
	}
	defer stop()
	write := func(of func(pgstore.Improvement) pgstore.Improvement) (time.Duration, error) {
		began := time.Now()
		err := each(h.ctx, callers, len(improvements), func(ctx context.Context, i int) error {
			return store.MirrorImprovement(ctx, of(improvements[i]))
		})
		return time.Since(began), err
	}
	var times writeTimes
	if times.create, err = write(func(i pgstore.Improvement) pgstore.Improvement { return i }); err != nil {
		return times, err
	}
	times.change, err = write(nextGeneration)
	return times, err
}

// lead returns a store that leads over a database until stop is called.
func (h *harness) lead(url string) (store *pgstore.Store, stop func(), err error) {
	ctx, cancel := context.WithCancel(h.ctx)
	store = pgstore.New(pgstore.Config{
		URL: fixed(pgtest.ServiceURL(url)), MigrationURL: fixed(pgtest.MigrationURL(url)), ClusterName: clusterName, ClusterUID: "bench", Holder: "bench",
		AEAD: func(context.Context) (tink.AEAD, string, error) { return nil, "", fmt.Errorf("no snapshots here") },
	})
	led := make(chan error, 1)
	go func() { led <- store.Lead(ctx) }()
	stop = func() {
		cancel()
		<-led
	}
	for store.Ready() != nil {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			stop()
			return nil, nil, err
		}
	}
	return store, stop, nil
}

func nextGeneration(i pgstore.Improvement) pgstore.Improvement {
	i.Generation++
	return i
}

func fixed(url string) func() (string, error) {
	return func() (string, error) { return url, nil }
}

// improvementRow is what the controller hands to the store for one of the
// workspaces that the mirror is measured with.
func improvementRow(n int) pgstore.Improvement {
	w := workspace("bench", n)
	digest := lifecycle.MaterialDigest(&w.Spec)
	archive, status := lifecycle.RowStatus(dgmv1alpha1.PhasePending, false)
	return pgstore.Improvement{
		Object:         pgstore.Object{Namespace: w.Namespace, Name: w.Name, UID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(w.Name)).String(), Generation: 1},
		ImprovementID:  lifecycle.ImprovementID(clusterName, w.Namespace, w.Name, digest, 1),
		Attempt:        1,
		MaterialDigest: digest, Description: w.Spec.Description, CreatedBy: "bench",
		Timestamp: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Millisecond), ArchiveStatus: archive,
		AlgorithmChanges: encode(w.Spec.Changes),
		Metadata:         encode(map[string]string{"phase": "Pending", "reason": "Suspended", "message": "spec.suspend is true: no new step begins until it is false"}),
		WorkspaceStatus:  status, TargetService: w.Spec.Target.Service, ImprovementType: string(w.Spec.Type), Priority: "Medium",
		Configuration: encode(w.Spec),
	}
}

func encode(v any) json.RawMessage {
	encoded, err := json.Marshal(v)
	if err != nil {
		panic(err) // the API's own types
	}
	return encoded
}
