// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

const verdicts = `SELECT concat_ws(' ', operation_type, compliance_level, compliance_score, status) FROM dgm.constitutional_compliance_logs WHERE improvement_id::text = $1 ORDER BY assessed_at, 1`

func checked(expression string) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.SafetyChecks = append(object.Spec.SafetyChecks, dgmv1alpha1.SafetyCheck{
			Name: fmt.Sprintf("check-%d", len(object.Spec.SafetyChecks)), Expression: expression, Message: "the cache may be at most 5 minutes stale",
		})
	}
}

func wants(policy dgmv1alpha1.ApprovalPolicy) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) {
		object.Spec.Approval = &dgmv1alpha1.Approval{Policy: policy}
	}
}

func risks(level dgmv1alpha1.RiskLevel) func(*dgmv1alpha1.ImprovementWorkspace) {
	return func(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Risk = &dgmv1alpha1.Risk{Level: level} }
}

// bomb is a safety check that would take minutes.
func bomb(object *dgmv1alpha1.ImprovementWorkspace) {
	object.Spec.Description = strings.Repeat("cache for a minute ", 200)
	checked(`spec.description.split("").all(a, spec.description.split("").all(b, spec.description.split("").all(c, (a + b + c).size() == 3)))`)(object)
}

func dryRun(object *dgmv1alpha1.ImprovementWorkspace) { object.Spec.Mode = dgmv1alpha1.ModeDryRun }

