// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// shopOf makes a service of its own in the lane's namespace, and an improvement
// that changes its settings and restarts it.
func (w *world) shopOf(name string, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) (ttl *dgmv1alpha1.ImprovementWorkspace, objects []string) {
	w.Helper()
	w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	w.deployment(name, "shop:1")
	w.eventually(name+" is rolled out", func() error {
		if _, seen := w.live("Deployment/" + name).Object["status"].(map[string]any)["observedGeneration"]; !seen {
			return errorf("its status is empty")
		}
		return nil
	})
	ttl = w.improvement(name, name, append([]func(*dgmv1alpha1.ImprovementWorkspace){targets(name), restarts(name, "1m")}, edits...)...)
	return ttl, []string{"ConfigMap/" + name, "Deployment/" + name}
}

// endsRolledBack checks all that a rollback promises.
func (w *world) endsRolledBack(ttl *dgmv1alpha1.ImprovementWorkspace, objects []string, before map[string]string) {
	w.Helper()
	w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, dgmv1alpha1.ReasonRolledBack)
	if diff := gocmp.Diff(before, w.contents(objects)); diff != "" {
		w.Errorf("after the rollback (-before +after):\n%s", diff)
	}
	for _, object := range objects {
		if owners := w.owners(object); contains(owners, dgmv1alpha1.FieldManager+" Update") {
			w.Errorf("the operator still owns fields of %s:\n%s", object, owners)
		}
	}
	w.settles(ttl)
	w.rows("rolled_back|failed|1", stateOf, ttl.Name, w.namespace)
	w.rows("1", `SELECT count(*) FROM dgm.rollback_snapshots JOIN dgm.dgm_archive USING (improvement_id) WHERE name = $1 AND namespace = $2`, ttl.Name, w.namespace)
}

func keptThenRolledBack() crashScenario {
	return crashScenario{name: "kept, then rolled back by a command", atLeast: 16, live: func(w *world, name string) {
		w.Helper()
		ttl, objects := w.shopOf(name)
		before := w.contents(objects)
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		if got := w.data(ttl.Name)["CACHE_TTL"]; got != "60" {
			w.Errorf("CACHE_TTL is %s, want 60", got)
		}
		w.synced(ttl)
		// One restart is one new generation; a second one would be another.
		if generation := w.live("Deployment/" + ttl.Name).GetGeneration(); generation != 2 {
			w.Errorf("the Deployment was changed %d times, want once", generation-1)
		}
		w.rows("completed|completed|1", stateOf, ttl.Name, w.namespace)
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.endsRolledBack(ttl, objects, before)
		if generation := w.live("Deployment/" + ttl.Name).GetGeneration(); generation != 3 {
			w.Errorf("the Deployment was changed %d times, want twice", generation-1)
		}
	}}
}

func rolledBackByItself() crashScenario {
	phases := []dgmv1alpha1.Phase{dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseRolledBack}
	return crashScenario{name: "unhealthy, and rolled back by itself", atLeast: 12, phases: phases, live: func(w *world, name string) {
		w.Helper()
		ttl, objects := w.shopOf(name, over(
			[2]string{"ConfigMap/" + name, `data: {CACHE_TTL: "60"}`},
			[2]string{"Deployment/" + name, `spec: {template: {spec: {containers: [{name: main, image: "shop:late"}]}}}`},
		))
		before := w.contents(objects)
		w.create(ttl)
		w.endsRolledBack(ttl, objects, before)
		w.says(w.refresh(ttl).Status.RollbackReason, dgmv1alpha1.ReasonRolloutFailed)
	}}
}

// triedBy has an improvement tried in a sandbox by two tests, of which the second
// fails at its first try.
func triedBy(name string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		unsteady := testOf("unsteady")
		unsteady.Retries = new(int32(1))
		object.Spec.Sandbox = &dgmv1alpha1.Sandbox{Include: []dgmv1alpha1.ObjectReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name}}}
		object.Spec.Tests = []dgmv1alpha1.Test{testOf("steady"), unsteady}
	}
}

func unsteadyAtFirst(job *batchv1.Job) (int32, string, bool) {
	if job.Name == "unsteady-1" {
		return 3, "not yet", true
	}
	return passes(job)
}

