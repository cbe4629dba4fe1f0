// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Whoever may edit an improvement but not act as its account cannot have it made
// again, and can have it put back.
func TestP8_WhoHasItMadeAgainMustBeAllowedTo(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl, waiting := w.improvement("ttl", "config"), w.improvement("waiting", "config", suspended)
	w.create(ttl)
	w.create(waiting)
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	mallory := w.user("mallory")
	edit := func(object *dgmv1alpha1.ImprovementWorkspace, edit string) error {
		return mallory.Patch(context.Background(), object.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(edit)))
	}
	annotate := func(annotation string) string {
		return fmt.Sprintf(`{"metadata":{"annotations":{%q:"1"}}}`, annotation)
	}
	for _, again := range []struct {
		object *dgmv1alpha1.ImprovementWorkspace
		edit   string
	}{
		{ttl, annotate(dgmv1alpha1.AnnotationRetry)},
		{ttl, `{"spec":{"description":"once more"}}`},
		{ttl, `{"spec":{"type":"ArchitectureChange"}}`},
		{waiting, `{"spec":{"suspend":false}}`},
		{waiting, `{"spec":{"suspend":null}}`},
	} {
		if err := edit(again.object, again.edit); !apierrors.IsForbidden(err) {
			t.Errorf("%s: the answer is %v, want Forbidden", again.edit, err)
		}
	}
	if err := edit(ttl, annotate(dgmv1alpha1.AnnotationRollback)); err != nil {
		t.Errorf("a rollback only puts things back: %v", err)
	}
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
	w.values(map[string]string{"config": "5"})
}

// A client that replaces objects as a whole, as kubectl replace does, does not
// send the creator; nobody can send another one.
func TestTheCreatorStaysThroughAReplacement(t *testing.T) {
	w := newWorld(t)
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{"improver"}, Verbs: []string{"impersonate"}}
	alice, bob := w.user("alice", rule), w.user("bob", rule)
	creator := func(object *dgmv1alpha1.ImprovementWorkspace) string {
		return w.refresh(object).Annotations[dgmv1alpha1.AnnotationCreatedBy]
	}
	ttl := w.improvement("ttl", "config")
	w.eventually("alice may name the account", func() error { return alice.Create(context.Background(), ttl) })
	for _, annotations := range []map[string]string{nil, {"example.com/other": "1"}} {
		replaced := w.refresh(ttl)
		replaced.Annotations = annotations
		if err := bob.Update(context.Background(), replaced); err != nil {
			t.Errorf("replaced with the annotations %v: %v", annotations, err)
		}
		if got := creator(ttl); got != "alice" {
			t.Errorf("the creator is %q, want alice", got)
		}
	}
	forged := w.refresh(ttl)
	forged.Annotations[dgmv1alpha1.AnnotationCreatedBy] = "carol"
	if err := bob.Update(context.Background(), forged); !apierrors.IsInvalid(err) {
		t.Errorf("the answer to another creator is %v, want Invalid", err)
	}
}