func TestGates(t *testing.T) {
	w := newWorld(t)
	answer := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		select {
		case <-answer:
		case <-request.Context().Done():
		}
		response.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(slow.Close)
	file := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(file, []byte("sources: {default: {url: '"+slow.URL+"', timeout: 50s}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start("--metric-sources-file=" + file)

	w.scenario("what passes is recorded", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", checked(`int(after.cache.data.CACHE_TTL) <= 300`), checked(`before.cache.data.CACHE_TTL == "5" && target.kind == "ConfigMap"`))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
		end := w.synced(ttl)
		if c := end.Status.Compliance; c == nil || c.Score != "0.95" || c.ExactScore != "0.95" || c.Level != "compliant" || !*c.Accepted || c.Hash != "cdd01ef066bc6cf2" || strings.Join(c.Violations, " ") != "beneficence" {
			w.Errorf("compliance is %+v", end.Status.Compliance)
		}
		id := end.Status.ImprovementID
		w.rows("improvement compliant 0.95 completed", verdicts, id)
		w.rows("true|Holds|Medium|0.95|High", `SELECT w.compliance_validated, w.safety_checks -> 1 ->> 'outcome', w.risk_assessment ->> 'level', a.constitutional_compliance_score::text, w.validation_results -> 'risk' ->> 'limit'
			FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id) WHERE improvement_id::text = $1`, id)
		w.rows("1.0|cdd01ef066bc6cf2|automated|dgm-operator|beneficence|10", `SELECT constitutional_version, constitutional_hash, assessment_method, assessor_id, violations -> 0 ->> 'principle', jsonb_array_length(evidence -> 'constitution' -> 'principles')
			FROM dgm.constitutional_compliance_logs WHERE improvement_id::text = $1`, id)
		w.eventually("an event says it once", func() error { return w.eventsOf(ttl, dgmv1alpha1.ReasonJudged, 1) })
	})
	for name, refused := range map[string]struct {
		edit    func(*dgmv1alpha1.ImprovementWorkspace)
		reason  string
		message string
	}{
		"a safety check that is not true": {checked(`int(after.cache.data.CACHE_TTL) <= 30`), dgmv1alpha1.ReasonSafetyCheckFailed, "safety check check-0 is not true: the cache may be at most 5 minutes stale"},
		"a safety check that errs":        {checked(`after.cache.data.TTL == "1"`), dgmv1alpha1.ReasonSafetyCheckFailed, "no such key: TTL"},
		"a safety check with a typo":      {checked(`after.cash.data.CACHE_TTL == "1"`), dgmv1alpha1.ReasonSafetyCheckFailed, `after has no "cash"`},
		"a safety check that is a bomb":   {bomb, dgmv1alpha1.ReasonSafetyCheckFailed, "it costs more than the limit"},
		"a risk above the limit":          {risks(dgmv1alpha1.RiskCritical), dgmv1alpha1.ReasonRiskTooHigh, "its risk is Critical, and High is the highest that the system configuration risk_limit allows"},
		"a secret in plain":               {over([2]string{"ConfigMap/config", `{"data":{"DB_PASSWORD":"hunter2hunter2"}}`}), dgmv1alpha1.ReasonConstitutionViolated, "violated: privacy, beneficence. privacy (critical): "},
		"another constitution": {func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Spec.ConstitutionRef = &dgmv1alpha1.ConstitutionReference{ExpectedHash: "0123456789abcdef"}
		}, dgmv1alpha1.ReasonConstitutionMismatch, "its author means the constitution 0123456789abcdef, and cdd01ef066bc6cf2 is the active one"},
		"a constitution that there is not": {func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Spec.ConstitutionRef = &dgmv1alpha1.ConstitutionReference{Name: "mine"}
		}, dgmv1alpha1.ReasonConstitutionMismatch, "there is no constitution mine"},
	} {
		w.scenario("P7: "+name, func(w *world) {
			w.configMap("config", map[string]string{"CACHE_TTL": "5"})
			ttl := w.improvement("ttl", "config", refused.edit)
			w.create(ttl)
			failed := w.stalls(ttl, dgmv1alpha1.PhaseFailed, refused.reason)
			w.says(message(failed), refused.message)
			w.values(map[string]string{"config": "5"})
			if refused.reason == dgmv1alpha1.ReasonConstitutionViolated {
				w.rows("improvement critical_violation 0.85 completed", verdicts, failed.Status.ImprovementID)
				w.rows("failed|ConstitutionViolated|false", `SELECT a.status, a.outcome_reason, w.compliance_validated FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id) WHERE improvement_id::text = $1`, failed.Status.ImprovementID)
			}
		})
	}
	w.scenario("a dry run shows plan, verdicts and rows, and touches nothing", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		before := w.content("ConfigMap/config")
		good := w.improvement("good", "config", dryRun, checked(`int(after.cache.data.CACHE_TTL) <= 300`))
		w.create(good)
		shown := w.reaches(good, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun)
		w.says(message(shown), "nothing was touched; with mode Apply this would change", "constitution score 0.95 (compliant), threshold 0.8; violated: beneficence", "risk Medium of at most High", "check-0: Holds")
		w.says(shown.Status.Diff, `data.CACHE_TTL: "5" → "60"`)
		w.rows("improvement_dry_run compliant 0.95 completed", verdicts, shown.Status.ImprovementID)
		w.rows("completed|cdd01ef066bc6cf2|60", `SELECT w.validation_results #>> '{wouldWrite,dgm_archive,status}', w.constitutional_hash, substring(w.validation_results #>> '{wouldWrite,improvement_workspaces,rollback_plan,diff}' FROM '→ "(60)"')
			FROM dgm.improvement_workspaces w WHERE improvement_id::text = $1`, shown.Status.ImprovementID)

		bad := w.improvement("bad", "config", dryRun, risks(dgmv1alpha1.RiskCritical))
		w.create(bad)
		w.says(message(w.reaches(bad, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun)), "with mode Apply this would be refused: RiskTooHigh: its risk is Critical")
		if after := w.content("ConfigMap/config"); after != before {
			w.Errorf("the ConfigMap is %s, was %s", after, before)
		}
	})
	w.scenario("a child waits for its parent", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.configMap("other", map[string]string{"CACHE_TTL": "5"})
		child := w.improvement("child", "other", func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Spec.ParentRef = &dgmv1alpha1.ParentReference{Name: "parent"}
		})
		w.create(child)
		w.says(message(w.reaches(child, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonParentNotCompleted)), "parent, which does not exist")
		parent := w.improvement("parent", "config", suspended)
		w.create(parent)
		w.reaches(parent, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonSuspended)
		w.values(map[string]string{"other": "5"})
		if err := w.patch(parent, `{"spec":{"suspend":false}}`); err != nil {
			w.Fatal(err)
		}
		w.reaches(parent, dgmv1alpha1.PhaseCompleted, "")
		w.reaches(child, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)

		w.configMap("third", map[string]string{"CACHE_TTL": "5"})
		w.annotate(parent, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(parent, dgmv1alpha1.PhaseRolledBack, "")
		late := w.improvement("late", "third", func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Spec.ParentRef = &dgmv1alpha1.ParentReference{Name: "parent"}
		})
		w.create(late)
		w.says(message(w.stalls(late, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonParentFailed)), "it builds on improvement parent, which has ended RolledBack", "dgm.acgs.io/retry=TOKEN")
	})
	w.scenario("a freeze while the baseline is measured keeps the change", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", observed(scraped("up")))
		w.create(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonApplying)
		w.freeze("true")
		close(answer)
		w.reaches(ttl, dgmv1alpha1.PhaseApplying, dgmv1alpha1.ReasonFrozen)
		w.values(map[string]string{"config": "5"})
		w.freeze("false")
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseObserving, "")
		w.values(map[string]string{"config": "60"})
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
	})
	w.Run("freeze", func(t *testing.T) {
		own := *w
		own.T = t
		w := &own
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		w.create(&dgmv1alpha1.SystemConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "freeze"}, Spec: dgmv1alpha1.SystemConfigurationSpec{Key: "freeze", Value: new("true")}})
		w.rows("true", "SELECT value FROM dgm.system_configurations WHERE key = 'freeze'")
		ttl := w.improvement("ttl", "config")
		w.create(ttl)
		w.says(message(w.reaches(ttl, dgmv1alpha1.PhasePending, dgmv1alpha1.ReasonFrozen)), "every improvement is frozen by the SystemConfiguration freeze of cluster test", "delete the SystemConfiguration")
		w.values(map[string]string{"config": "5"})
		if err := w.Delete(context.Background(), &dgmv1alpha1.SystemConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "freeze"}}); err != nil {
			t.Fatal(err)
		}
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonCompleted)
	})
	w.Run("P7: a constitution that nobody knows", func(t *testing.T) {
		own := *w
		own.T = t
		w := &own
		w.configMap("unknown", map[string]string{"CACHE_TTL": "5"})
		w.query(`UPDATE dgm.known_constitutions SET active = false`)
		w.query(`INSERT INTO dgm.known_constitutions (hash, version, active) VALUES ('feedfeedfeedfeed', '9', true)`)
		ttl := w.improvement("unknown", "unknown")
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhaseValidating, dgmv1alpha1.ReasonConstitutionMismatch)
		w.says(message(waiting), "the active constitution of the database is feedfeedfeedfeed, of which this operator knows no principles")
		w.values(map[string]string{"unknown": "5"})
		w.query(`UPDATE dgm.known_constitutions SET active = false`)
		w.query(`UPDATE dgm.known_constitutions SET active = true WHERE hash = 'cdd01ef066bc6cf2'`)
		w.nudge(ttl)
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
	})
}

