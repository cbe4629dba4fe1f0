// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// lab is a world with improvements that are held, each in a namespace of its own
// and in the phase that a test wants.
type lab struct {
	*world
	// admin is whom the test acts as.
	admin string

	mu   sync.Mutex
	held map[string]func(*admissionv1.AdmissionRequest) bool // by namespace
	let  map[string]bool                                     // sandboxes whose tests may end
}

const heldLabel = "example.com/held"

// lab needs an operator that leads.
func (w *world) lab() *lab {
	w.Helper()
	l := &lab{world: w, held: map[string]func(*admissionv1.AdmissionRequest) bool{}, let: map[string]bool{}}
	k := &keeper{world: w, serves: true, everybody: true, jobs: map[string]bool{}, namespaces: map[string]bool{}, verdict: func(job *batchv1.Job) (int32, string, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return 0, "", l.let[job.Namespace]
	}}
	k.keep()
	w.configure(concurrentKey, "1000")
	review := &authenticationv1.SelfSubjectReview{}
	w.create(review)
	l.admin = review.Status.UserInfo.Username
	l.stand()
	return l
}

// stand puts the lab's gate in front of the namespaces of its cells, and waits
// until it is in force.
func (l *lab) stand() {
	l.Helper()
	g := &liveGate{request: l.meet}
	url, authority := g.serve(l.world)
	hook := &registrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "lab-" + l.namespace},
		Webhooks: []registrationv1.ValidatingWebhook{{
			Name:                    "lab.test.dgm.acgs.io",
			ClientConfig:            registrationv1.WebhookClientConfig{URL: &url, CABundle: authority},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{heldLabel: l.namespace}},
			SideEffects:             new(registrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			Rules: []registrationv1.RuleWithOperations{
				asks(registrationv1.Update, "", "configmaps"), asks(registrationv1.Create, "apps", "controllerrevisions"),
				asks(registrationv1.Update, "dgm.acgs.io", "improvementworkspaces/status"),
			},
		}},
	}
	l.create(hook)
	l.Cleanup(func() { _ = l.Delete(context.Background(), hook) })
	probe := *l.world
	probe.namespace = l.newNamespace()
	l.hold(probe.namespace, updates("ConfigMap", gateProbe))
	object := probe.configMap(gateProbe, nil)
	l.eventually("the gate is in force", func() error {
		object.Data = map[string]string{"probe": time.Now().String()}
		if err := l.Update(context.Background(), object); err == nil {
			return errorf("the API server does not ask it")
		}
		return nil
	})
}

func (l *lab) newNamespace() string {
	l.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{heldLabel: l.namespace}}}
	l.create(namespace)
	return namespace.Name
}

func (l *lab) meet(request *admissionv1.AdmissionRequest) gateAnswer {
	l.mu.Lock()
	held := l.held[request.Namespace]
	l.mu.Unlock()
	if held != nil && (request.DryRun == nil || !*request.DryRun) && held(request) {
		return gateBreak
	}
	return gateAllow
}

// hold breaks what matches in a namespace; nil breaks nothing.
func (l *lab) hold(namespace string, matches func(*admissionv1.AdmissionRequest) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[namespace] = matches
}

func updates(kind, name string) func(*admissionv1.AdmissionRequest) bool {
	return func(request *admissionv1.AdmissionRequest) bool {
		return request.Kind.Kind == kind && request.Name == name && request.SubResource == ""
	}
}

func creates(kind string) func(*admissionv1.AdmissionRequest) bool {
	return func(request *admissionv1.AdmissionRequest) bool { return request.Kind.Kind == kind }
}

// goesOnTo matches the status of an improvement that goes on to a phase.
func goesOnTo(phase dgmv1alpha1.Phase) func(*admissionv1.AdmissionRequest) bool {
	return func(request *admissionv1.AdmissionRequest) bool {
		var object dgmv1alpha1.ImprovementWorkspace
		return request.SubResource == "status" && json.Unmarshal(request.Object.Raw, &object) == nil && object.Status.Phase == phase
	}
}

// cell is an improvement that is held in a phase. It sets TTL from 5 to 60 in
// the ConfigMaps one, which is its target, and two, in this order.
type cell struct {
	*world
	lab    *lab
	column column
	ttl    *dgmv1alpha1.ImprovementWorkspace
	// waitsForRights: its account may not patch yet. withdrawn: it may nothing.
	waitsForRights, withdrawn bool
}

// column is a phase in which improvements are held.
type column struct {
	name  string
	phase dgmv1alpha1.Phase
	// reason is why it stands there while it is held.
	reason string
	edit   func(*dgmv1alpha1.ImprovementWorkspace)
	// enter does what it takes to be held there besides, before the improvement is
	// made; turn what it takes after that.
	enter, turn func(c *cell)
	// release lets it go on. It may be called again, and find it ended or gone.
	release func(c *cell)
	// seesAtOnce: while it is held already, it sees what it has to wait for; a pass
	// that began before that is over then.
	seesAtOnce bool
}

