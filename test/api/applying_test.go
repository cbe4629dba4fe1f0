// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// An operator that finds an improvement in Applying with nothing changed yet, as
// after a crash right behind the intent, waits for the database.
func TestP10_ApplyingWaitsForTheDatabase(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	w.start()
	config := w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config")
	w.create(ttl)
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.synced(ttl)
	w.operator.Kill()

	before := []byte(`{"data":{"CACHE_TTL":"5"}}`)
	if err := w.Patch(context.Background(), config, client.RawPatch("application/merge-patch+json", before)); err != nil {
		t.Fatal(err)
	}
	intent := []byte(`{"status":{"phase":"Applying","appliedAt":null,"completedAt":null}}`)
	if err := w.Status().Patch(context.Background(), ttl.DeepCopy(), client.RawPatch("application/merge-patch+json", intent)); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	w.operator = w.launch("replica-0")
	w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonDatabaseUnavailable)
	if got := w.data("config")["CACHE_TTL"]; got != "5" {
		t.Errorf("CACHE_TTL is %s: the change was made without the database", got)
	}

	server.Start(t)
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	if got := w.data("config")["CACHE_TTL"]; got != "60" {
		t.Errorf("CACHE_TTL is %s, want 60", got)
	}
}