// eventsOf is nil when there are so many events of a reason about an improvement.
func (w *world) eventsOf(object *dgmv1alpha1.ImprovementWorkspace, reason string, want int) error {
	w.Helper()
	var events corev1.EventList
	if err := w.List(context.Background(), &events, client.InNamespace(object.Namespace)); err != nil {
		return err
	}
	found := 0
	for i := range events.Items {
		if events.Items[i].Reason == reason && events.Items[i].InvolvedObject.Name == object.Name {
			found++
		}
	}
	if found != want {
		return fmt.Errorf("%d events %s, want %d", found, reason, want)
	}
	return nil
}

// approver is a user who may approve in the namespace.
func approver() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"dgm.acgs.io"}, Resources: []string{"improvementworkspaces"}, Verbs: []string{"approve"}}
}

func approves(by, digest string) client.Patch {
	annotations, err := json.Marshal(map[string]string{dgmv1alpha1.AnnotationApprove: digest, dgmv1alpha1.AnnotationApprovedBy: by})
	if err != nil {
		panic(err)
	}
	return client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":%s}}`, annotations))
}

func TestApproval(t *testing.T) {
	w := newWorld(t)
	w.start()
	ctx := context.Background()
	awaiting := func(w *world, edits ...func(*dgmv1alpha1.ImprovementWorkspace)) *dgmv1alpha1.ImprovementWorkspace {
		w.Helper()
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", append([]func(*dgmv1alpha1.ImprovementWorkspace){wants(dgmv1alpha1.ApprovalAlways)}, edits...)...)
		w.create(ttl)
		return w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.ReasonAwaitingApproval)
	}

	w.scenario("who may approves the plan", func(w *world) {
		alice := w.user("alice", approver())
		ttl := awaiting(w)
		digest := ttl.Status.Snapshot.PlanDigest
		w.says(message(ttl), "its compliance is 0.95 (compliant)", "waiting for approval of the plan "+digest,
			"kubectl annotate improvement ttl --namespace="+w.namespace+" --overwrite dgm.acgs.io/approve="+digest+" dgm.acgs.io/approved-by=")
		w.rows("improvement compliant 0.95 requires_review", verdicts, ttl.Status.ImprovementID)
		if err := alice.Patch(ctx, ttl.DeepCopy(), approves("alice", digest)); err != nil {
			w.Fatal(err)
		}
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		end := w.synced(ttl)
		if a := end.Status.Approval; a == nil || a.ApprovedBy != "alice" || a.PlanDigest != digest || a.ApprovedAt == nil {
			w.Errorf("approval is %+v", end.Status.Approval)
		}
		if !end.Status.ActiveSince.After(end.Status.Approval.ApprovedAt.Add(-time.Second)) {
			w.Errorf("the time limit counts from %s, the approval was at %s", end.Status.ActiveSince, end.Status.Approval.ApprovedAt)
		}
		w.rows("improvement compliant 0.95 completed", verdicts, ttl.Status.ImprovementID)
		w.rows("alice", `SELECT metadata #>> '{approval,approvedBy}' FROM dgm.dgm_archive WHERE improvement_id::text = $1`, ttl.Status.ImprovementID)
		w.rows("true", `SELECT reviewed_at IS NOT NULL FROM dgm.constitutional_compliance_logs WHERE improvement_id::text = $1`, ttl.Status.ImprovementID)
	})

	w.scenario("P7, P8: nobody else does", func(w *world) {
		mallory := w.user("mallory")
		alice := w.user("alice", approver())
		ttl := awaiting(w)
		digest := ttl.Status.Snapshot.PlanDigest
		refused := func(c client.Client, patch client.Patch, parts ...string) {
			w.Helper()
			err := c.Patch(ctx, ttl.DeepCopy(), patch)
			if !apierrors.IsForbidden(err) {
				w.Errorf("the answer is %v, want Forbidden", err)
				return
			}
			w.says(err.Error(), parts...)
		}
		refused(mallory, approves("mallory", digest), "user mallory may not approve or keep improvements in namespace "+w.namespace, "dgm-approver")
		refused(mallory, approves("alice", digest), "may not approve")
		refused(alice, approves("bob", digest), "must be your own name, alice")
		refused(alice, approves("", digest), "must be your own name, alice")
		if err := alice.Patch(ctx, ttl.DeepCopy(), approves("alice", strings.Repeat("0", 64))); err != nil {
			w.Fatal(err)
		}
		w.eventually("it says that another plan was approved", func() error {
			if said := message(w.refresh(ttl)); !strings.Contains(said, "alice approves another one, 0000") {
				return errorf("it says %q", said)
			}
			return nil
		})
		refused(mallory, approves("alice", digest), "may not approve")
		// The status takes no annotations, whoever writes it.
		status := w.refresh(ttl)
		status.Annotations = map[string]string{dgmv1alpha1.AnnotationApprove: digest, dgmv1alpha1.AnnotationApprovedBy: "alice"}
		if err := w.Status().Update(ctx, status); err == nil && w.refresh(ttl).Annotations[dgmv1alpha1.AnnotationApprove] == digest {
			w.Error("annotations came in by the status")
		}
		// Taking one off is nobody's approval.
		if err := mallory.Patch(ctx, ttl.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"dgm.acgs.io/approve":null,"dgm.acgs.io/approved-by":null}}}`))); err != nil {
			w.Fatal(err)
		}
		w.eventually("it waits", func() error {
			if said := message(w.refresh(ttl)); strings.Contains(said, "another one") {
				return errorf("it says %q", said)
			}
			return nil
		})
		w.values(map[string]string{"config": "5"})
		w.annotate(ttl, dgmv1alpha1.AnnotationAbort, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonAborted)
		w.rows("completed|false|", `SELECT status, review_required, reviewed_at::text FROM dgm.constitutional_compliance_logs WHERE improvement_id::text = $1`, ttl.Status.ImprovementID)
	})

	w.scenario("P7: what is there at the creation is no approval", func(w *world) {
		alice := w.user("alice", approver())
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		preview := w.improvement("preview", "config", dryRun)
		w.create(preview)
		w.reaches(preview, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.ReasonDryRun)
		digest := w.query(`SELECT validation_results ->> 'planDigest' FROM dgm.improvement_workspaces WHERE namespace = $1 AND name = 'preview'`, w.namespace)
		ttl := w.improvement("ttl", "config", wants(dgmv1alpha1.ApprovalAlways), func(o *dgmv1alpha1.ImprovementWorkspace) {
			o.Annotations = map[string]string{dgmv1alpha1.AnnotationApprove: digest, dgmv1alpha1.AnnotationApprovedBy: "alice"}
		})
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, "")
		if waiting.Status.Snapshot.PlanDigest != digest {
			w.Fatalf("the plan is %s, the dry run's %s", waiting.Status.Snapshot.PlanDigest, digest)
		}
		w.says(message(waiting), "was there when this attempt began, and does not count")
		w.values(map[string]string{"config": "5"})
		if err := alice.Patch(ctx, ttl.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"dgm.acgs.io/approve":null}}}`))); err != nil {
			w.Fatal(err)
		}
		w.eventually("it is forgotten", func() error {
			if handled := w.refresh(ttl).Status.LastHandled.Approve; handled != "" {
				return errorf("the approval of before is %q", handled)
			}
			return nil
		})
		if err := alice.Patch(ctx, ttl.DeepCopy(), approves("alice", digest)); err != nil {
			w.Fatal(err)
		}
		w.reaches(ttl, dgmv1alpha1.PhaseCompleted, "")
		// The next attempt is not approved by it.
		w.annotate(ttl, dgmv1alpha1.AnnotationRollback, "1")
		w.reaches(ttl, dgmv1alpha1.PhaseRolledBack, "")
		w.annotate(ttl, dgmv1alpha1.AnnotationRetry, "1")
		again := w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, "")
		if again.Status.Attempt != 2 {
			w.Errorf("it is attempt %d", again.Status.Attempt)
		}
		w.values(map[string]string{"config": "5"})
	})

	w.scenario("P7: it is void when what it touches has changed", func(w *world) {
		alice := w.user("alice", approver())
		ttl := awaiting(w)
		w.setData("config", "CACHE_TTL", "7")
		if err := alice.Patch(ctx, ttl.DeepCopy(), approves("alice", ttl.Status.Snapshot.PlanDigest)); err != nil {
			w.Fatal(err)
		}
		w.says(message(w.stalls(ttl, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonTargetChanged)), "the plan is void", "dgm.acgs.io/retry=TOKEN")
		w.values(map[string]string{"config": "7"})
	})

	w.scenario("OnWarning asks for a warning only", func(w *world) {
		w.configMap("config", map[string]string{"CACHE_TTL": "5"})
		ttl := w.improvement("ttl", "config", wants(dgmv1alpha1.ApprovalOnWarning), func(o *dgmv1alpha1.ImprovementWorkspace) { o.Spec.Description = "test" })
		w.create(ttl)
		waiting := w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, "")
		w.says(message(waiting), "its compliance is 0.8 (warning)")
	})
}

