// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// observed makes an improvement compare a metric of the database, in windows of
// some seconds, and looks at it for as long again.
func observed(edits ...func(*dgmv1alpha1.ImprovementWorkspace)) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Metrics = []dgmv1alpha1.Metric{{
			Name: "p99-latency", Type: "latency", Unit: "ms", Direction: dgmv1alpha1.Decrease, MaxRegression: "5%",
			Database: &dgmv1alpha1.DatabaseSource{MetricName: "p99"},
		}}
		object.Spec.Observe = &dgmv1alpha1.Observe{Window: "4s", Warmup: "0s", Interval: "1s", Deadline: "4s"}
		for _, edit := range edits {
			edit(object)
		}
	}
}

// service inserts latencies of a service as plain SQL, as dgm_service, ten a
// second, until the test ends: around 150, times what multiple says of the TTL
// that is set in the ConfigMap.
func (w *world) service(service, configMap string, multiple func(ttl string) float64) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	conn, err := pgx.Connect(ctx, pgtest.ServiceURL(w.url))
	if err != nil {
		cancel()
		w.Fatal(err)
	}
	w.Cleanup(func() {
		cancel()
		<-ended
	})
	random := rand.New(rand.NewPCG(1, 2))
	insert := func(level float64, at time.Time) error {
		_, err := conn.Exec(ctx, `INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, tags, "timestamp")
			VALUES ('p99', 'latency', 'service', $1::double precision, 'ms', $2, '{"path": "/", "zone": "a"}', $3)`, level*(1+0.02*random.NormFloat64()), service, at)
		return err
	}
	w.eventually("the schema is there", func() error { return insert(150, time.Now()) })
	for i := range 100 {
		if err := insert(150, time.Now().Add(time.Duration(i-100)*100*time.Millisecond)); err != nil {
			w.Fatal(err)
		}
	}
	go func() {
		defer close(ended)
		defer func() { _ = conn.Close(context.Background()) }()
		for ctx.Err() == nil {
			if err := insert(150*multiple(w.data(configMap)["CACHE_TTL"]), time.Now()); err != nil && ctx.Err() == nil {
				w.Errorf("insert as dgm_service: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

// changed is 1 until the change is made, and a multiple from then on.
func changed(multiple float64) func(string) float64 {
	return func(ttl string) float64 {
		if ttl == "60" {
			return multiple
		}
		return 1
	}
}

// observes makes a ConfigMap, a service that becomes better or worse by a
// multiple with it, and an improvement of both.
func (w *world) observes(name string, multiple func(string) float64, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	object := w.improvement(name, name, observed(edits...))
	object.Spec.Target.Service = w.namespace + "-" + name
	if multiple != nil {
		w.service(object.Spec.Target.Service, name, multiple)
	}
	w.create(object)
	return object
}

func TestMetricsAreComparedBeforeAndAfterTheChange(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.scenario("better", func(w *world) {
		better := w.observes("better", changed(0.8), func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Metrics[0].Database.Tags = map[string]dgmv1alpha1.TagValue{"path": "/"}
		})
		w.reaches(better, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		status := w.synced(better).Status
		gain := 0.0
		if _, err := fmt.Sscanf(status.Gain, "%f%%", &gain); err != nil || gain < 17 || gain > 23 {
			w.Errorf("gain %q, want about +20%%", status.Gain)
		}
		if reward, err := strconv.ParseFloat(status.Reward, 64); err != nil || math.Abs(reward-0.5-gain/200) > 0.001 || status.Verdict != dgmv1alpha1.VerdictPass {
			w.Errorf("verdict %s, reward %q", status.Verdict, status.Reward)
		}
		w.says(message(w.refresh(better)), "p99-latency 1", " ms → 1", "95%", "limit +5.0%) in 4s after the change")
		w.rows(fmt.Sprintf("Pass|%s|%s|%s", status.Gain, status.Reward, status.Reward), `SELECT performance_after ->> 'verdict', performance_after ->> 'gain',
			performance_after ->> 'reward', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, status.ImprovementID)
		w.rows("true|true", `SELECT (performance_before #>> '{metrics,p99-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'baseline'),
			(performance_after #>> '{metrics,p99-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'candidate')
			FROM dgm.dgm_archive a JOIN dgm.performance_metrics m USING (improvement_id) WHERE a.improvement_id = $1 GROUP BY a.id`, status.ImprovementID)
	})
	w.scenario("worse", func(w *world) {
		worse := w.observes("worse", changed(1.3))
		done := w.reaches(worse, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(done.Status.RollbackReason, dgmv1alpha1.ReasonMetricRegressed, "p99-latency", " ms (+", "limit +5.0%) in 4s after the change")
		w.warns(worse, dgmv1alpha1.ReasonMetricRegressed)
		if ttl := w.data("worse")["CACHE_TTL"]; ttl != "5" || done.Status.Verdict != dgmv1alpha1.VerdictFail || done.Status.Reward != "0" {
			w.Errorf("CACHE_TTL %q, verdict %s, reward %q", ttl, done.Status.Verdict, done.Status.Reward)
		}
		w.synced(worse)
		w.rows("rolled_back|Fail|0", `SELECT status, performance_after ->> 'verdict', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, done.Status.ImprovementID)
	})
	w.scenario("P6 no data is held, and a person decides", func(w *world) {
		held := w.observes("held", nil)
		fresh := w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		w.says(message(fresh), "before the change: 0 samples, at least 5", "kubectl annotate improvement held --namespace="+w.namespace, dgmv1alpha1.AnnotationRollback, dgmv1alpha1.AnnotationKeep)
		if fresh.Status.Verdict != dgmv1alpha1.VerdictNoData || fresh.Status.Reward != "" || w.data("held")["CACHE_TTL"] != "60" {
			w.Errorf("verdict %s, reward %q, data %v", fresh.Status.Verdict, fresh.Status.Reward, w.data("held"))
		}
		w.annotate(held, dgmv1alpha1.AnnotationRollback, "1")
		done := w.reaches(held, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		if done.Status.Reward != "" {
			w.Errorf("the reward of what a person ended is %q", done.Status.Reward)
		}
	})
	w.scenario("no data is held, and the object is deleted", func(w *world) {
		held := w.observes("held", nil)
		w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		w.deleteConfigMap("held")
		w.says(message(w.stalls(held, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetGone)), "ConfigMap/held", "not made anew")
	})
	for policy, phase := range map[dgmv1alpha1.UndecidedPolicy]dgmv1alpha1.Phase{
		dgmv1alpha1.UndecidedRollback: dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.UndecidedAccept: dgmv1alpha1.PhaseCompleted,
	} {
		w.scenario("P6 no data, "+string(policy), func(w *world) {
			object := w.observes("nodata", nil, func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Metrics[0].OnNoData = policy })
			done := w.reaches(object, phase, "")
			if done.Status.Verdict != dgmv1alpha1.VerdictNoData || done.Status.Reward != "" || done.Status.Gain != "" {
				w.Errorf("verdict %s, gain %q, reward %q", done.Status.Verdict, done.Status.Gain, done.Status.Reward)
			}
		})
	}
	w.scenario("inconclusive", func(w *world) {
		object := w.observes("inconclusive", changed(1.05), func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Metrics[0].OnInconclusive = dgmv1alpha1.UndecidedAccept
		})
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.says(message(done), "accepted although undecided: p99-latency")
		if length := done.Status.Observation.WindowEnd.Sub(done.Status.Observation.WindowStart.Time); length != 8*time.Second {
			w.Errorf("the last window was %s long, want that up to the deadline", length)
		}
	})
	w.scenario("held before the change", func(w *world) {
		gate := w.gate()
		gate.hold("ConfigMap/held")
		object := w.observes("held", changed(0.8))
		first := w.reaches(object, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonRetrying).Status.Observation.BaselineEnd
		if err := w.patch(object, `{"spec":{"suspend":true}}`); err != nil {
			t.Fatal(err)
		}
		if held := w.reaches(object, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonSuspended); held.Status.Observation != nil || len(held.Status.Metrics) > 0 {
			w.Errorf("what was measured before it was held is kept: %+v", held.Status.Observation)
		}
		time.Sleep(time.Until(first.Add(2 * time.Second)))
		gate.open()
		if err := w.patch(object, `{"spec":{"suspend":false}}`); err != nil {
			t.Fatal(err)
		}
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		last := done.Status.Observation.BaselineEnd
		if !last.After(first.Time) {
			w.Errorf("the window before the change ends at %s, and did so at %s before it was held", last, first)
		}
		w.synced(object)
		w.rows("true|true", `SELECT (a.performance_before #>> '{metrics,p99-latency,samples}')::int = count(*) FILTER (WHERE m."timestamp" BETWEEN $2::timestamptz - interval '4 seconds' AND $2),
			bool_or(m."timestamp" < $2::timestamptz - interval '4 seconds')
			FROM dgm.dgm_archive a JOIN dgm.performance_metrics m USING (improvement_id) WHERE a.improvement_id = $1 AND m.tags ->> 'side' = 'baseline' GROUP BY a.id`, done.Status.ImprovementID, last.Time)
	})
	w.scenario("manual", func(w *world) {
		object := w.observes("manual", changed(1.3), func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Rollback = &dgmv1alpha1.Rollback{Policy: dgmv1alpha1.RollbackManual}
		})
		fresh := w.stalls(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricRegressed)
		w.says(message(fresh), "rollback.policy is Manual", dgmv1alpha1.AnnotationRollback)
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
		if done := w.reaches(object, dgmv1alpha1.PhaseRolledBack, ""); done.Status.Reward != "0" {
			w.Errorf("reward %q", done.Status.Reward)
		}
	})
	w.scenario("P5 a trial is reverted and has its reward", func(w *world) {
		object := w.observes("trial", changed(0.8), func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.OnSuccess = dgmv1alpha1.OnSuccessRevert
		})
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonReverted)
		if reward, err := strconv.ParseFloat(done.Status.Reward, 64); err != nil || reward < 0.58 || w.data("trial")["CACHE_TTL"] != "5" {
			w.Errorf("reward %q, data %v", done.Status.Reward, w.data("trial"))
		}
		if succeeded := conditionOf(done, dgmv1alpha1.ConditionSucceeded); succeeded.Status != metav1.ConditionTrue {
			w.Errorf("Succeeded is %+v", succeeded)
		}
		w.synced(object)
		w.rows("completed|Reverted|"+done.Status.Reward, `SELECT status, outcome_reason, performance_after ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, done.Status.ImprovementID)
	})
}

// warns waits until a Warning with a reason tells of an improvement.
func (w *world) warns(object *dgmv1alpha1.ImprovementWorkspace, reason string) string {
	w.Helper()
	note := ""
	w.eventually("an event "+reason+" of "+object.Name, func() error {
		var list eventsv1.EventList
		if err := w.List(context.Background(), &list, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		for _, event := range list.Items {
			if event.Regarding.Name == object.Name && event.Reason == reason {
				if note = event.Note; event.Type != corev1.EventTypeWarning {
					return errorf("it is %s", event.Type)
				}
				return nil
			}
		}
		return errorf("there is none among %d", len(list.Items))
	})
	return note
}

func keeps(by, token string) client.Patch {
	return client.RawPatch("application/merge-patch+json", fmt.Appendf(nil,
		`{"metadata":{"annotations":{"dgm.acgs.io/keep":%q,"dgm.acgs.io/keep-reason":"it is the season","dgm.acgs.io/kept-by":%q}}}`, token, by))
}

// briefly makes what has no data held after some seconds.
func briefly(object *dgmv1alpha1.ImprovementWorkspace) {
	object.Spec.Observe = &dgmv1alpha1.Observe{Window: "2s", Warmup: "0s", Interval: "1s", Deadline: "0s", WatchAfterCompletion: "10m"}
}

func TestWhatIsHeldCanBeKept(t *testing.T) {
	w := newWorld(t)
	w.start()
	ctx := context.Background()
	const row = `SELECT status, outcome_reason, metadata #>> '{kept,keptBy}', metadata #>> '{kept,reason}', metadata #>> '{kept,verdict}', metadata ->> 'reward'
		FROM dgm.dgm_archive WHERE improvement_id = $1`
	w.scenario("P8 without data, by who may, under their own name", func(w *world) {
		held := w.observes("held", nil, briefly)
		alice, mallory := w.user("alice", approver()), w.user("mallory")
		w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		for _, refused := range []struct {
			who  client.Client
			name string
			says string
		}{{mallory, "mallory", "user mallory may not approve or keep improvements"}, {mallory, "alice", "may not approve or keep"}, {alice, "bob", "must be your own name, alice"}} {
			if err := refused.who.Patch(ctx, held.DeepCopy(), keeps(refused.name, "1")); !apierrors.IsForbidden(err) || !contains(err.Error(), refused.says) {
				w.Errorf("kept in the name of %s: %v, want %q", refused.name, err, refused.says)
			}
		}
		if err := alice.Patch(ctx, held.DeepCopy(), keeps("alice", "1")); err != nil {
			w.Fatal(err)
		}
		done := w.reaches(held, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonKeptByCommand)
		w.says(message(done), "kept by alice (it is the season) in spite of the verdict NoData: p99-latency NoData")
		if kept := done.Status.Kept; kept == nil || kept.KeptBy != "alice" || kept.Verdict != dgmv1alpha1.VerdictNoData || done.Status.LastHandled.Keep != "1" {
			w.Errorf("kept is %+v, handled %+v", kept, done.Status.LastHandled)
		}
		if !done.Watching() || conditionOf(done, dgmv1alpha1.ConditionSucceeded).Status != metav1.ConditionTrue || done.Status.Reward != "" || w.data("held")["CACHE_TTL"] != "60" {
			w.Errorf("watched %t, reward %q, data %v, conditions %+v", done.Watching(), done.Status.Reward, w.data("held"), done.Status.Conditions)
		}
		w.rows("completed|KeptByCommand|alice|it is the season|NoData|", row, done.Status.ImprovementID)
		if mallory.Patch(ctx, held.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"dgm.acgs.io/keep":null}}}`))) != nil {
			w.Error("who may edit it cannot take the annotation off")
		}
	})
	w.scenario("P6 while it is held, its objects and its rights are looked at", func(w *world) {
		held, lost := w.observes("held", nil, briefly), w.observes("lost", nil, briefly)
		w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		w.stalls(lost, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		w.remove(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "lost"}})
		w.stalls(lost, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetGone)
		w.grants("improver")
		w.says(message(w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonRollbackForbidden)), "neither kept nor could it be put back", "grant the right back")
		w.grants("improver", "get", "patch")
		w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	})
	w.scenario("P5 failed, the reward is that of a Fail", func(w *world) {
		object := w.observes("failed", changed(1.3), func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Observe.WatchAfterCompletion = "10m"
			object.Spec.Rollback = &dgmv1alpha1.Rollback{Policy: dgmv1alpha1.RollbackManual}
		})
		w.says(message(w.stalls(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricRegressed)), "rollback.policy is Manual; to put the state before back", dgmv1alpha1.AnnotationKeptBy)
		if err := w.user("alice", approver()).Patch(ctx, object.DeepCopy(), keeps("alice", "1")); err != nil {
			w.Fatal(err)
		}
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonKeptByCommand)
		if done.Watching() || done.Status.Reward != "0" || w.data("failed")["CACHE_TTL"] != "60" {
			w.Errorf("watched %t, reward %q, data %v", done.Watching(), done.Status.Reward, w.data("failed"))
		}
		w.rows("completed|KeptByCommand|alice|it is the season|Fail|0", row, done.Status.ImprovementID)
		// It can be rolled back as any other.
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(object, dgmv1alpha1.PhaseRolledBack, "")
	})
	w.scenario("P5 inconclusive, the reward is what was measured", func(w *world) {
		object := w.observes("inconclusive", changed(1.05))
		w.stalls(object, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		if err := w.user("alice", approver()).Patch(ctx, object.DeepCopy(), keeps("alice", "1")); err != nil {
			w.Fatal(err)
		}
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonKeptByCommand)
		if reward, err := strconv.ParseFloat(done.Status.Reward, 64); err != nil || reward < 0.46 || reward > 0.49 {
			w.Errorf("reward %q, want that of 5 %% worse, 0.475", done.Status.Reward)
		}
	})
	w.scenario("what is not held, and a trial, are not kept", func(w *world) {
		alice := w.user("alice", approver())
		trial := w.observes("trial", nil, briefly, func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.OnSuccess = dgmv1alpha1.OnSuccessRevert })
		w.reaches(trial, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonObserving)
		if err := alice.Patch(ctx, trial.DeepCopy(), keeps("alice", "early")); err != nil {
			w.Fatal(err)
		}
		w.says(w.warns(trial, dgmv1alpha1.ReasonKeepRefused), "still compared")
		w.stalls(trial, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
		if err := alice.Patch(ctx, trial.DeepCopy(), keeps("alice", "late")); err != nil {
			w.Fatal(err)
		}
		w.eventually("the command is handled", func() error {
			if token := w.refresh(trial).Status.LastHandled.Keep; token != "late" {
				return errorf("handled is %q", token)
			}
			return nil
		})
		w.stalls(trial, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	})
}