// accountOf is what the database says of an improvement's only attempt: how it
// ended, its snapshots, its tests and its verdicts.
const accountOf = `SELECT a.status, w.status, a.outcome_reason,
	(SELECT count(*) FROM dgm.dgm_archive other WHERE other.namespace = a.namespace AND other.name = a.name),
	(SELECT count(*) FROM dgm.rollback_snapshots s WHERE s.improvement_id = a.improvement_id),
	(SELECT string_agg(concat_ws(' ', key, value ->> 'outcome', value ->> 'exitCode', value ->> 'tries', value ->> 'results'), ', ' ORDER BY key) FROM jsonb_each(w.test_results -> 'tests')),
	(SELECT string_agg(concat_ws(' ', l.operation_type, l.compliance_level, l.status), ', ') FROM dgm.constitutional_compliance_logs l WHERE l.improvement_id = a.improvement_id)
	FROM dgm.dgm_archive a JOIN dgm.improvement_workspaces w USING (improvement_id) WHERE a.name = $1 AND a.namespace = $2`

func triedAndApproved() crashScenario {
	return crashScenario{name: "tried in a sandbox, approved, and kept", atLeast: 45, live: func(w *world, name string) {
		w.Helper()
		ttl, _ := w.shopOf(name, triedBy(name), wants(dgmv1alpha1.ApprovalAlways))
		k := w.keeper(unsteadyAtFirst)
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.ReasonAwaitingApproval)
		if got := w.data(ttl.Name)["CACHE_TTL"]; got != "5" {
			w.Errorf("CACHE_TTL is %s before the approval, want 5", got)
		}
		if err := w.user(name, approver()).Patch(context.Background(), ttl.DeepCopy(), approves(name, waiting.Status.Snapshot.PlanDigest)); err != nil {
			w.Fatal(err)
		}
		w.endsKept(ttl, "completed|completed|Completed|1|1|steady Passed 0 1 {\"p99\": 1.5}, unsteady Passed 0 2 {\"p99\": 1.5}|improvement compliant completed")
		if generation := w.live("Deployment/" + ttl.Name).GetGeneration(); generation != 2 {
			w.Errorf("the Deployment was changed %d times, want once", generation-1)
		}
		k.noSandbox()
		if jobs, namespaces := k.seen(); jobs != 3 || namespaces != 1 {
			w.Errorf("%d Jobs in %d sandboxes, want 3 in one", jobs, namespaces)
		}
		if end := w.refresh(ttl).Status; !end.Sandbox.Removed || end.Approval == nil || end.Approval.ApprovedBy != name {
			w.Errorf("the status is %s", indented(w, end))
		}
		w.told(ttl, "Preparing", "Testing", "TestEnded", "Validating", "Judged", "AwaitingApproval", "Applying", "Completed")
	}}
}

// endsKept waits until an improvement is Completed for good, and the database
// says so.
func (w *world) endsKept(ttl *dgmv1alpha1.ImprovementWorkspace, account string) {
	w.Helper()
	w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	w.settles(ttl)
	w.rows(account, accountOf, ttl.Name, w.namespace)
	if got := w.data(ttl.Name)["CACHE_TTL"]; got != "60" {
		w.Errorf("CACHE_TTL is %s, want 60", got)
	}
}

// settles waits until an improvement that has ended is synced, and no longer held.
func (w *world) settles(ttl *dgmv1alpha1.ImprovementWorkspace) {
	w.Helper()
	w.synced(ttl)
	w.eventually("the finalizer goes", func() error {
		if left := w.refresh(ttl).Finalizers; len(left) > 0 {
			return errorf("finalizers %v", left)
		}
		return nil
	})
}

