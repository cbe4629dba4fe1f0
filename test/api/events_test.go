// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// The events of a whole life tell its story, each once.
func TestEventsTellTheStoryOnce(t *testing.T) {
	w := newWorld(t)
	w.lead()

	w.scenario("kept, then rolled back", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.deployment("shop", "shop:1")
		w.rollsOutWithin(2 * time.Second)
		ttl := w.improvement("ttl", "config", targets("shop"), restarts("shop", "1m"), suspended)
		w.create(ttl)
		w.synced(ttl)
		w.eventually("the Deployment is rolled out", func() error {
			if w.live("Deployment/shop").Object["status"].(map[string]any)["observedGeneration"] == nil {
				return errorf("its status is empty")
			}
			return nil
		})
		if err := w.patch(ttl, `{"spec":{"suspend":false}}`); err != nil {
			t.Fatal(err)
		}
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
		w.tells(ttl,
			"Normal Preparing Preparing: the state before the change is being stored",
			"Normal Validating Validating: the plan is judged",
			"Normal Judged Judge: constitution cdd01ef066bc6cf2: score 0.95 (compliant) (beneficence)",
			`Normal Applying Applying: changing 2 values in 2 objects: ConfigMap/config data.CACHE_TTL: "5" → "60"; Deployment/shop spec.template.metadata.annotations: added {"dgm.acgs.io/restarted-for":"ID"}`,
			"Normal RollingOut Applying: the changes are made; waiting until Deployment/shop is healthy: its controller has not taken the change up yet",
			`Normal Completed Completed: changed 2 values in 2 objects: ConfigMap/config data.CACHE_TTL: "5" → "60"; Deployment/shop spec.template.metadata.annotations: added {"dgm.acgs.io/restarted-for":"ID"}`,
			"Normal RollingBack RollingBack: putting back the state before: a rollback was commanded",
			"Normal RolledBack RolledBack: everything is as it was before (a rollback was commanded)",
		)
	})

	w.scenario("unhealthy", func(w *world) {
		ttl := w.serves(over([2]string{"Deployment/shop", `spec: {template: {spec: {containers: [{name: main, image: "shop:stuck"}]}}}`}), follows("2s"))
		w.eventually("the Deployment is rolled out", func() error {
			if w.live("Deployment/shop").Object["status"].(map[string]any)["observedGeneration"] == nil {
				return errorf("its status is empty")
			}
			return nil
		})
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
		const why = "Deployment/shop was not healthy within 2s (spec.rollout.timeout): pods of the state before are still there"
		change := `Deployment/shop spec.template.spec.containers[name=main].image: "shop:1" → "shop:stuck"`
		w.tells(ttl,
			"Normal Preparing Preparing: the state before the change is being stored",
			"Normal Validating Validating: the plan is judged",
			"Normal Judged Judge: constitution cdd01ef066bc6cf2: score 0.95 (compliant) (beneficence)",
			"Normal Applying Applying: changing "+change,
			"Normal RollingOut Applying: the changes are made; waiting until Deployment/shop is healthy: ANY",
			"Warning RollingBack RollingBack: putting back the state before: "+why,
			"Normal RolledBack RolledBack: everything is as it was before (RolloutFailed: "+why+")",
		)
	})
}

// tells compares an improvement's events, in order. ANY stands for any end of a
// message.
func (w *world) tells(object *dgmv1alpha1.ImprovementWorkspace, want ...string) {
	w.Helper()
	id := w.refresh(object).Status.ImprovementID
	w.eventually("the events of "+object.Name, func() error {
		var list eventsv1.EventList
		if err := w.List(context.Background(), &list, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		slices.SortFunc(list.Items, func(a, b eventsv1.Event) int { return a.EventTime.Compare(b.EventTime.Time) })
		var got []string
		for _, event := range list.Items {
			if event.Regarding.Name != object.Name || event.Reason == dgmv1alpha1.ReasonSuspended || event.Reason == dgmv1alpha1.ReasonAccepted {
				continue
			}
			line := fmt.Sprintf("%s %s %s: %s", event.Type, event.Reason, event.Action, strings.ReplaceAll(event.Note, id, "ID"))
			if event.Series != nil {
				line += fmt.Sprintf(" (%d times)", event.Series.Count)
			}
			got = append(got, line)
		}
		for i := range min(len(got), len(want)) {
			if start, open := strings.CutSuffix(want[i], "ANY"); open && strings.HasPrefix(got[i], start) {
				got[i] = want[i]
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
}