// What waits for a person stops nobody, and is judged by what holds when that
// person has spoken.
func TestP7_ApprovedIsJudgedByWhatHoldsThen(t *testing.T) {
	w := newWorld(t)
	w.lead()
	w.configure("max_concurrent_improvements", "1")
	waiting := func(name string) *dgmv1alpha1.ImprovementWorkspace {
		w.configMap(name, map[string]string{"CACHE_TTL": "5"})
		object := w.improvement(name, name, wants(dgmv1alpha1.ApprovalAlways), risks(dgmv1alpha1.RiskHigh))
		w.create(object)
		return w.reaches(object, dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.ReasonAwaitingApproval)
	}
	first, second := waiting("first"), waiting("second")
	alice := w.user("alice", approver())
	approve := func(object *dgmv1alpha1.ImprovementWorkspace) {
		if err := alice.Patch(context.Background(), object.DeepCopy(), approves("alice", object.Status.Snapshot.PlanDigest)); err != nil {
			w.Fatal(err)
		}
	}
	approve(first)
	w.reaches(first, dgmv1alpha1.PhaseCompleted, "")
	w.configure("risk_limit", "Low")
	approve(second)
	w.says(message(w.stalls(second, dgmv1alpha1.PhaseFailed, dgmv1alpha1.ReasonRiskTooHigh)), "its risk is High, and Low is the highest that the system configuration risk_limit allows")
	w.values(map[string]string{"first": "60", "second": "5"})
}