// columns are the phases in which something can interrupt an improvement.
func columns() []column {
	return []column{
		{
			name: "Pending", phase: dgmv1alpha1.PhasePending, reason: dgmv1alpha1.ReasonForbidden,
			enter:   func(c *cell) { c.waitsForRights = true; c.setRights() },
			release: func(c *cell) { c.waitsForRights = false; c.setRights(); c.look() },
		},
		{
			name: "Preparing", phase: dgmv1alpha1.PhasePreparing, reason: dgmv1alpha1.ReasonRetrying,
			enter: func(c *cell) { c.lab.hold(c.namespace, creates("ControllerRevision")) }, release: (*cell).open,
		},
		{
			name: "Testing", phase: dgmv1alpha1.PhaseTesting, reason: dgmv1alpha1.ReasonTesting,
			edit: func(object *dgmv1alpha1.ImprovementWorkspace) {
				object.Spec.Sandbox, object.Spec.Tests = &dgmv1alpha1.Sandbox{}, []dgmv1alpha1.Test{testOf("endless")}
			},
			enter: func(c *cell) { c.mayRunJobs() }, turn: (*cell).testRuns, release: (*cell).passTest,
		},
		{
			name: "Validating", phase: dgmv1alpha1.PhaseValidating, reason: dgmv1alpha1.ReasonValidating,
			enter: func(c *cell) { c.lab.hold(c.namespace, goesOnTo(dgmv1alpha1.PhaseApplying)) }, release: (*cell).open,
		},
		{
			name: "AwaitingApproval", phase: dgmv1alpha1.PhaseAwaitingApproval, reason: dgmv1alpha1.ReasonAwaitingApproval,
			edit: wants(dgmv1alpha1.ApprovalAlways), release: (*cell).approve,
		},
		{
			name: "Applying, nothing changed", phase: dgmv1alpha1.PhaseApplying, reason: dgmv1alpha1.ReasonRetrying,
			enter: func(c *cell) { c.lab.hold(c.namespace, updates("ConfigMap", "one")) }, release: (*cell).open, seesAtOnce: true,
		},
		{
			name: "Applying, half changed", phase: dgmv1alpha1.PhaseApplying, reason: dgmv1alpha1.ReasonRetrying,
			enter: func(c *cell) { c.lab.hold(c.namespace, updates("ConfigMap", "two")) }, release: (*cell).open,
		},
		{
			name: "Applying, all changed", phase: dgmv1alpha1.PhaseApplying, reason: dgmv1alpha1.ReasonRollingOut,
			edit:  targets("shop"),
			enter: func(c *cell) { c.deployment("shop", "shop:1") }, release: func(c *cell) { c.rollOutOnce(context.Background()); c.look() },
		},
		{
			name: "Observing", phase: dgmv1alpha1.PhaseObserving,
			edit: func(object *dgmv1alpha1.ImprovementWorkspace) {
				observed()(object)
				object.Spec.Observe = &dgmv1alpha1.Observe{Window: "1s", Warmup: "0s", Interval: "1s", Deadline: "1s"}
			},
			release: (*cell).measure,
		},
		{
			name: "Completed, watched", phase: dgmv1alpha1.PhaseCompleted, reason: dgmv1alpha1.ReasonCompleted,
			edit: func(object *dgmv1alpha1.ImprovementWorkspace) {
				observed()(object)
				object.Spec.Metrics[0].OnNoData = dgmv1alpha1.UndecidedAccept
				object.Spec.Observe = &dgmv1alpha1.Observe{Window: "1s", Warmup: "0s", Interval: "1s", Deadline: "0s", WatchAfterCompletion: "1h"}
			},
			release: func(*cell) {},
		},
		{
			name: "RollingBack", phase: dgmv1alpha1.PhaseRollingBack, reason: dgmv1alpha1.ReasonRetrying,
			turn: (*cell).rollBackHalf, release: (*cell).open,
		},
	}
}

// cell makes an improvement and waits until it is held.
func (l *lab) cell(t *testing.T, column column) *cell {
	t.Helper()
	own := *l.world
	own.T, own.namespace = t, l.newNamespace()
	own.tenant("improver", "configmaps")
	c := &cell{world: &own, lab: l, column: column}
	for _, name := range []string{"one", "two"} {
		c.configMap(name, map[string]string{"TTL": "5"})
	}
	c.ttl = c.improvement("ttl", "one", over([2]string{"ConfigMap/one", `data: {TTL: "60"}`}, [2]string{"ConfigMap/two", `data: {TTL: "60"}`}))
	c.ttl.Spec.Target.Service = c.namespace
	if column.edit != nil {
		column.edit(c.ttl)
	}
	if column.enter != nil {
		column.enter(c)
	}
	c.create(c.ttl)
	if column.turn != nil {
		column.turn(c)
	}
	c.stands(column.phase, column.reason)
	return c
}

// patience is for many improvements at a time.
const patience = 90 * time.Second

// until is eventually, for many at a time.
func (c *cell) until(what string, check func() error) {
	c.Helper()
	next := time.Time{}
	c.eventuallyIn(patience, c.column.name+": "+what, func() error {
		time.Sleep(time.Until(next))
		next = time.Now().Add(200 * time.Millisecond)
		return check()
	})
}