// told waits until there is an event for each of some reasons.
func (w *world) told(ttl *dgmv1alpha1.ImprovementWorkspace, reasons ...string) {
	w.Helper()
	w.eventually("the events of "+ttl.Name, func() error {
		var events eventsv1.EventList
		if err := w.List(context.Background(), &events, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		told := map[string]bool{}
		for i := range events.Items {
			if events.Items[i].Regarding.Name == ttl.Name {
				told[events.Items[i].Reason] = true
			}
		}
		for _, reason := range reasons {
			if !told[reason] {
				return errorf("there is none for %s, only for %v", reason, told)
			}
		}
		return nil
	})
}

// measured makes a ConfigMap and an improvement of it that is compared by a
// latency. The latencies are there from the start, for what is to come as well.
func (w *world) measured(name string, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) (object *dgmv1alpha1.ImprovementWorkspace, before map[string]string) {
	w.Helper()
	w.configMap(name, map[string]string{"CACHE_TTL": "5"})
	object = w.improvement(name, name, append(edits, suspended)...)
	object.Spec.Target.Service = w.namespace + "-" + name
	w.query(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, "timestamp")
		SELECT 'p99', 'latency', 'service', 150 + round(5 * random()::numeric, 3), 'ms', $1, date_trunc('second', now()) + i * interval '100 ms'
		FROM generate_series(-100, 1200) i`, object.Spec.Target.Service)
	w.create(object)
	before = w.contents([]string{"ConfigMap/" + name})
	if err := w.patch(object, `{"spec":{"suspend":false}}`); err != nil {
		w.Fatal(err)
	}
	return object, before
}

// becomes multiplies the latencies from a time on.
func (w *world) becomes(object *dgmv1alpha1.ImprovementWorkspace, multiple float64, from time.Time) {
	w.Helper()
	w.query(`UPDATE dgm.performance_metrics SET value = value * $2::float8::numeric WHERE service_name = $1 AND metric_scope = 'service' AND "timestamp" > $3`,
		object.Spec.Target.Service, multiple, from)
}

// afterwards multiplies the latencies once the window after the change has begun.
func (w *world) afterwards(object *dgmv1alpha1.ImprovementWorkspace, multiple float64) {
	w.Helper()
	w.eventually("the window after the change begins", func() error {
		o := w.refresh(object).Status.Observation
		if o == nil || o.WindowStart == nil {
			return errorf("it is %+v", o)
		}
		w.becomes(object, multiple, o.WindowStart.Time)
		return nil
	})
}

// sampled checks that each latency of a window is recorded for a side, and none
// twice. A baseline that was measured anew leaves those of the window before.
func (w *world) sampled(object *dgmv1alpha1.ImprovementWorkspace, side string, from, to time.Time) {
	w.Helper()
	w.rows(side+"|t|0|0", `WITH recorded AS (
			SELECT "timestamp", count(*) AS times FROM dgm.performance_metrics
			WHERE improvement_id = $1 AND metric_scope = 'improvement' AND tags ->> 'side' = $2 GROUP BY 1
		), measured AS (
			SELECT "timestamp" FROM dgm.performance_metrics WHERE service_name = $3 AND metric_scope = 'service' AND "timestamp" BETWEEN $4 AND $5
		)
		SELECT $2, (SELECT count(*) > 30 FROM measured)::text::char(1), (SELECT count(*) FROM measured WHERE "timestamp" NOT IN (SELECT "timestamp" FROM recorded)),
			(SELECT count(*) FROM recorded WHERE times > 1 OR ($2 <> 'baseline' AND "timestamp" NOT IN (SELECT "timestamp" FROM measured)))`,
		object.Status.ImprovementID, side, object.Spec.Target.Service, from, to)
}

// sampledOnce checks the samples before and after the change.
func (w *world) sampledOnce(object *dgmv1alpha1.ImprovementWorkspace) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	end := w.synced(object)
	o := end.Status.Observation
	w.sampled(end, "baseline", o.BaselineEnd.Add(-4*time.Second), o.BaselineEnd.Time)
	if o.Watched == nil {
		w.sampled(end, "candidate", o.WindowStart.Time, o.WindowEnd.Time)
	}
	return end
}

func watchedFor(d dgmv1alpha1.Duration) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Observe.WatchAfterCompletion = d }
}

const judgedOnce = "improvement exemplary completed"

func measuredAndWatched() crashScenario {
	return crashScenario{
		name: "measured, kept, and watched to the end", atLeast: 12,
		phases: []dgmv1alpha1.Phase{dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseCompleted},
		live: func(w *world, name string) {
			w.Helper()
			object, _ := w.measured(name, observed(), watchedFor("8s"))
			w.afterwards(object, 0.8)
			done := w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
			candidate := done.Status.Observation
			w.eventually("the watch ends", func() error {
				if fresh := w.refresh(object); fresh.Watching() || fresh.Status.Observation.Watched == nil {
					return errorf("%+v", fresh.Status.Observation)
				}
				return nil
			})
			w.endsKept(object, "completed|completed|Completed|1|1||"+judgedOnce)
			end := w.sampledOnce(object)
			w.sampled(end, "candidate", candidate.WindowStart.Time, candidate.WindowEnd.Time)
			w.sampled(end, "watch", end.Status.KeptAt.Time, end.Status.KeptAt.Add(8*time.Second))
			w.rows("Pass|"+end.Status.Reward+"|"+end.Status.Reward, `SELECT performance_after ->> 'verdict', performance_after ->> 'reward', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, end.Status.ImprovementID)
			w.told(object, "Applying", "Observing", "Completed", "WatchEnded")
		},
	}
}