func TestAKeptChangeIsWatched(t *testing.T) {
	w := newWorld(t)
	w.start()
	watched := func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Observe.WatchAfterCompletion = "12s" }
	w.scenario("worse only later", func(w *world) {
		var late atomic.Bool
		object := w.observes("late", func(ttl string) float64 {
			if late.Load() {
				return changed(1.5)(ttl)
			}
			return 1
		}, watched)
		done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		if !done.Watching() {
			w.Fatalf("it is not watched: %+v", done.Status.Observation)
		}
		w.synced(object)
		w.rows("completed|Pass", `SELECT status, performance_after ->> 'verdict' FROM dgm.dgm_archive WHERE improvement_id = $1`, done.Status.ImprovementID)
		// Others wait for what it changed (P13).
		next := w.improvement("next", "late")
		w.create(next)
		w.says(message(w.reaches(next, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonOverlap)), "improvement late holds")
		late.Store(true)
		done = w.reaches(object, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
		w.says(done.Status.RollbackReason, dgmv1alpha1.ReasonMetricRegressed, "98.33%", "in 4s after the change")
		w.synced(object)
		w.rows("rolled_back|Fail|0", `SELECT status, performance_after ->> 'verdict', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, done.Status.ImprovementID)
		w.reaches(next, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	})
	w.scenario("well to the end, then its claims are free", func(w *world) {
		object := w.observes("well", changed(0.8), watched)
		w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		before := w.synced(object)
		w.eventually("the watch ends", func() error {
			if fresh := w.refresh(object); fresh.Watching() || fresh.Status.Observation.Watched == nil {
				return errorf("%+v", fresh.Status.Observation)
			}
			return nil
		})
		after := w.synced(object)
		if before.Status.Reward != after.Status.Reward || before.Status.Gain != after.Status.Gain {
			w.Errorf("gain and reward changed from %s, %s to %s, %s", before.Status.Gain, before.Status.Reward, after.Status.Gain, after.Status.Reward)
		}
		w.rows("true", `SELECT count(*) >= 60 FROM dgm.performance_metrics WHERE improvement_id = $1 AND tags ->> 'side' = 'watch'`, after.Status.ImprovementID)
		next := w.improvement("next", "well")
		w.create(next)
		w.reaches(next, dgmv1alpha1.PhaseCompleted, "")
	})
	w.scenario("P11 worse only later, and a person decides", func(w *world) {
		var late atomic.Bool
		object := w.observes("manual", func(ttl string) float64 {
			if late.Load() {
				return changed(1.5)(ttl)
			}
			return 1
		}, watched, func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Rollback = &dgmv1alpha1.Rollback{Policy: dgmv1alpha1.RollbackManual}
		})
		kept := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		late.Store(true)
		w.says(message(w.stalls(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonMetricRegressed)), "98.33%", "rollback.policy is Manual")
		stalled := w.synced(object)
		if stalled.Status.Reward != kept.Status.Reward || stalled.Status.Verdict != dgmv1alpha1.VerdictPass || w.data("manual")["CACHE_TTL"] != "60" {
			w.Errorf("kept with %s, %s; now %s, %s, data %v", kept.Status.Verdict, kept.Status.Reward, stalled.Status.Verdict, stalled.Status.Reward, w.data("manual"))
		}
		w.rows("completed|Pass|"+stalled.Status.Reward, `SELECT status, performance_after ->> 'verdict', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, stalled.Status.ImprovementID)
		w.annotate(object, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(object, dgmv1alpha1.PhaseRolledBack, "")
	})
	w.scenario("P6 no data in the watch", func(w *world) {
		object := w.observes("silent", nil, watched, func(object *dgmv1alpha1.ImprovementWorkspace) {
			object.Spec.Metrics[0].OnNoData = dgmv1alpha1.UndecidedAccept
		})
		w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		w.eventually("the watch ends", func() error {
			if fresh := w.refresh(object); fresh.Watching() {
				return errorf("%+v", fresh.Status.Observation)
			}
			return nil
		})
		w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	})
}

func TestObservingSurvivesKills(t *testing.T) {
	w := newOwnWorld(t)
	w.lead()
	object, _ := w.measured("killed", observed(), func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Observe.Window = "6s" })
	// The baseline is recorded once, whenever the operator is killed.
	w.eventually("the window before is noted", func() error {
		if w.refresh(object).Status.Observation == nil {
			return errorf("nothing is noted yet")
		}
		return nil
	})
	w.crash()
	noted := w.refresh(object).Status.Observation.BaselineEnd
	w.start()
	w.reaches(object, dgmv1alpha1.PhaseObserving, "")
	w.afterwards(object, 0.8)
	w.crash()
	start := w.refresh(object).Status.Observation.WindowStart
	w.start()
	done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	if !done.Status.Observation.BaselineEnd.Equal(noted) || !done.Status.Observation.WindowStart.Equal(start) {
		t.Errorf("the windows moved from %v, %v to %+v", noted, start, done.Status.Observation)
	}
	w.synced(object)
	w.rows("0", `SELECT count(*) - count(DISTINCT ("timestamp", tags ->> 'side')) FROM dgm.performance_metrics WHERE improvement_id = $1`, done.Status.ImprovementID)
	w.rows("true", `SELECT (performance_before #>> '{metrics,p99-latency,samples}')::int > 30 FROM dgm.dgm_archive WHERE improvement_id = $1`, done.Status.ImprovementID)
}