func TestP7_NoApprovalCountsWithoutItsPolicy(t *testing.T) {
	w := newWorld(t)
	w.start()
	held := w.observes("held", nil, briefly)
	alice := w.user("alice", approver())
	w.configMap("config", map[string]string{"CACHE_TTL": "5"})
	ttl := w.improvement("ttl", "config", wants(dgmv1alpha1.ApprovalAlways))
	w.create(ttl)
	waiting := w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, "")
	binding := &registrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "dgm-improvement-approval"}}
	if err := w.Delete(context.Background(), binding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { operatortest.Install(t) })
	w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	if err := w.user("mallory").Patch(context.Background(), held.DeepCopy(), keeps("alice", "1")); err != nil {
		t.Fatal(err)
	}
	w.says(w.warns(held, dgmv1alpha1.ReasonKeepRefused), "it does not count while who may keep was not checked", "dgm-improvement-approval is not installed")
	w.stalls(held, dgmv1alpha1.PhaseObserving, dgmv1alpha1.ReasonMetricsUndecided)
	if err := alice.Patch(context.Background(), ttl.DeepCopy(), approves("alice", waiting.Status.Snapshot.PlanDigest)); err != nil {
		t.Fatal(err)
	}
	w.says(message(w.reaches(ttl, dgmv1alpha1.PhaseAwaitingApproval, dgmv1alpha1.ReasonAdmissionPolicyMissing)), "an approval does not count", "dgm-improvement-approval is not installed")
	w.values(map[string]string{"config": "5"})
	time.Sleep(time.Until(waiting.CreationTimestamp.Add(1100 * time.Millisecond))) // creation times count seconds
	operatortest.Install(t)
	w.eventually("it was not judged", func() error {
		w.nudge(ttl)
		if said := message(w.refresh(ttl)); !strings.Contains(said, "delete it and create it again") {
			return errorf("it says %q", said)
		}
		return nil
	})
	w.values(map[string]string{"config": "5"})
}