// endsRegressed waits until a measured improvement is rolled back for its metric.
func (w *world) endsRegressed(object *dgmv1alpha1.ImprovementWorkspace, before map[string]string) *dgmv1alpha1.ImprovementWorkspace {
	w.Helper()
	w.endsRolledBack(object, []string{"ConfigMap/" + object.Name}, before)
	w.rows("rolled_back|failed|RolledBack|1|1||"+judgedOnce, accountOf, object.Name, w.namespace)
	end := w.sampledOnce(object)
	w.says(end.Status.RollbackReason, dgmv1alpha1.ReasonMetricRegressed)
	w.rows("Fail|0|0", `SELECT performance_after ->> 'verdict', performance_after ->> 'reward', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, end.Status.ImprovementID)
	w.told(object, "Applying", "Observing", "MetricRegressed", "RolledBack")
	return end
}

func regressed() crashScenario {
	return crashScenario{
		name: "regressed, and rolled back by itself", atLeast: 8,
		phases: []dgmv1alpha1.Phase{dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseRolledBack},
		live: func(w *world, name string) {
			w.Helper()
			object, before := w.measured(name, observed())
			w.afterwards(object, 1.3)
			w.endsRegressed(object, before)
		},
	}
}

func regressedWhileWatched() crashScenario {
	return crashScenario{
		name: "kept, and rolled back when it regresses while it is watched", atLeast: 10,
		phases: []dgmv1alpha1.Phase{dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseRolledBack},
		live: func(w *world, name string) {
			w.Helper()
			object, before := w.measured(name, observed(), watchedFor("60s"))
			w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
			w.becomes(object, 2, time.Now())
			end := w.endsRegressed(object, before)
			w.sampled(end, "watch", end.Status.KeptAt.Time, end.Status.Observation.Watched.Time)
		},
	}
}

func reverted() crashScenario {
	return crashScenario{
		name: "a trial, reverted when it went well", atLeast: 8,
		phases: []dgmv1alpha1.Phase{dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseCompleted},
		live: func(w *world, name string) {
			w.Helper()
			object, before := w.measured(name, observed(), func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.OnSuccess = dgmv1alpha1.OnSuccessRevert })
			w.afterwards(object, 0.8)
			w.reaches(object, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonReverted)
			w.settles(object)
			if diff := gocmp.Diff(before, w.contents([]string{"ConfigMap/" + name})); diff != "" {
				w.Errorf("after the trial (-before +after):\n%s", diff)
			}
			w.rows("completed|completed|Reverted|1|1||"+judgedOnce, accountOf, object.Name, w.namespace)
			end := w.sampledOnce(object)
			w.rows("Pass|"+end.Status.Reward+"|"+end.Status.Reward, `SELECT performance_after ->> 'verdict', performance_after ->> 'reward', metadata ->> 'reward' FROM dgm.dgm_archive WHERE improvement_id = $1`, end.Status.ImprovementID)
			if end.Status.Reward == "" {
				w.Error("the trial has no reward")
			}
			w.told(object, "Observing", "Reverted")
		},
	}
}

func deletedWhileTested() crashScenario {
	return crashScenario{
		name: "deleted while a test runs", atLeast: 3, phases: []dgmv1alpha1.Phase{dgmv1alpha1.PhaseFailed},
		live: func(w *world, name string) {
			w.Helper()
			ttl, objects := w.shopOf(name, triedBy(name))
			before := w.contents(objects)
			k := w.keeper(func(*batchv1.Job) (int32, string, bool) { return 0, "", false })
			w.create(ttl)
			w.eventually("the test runs", func() error {
				if ttl = w.refresh(ttl); len(ttl.Status.Tests) == 0 {
					return errorf("it is %s: %s", ttl.Status.Phase, message(ttl))
				}
				return nil
			})
			w.deleted(ttl)
			w.goes(ttl)
			k.noSandbox()
			if diff := gocmp.Diff(before, w.contents(objects)); diff != "" {
				w.Errorf("after its deletion (-before +after):\n%s", diff)
			}
			w.rows("failed|failed|Deleted|1|1|steady Error 1|", accountOf, ttl.Name, w.namespace)
			w.rows("1", `SELECT count(*) FROM dgm.dgm_archive WHERE name = $1 AND namespace = $2 AND deleted_at IS NOT NULL`, ttl.Name, w.namespace)
			w.told(ttl, "Testing", "Deleted")
		},
	}
}