// stands waits until it is in a phase, for a reason if one is given.
func (c *cell) stands(phase dgmv1alpha1.Phase, reason string) {
	c.Helper()
	c.until("it reaches "+string(phase)+" "+reason, func() error {
		fresh := c.refresh(c.ttl)
		ready := conditionOf(fresh, dgmv1alpha1.ConditionReady)
		if fresh.Status.Phase != phase || (reason != "" && ready.Reason != reason) {
			return errorf("it is %s: %s: %s", fresh.Status.Phase, ready.Reason, ready.Message)
		}
		return nil
	})
}

// now is the improvement as it is, nil when it is gone.
func (c *cell) now() *dgmv1alpha1.ImprovementWorkspace {
	c.Helper()
	fresh := &dgmv1alpha1.ImprovementWorkspace{}
	err := c.Get(context.Background(), client.ObjectKeyFromObject(c.ttl), fresh)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.Fatal(err)
	}
	return fresh
}

// merge patches the improvement, which may be gone.
func (c *cell) merge(patch string) {
	c.Helper()
	if err := c.patch(c.ttl, patch); client.IgnoreNotFound(err) != nil {
		c.Fatal(err)
	}
}

// look has the improvement looked at, if it is there.
func (c *cell) look() {
	c.Helper()
	c.merge(fmt.Sprintf(`{"metadata":{"annotations":{"example.com/look":%q}}}`, time.Now().String()))
}

// letGo has it go on, in order to see how it meets an interruption.
func (c *cell) letGo(want end) {
	c.Helper()
	if c.column.seesAtOnce {
		c.look()
		c.waits(want)
	}
	c.column.release(c)
}

func (c *cell) open() {
	c.Helper()
	c.lab.hold(c.namespace, nil)
	c.look()
}

func (c *cell) setRights() {
	c.Helper()
	switch {
	case c.withdrawn:
		c.grants("improver")
	case c.waitsForRights:
		c.grants("improver", "get")
	default:
		c.grants("improver", "get", "patch")
	}
}

func (c *cell) testRuns() {
	c.Helper()
	c.until("its test runs", func() error {
		if tests := c.refresh(c.ttl).Status.Tests; len(tests) == 0 || tests[0].Outcome != dgmv1alpha1.TestRunning {
			return errorf("the tests are %+v: %s", tests, message(c.refresh(c.ttl)))
		}
		return nil
	})
}

func (c *cell) passTest() {
	c.Helper()
	if now := c.now(); now != nil && now.Status.Sandbox != nil {
		c.lab.mu.Lock()
		defer c.lab.mu.Unlock()
		c.lab.let[now.Status.Sandbox.Namespace] = true
	}
}

func (c *cell) approve() {
	c.Helper()
	now := c.now()
	if now == nil || now.Status.Snapshot == nil {
		return
	}
	if err := c.Patch(context.Background(), now, approves(c.lab.admin, now.Status.Snapshot.PlanDigest)); client.IgnoreNotFound(err) != nil {
		c.Fatal(err)
	}
}

// measure inserts what an observation waits for, once it has waited in vain.
func (c *cell) measure() {
	c.Helper()
	var observed *dgmv1alpha1.ObservationStatus
	c.until("its metrics are looked for", func() error {
		now := c.now()
		switch {
		case now == nil || now.Status.Phase != dgmv1alpha1.PhaseObserving:
			observed = nil
		default:
			switch conditionOf(now, dgmv1alpha1.ConditionReady).Reason {
			case dgmv1alpha1.ReasonMetricsUndecided, dgmv1alpha1.ReasonRollbackForbidden:
				observed = now.Status.Observation
			default:
				return errorf("it is %s", message(now))
			}
		}
		return nil
	})
	if observed == nil {
		return
	}
	c.query(`INSERT INTO dgm.performance_metrics (metric_name, metric_type, metric_scope, value, unit, service_name, "timestamp")
		SELECT 'p99', 'latency', 'service', CASE WHEN at < $2::timestamptz THEN 150 ELSE 120 END + extract(milliseconds FROM at)::int % 7, 'ms', $1, at
		FROM generate_series($2::timestamptz - interval '5 seconds', now(), interval '100 milliseconds') at`, c.namespace, observed.BaselineEnd.Time)
}

func (c *cell) rollBackHalf() {
	c.Helper()
	c.stands(dgmv1alpha1.PhaseCompleted, "")
	c.lab.hold(c.namespace, updates("ConfigMap", "one"))
	c.annotate(c.ttl, dgmv1alpha1.AnnotationRollback, "held")
}

// live is TTL in the two ConfigMaps, as "one/two"; "-" for one that is gone.
func (c *cell) live() string {
	c.Helper()
	var values []string
	for _, name := range []string{"one", "two"} {
		var object corev1.ConfigMap
		err := c.Get(context.Background(), client.ObjectKey{Namespace: c.namespace, Name: name}, &object)
		switch {
		case apierrors.IsNotFound(err):
			values = append(values, "-")
		case err != nil:
			c.Fatal(err)
		default:
			values = append(values, object.Data["TTL"])
		}
	}
	return strings.Join(values, "/")
}
