// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// The shipped sample, through every phase there is, as the people around it live
// it: tried in a sandbox, agreed to by one who may, measured by a real Prometheus
// that scrapes real pods under load, kept, put back by command, and refused when
// it is edited to something unsafe.
func TestTheSampleThroughEveryPhase(t *testing.T) {
	t.Parallel()
	ns := newShop(t)
	customers(t, ns)
	seen := readEachVersion(t, ns)
	alice, mallory := newPerson(t, "alice", ns, "dgm-approver"), newPerson(t, "mallory", ns, "edit")
	w := sample(t, "config/samples/improvementworkspace.yaml", ns)
	w.Spec.Approval = &dgmv1alpha1.Approval{Policy: dgmv1alpha1.ApprovalAlways}
	loaded := time.Now()
	create(t, w)

	command := approvalCommand(t, w)
	time.Sleep(time.Until(loaded.Add(baselineTime))) // people are slow
	approvedAsPrinted(t, w, command, alice, mallory)
	expectFinished(t, w, dgmv1alpha1.PhaseCompleted)
	if a := w.Status.Approval; a == nil || a.ApprovedBy != "alice" || a.PlanDigest != w.Status.Snapshot.PlanDigest {
		t.Errorf("approval is %+v", a)
	}
	expectServed(t, ns, "60")
	expectGain(t, w)
	expectNoSandbox(t, w)
	expectRow(t, []string{"Passed", "alice", "cdd01ef066bc6cf2", "true"}, `SELECT w.test_results #>> '{tests,smoke,outcome}', a.metadata #>> '{approval,approvedBy}', l.constitutional_hash, (l.reviewed_at IS NOT NULL)::text
		FROM dgm.improvement_workspaces w JOIN dgm.dgm_archive a USING (improvement_id) JOIN dgm.constitutional_compliance_logs l USING (improvement_id) WHERE improvement_id = $1`, w.Status.ImprovementID)
	expectColumns(t, w)

	order(t, w, dgmv1alpha1.AnnotationRollback, "prices were stale")
	expectPhase(t, w, dgmv1alpha1.PhaseRolledBack)
	expectServed(t, ns, "5")
	expectStory(t, w)

	edit := `{"spec":{"sandbox":null,"tests":null,"safetyChecks":[{"name":"short","expression":"int(after.cache.data.CACHE_TTL) <= 30","message":"half a minute at most"}]}}`
	if err := stack.client.Patch(t.Context(), w, client.RawPatch("application/merge-patch+json", []byte(edit))); err != nil {
		t.Fatal(err)
	}
	expectPhase(t, w, dgmv1alpha1.PhaseFailed)
	if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionStalled); c.Reason != dgmv1alpha1.ReasonSafetyCheckFailed || !strings.Contains(c.Message, "half a minute at most") || w.Status.Attempt != 2 {
		t.Errorf("attempt %d ended with %s: %s", w.Status.Attempt, c.Reason, c.Message)
	}
	expectServed(t, ns, "5")
	if phases := seen.phases(); !slices.Equal(phases, everyPhase) {
		t.Errorf("the phases were %q; want %q", phases, everyPhase)
	}
}

var everyPhase = []dgmv1alpha1.Phase{
	dgmv1alpha1.PhasePreparing, dgmv1alpha1.PhaseTesting, dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseAwaitingApproval,
	dgmv1alpha1.PhaseApplying, dgmv1alpha1.PhaseObserving, dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRollingBack, dgmv1alpha1.PhaseRolledBack,
	dgmv1alpha1.PhasePending, dgmv1alpha1.PhasePreparing, dgmv1alpha1.PhaseValidating, dgmv1alpha1.PhaseFailed,
}

// approvalCommand is the command that the improvement shows to who may approve.
func approvalCommand(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) (command string) {
	t.Helper()
	expectStatus(t, w, func() error {
		c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling)
		if w.Status.Phase != dgmv1alpha1.PhaseAwaitingApproval || c == nil {
			return fmt.Errorf("phase %s", w.Status.Phase)
		}
		command = regexp.MustCompile(`kubectl annotate .*`).FindString(c.Message)
		return nil
	})
	if ttl := checkoutConfig(t, w.Namespace).Data["CACHE_TTL"]; ttl != "5" || !strings.Contains(command, w.Status.Snapshot.PlanDigest) {
		t.Fatalf("CACHE_TTL is %q before anybody agreed; the command is %q", ttl, command)
	}
	return command
}

// approvedAsPrinted types the command as it is shown: who may not approve is
// refused, another plan does not count, and who may approves.
func approvedAsPrinted(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, command string, approver, other person) {
	t.Helper()
	if said, err := other.tries(t, command); err == nil || !strings.Contains(said, "user mallory may not approve") {
		t.Errorf("who may not approve is told %q (%v)", said, err)
	}
	digest := w.Status.Snapshot.PlanDigest
	approver.types(t, strings.ReplaceAll(command, digest, strings.Repeat("0", len(digest))))
	expectStatus(t, w, func() error {
		if c := meta.FindStatusCondition(w.Status.Conditions, dgmv1alpha1.ConditionReconciling); w.Status.Phase != dgmv1alpha1.PhaseAwaitingApproval || !strings.Contains(c.Message, "alice approves another one") {
			return fmt.Errorf("phase %s: %s", w.Status.Phase, c.Message)
		}
		return nil
	})
	approver.types(t, command)
}

// expectGain looks at what was measured: every sample is in the database, and the
// summary is that of the samples.
func expectGain(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	reward, err := strconv.ParseFloat(w.Status.Reward, 64)
	if err != nil || reward <= 0.5 || w.Status.Verdict != dgmv1alpha1.VerdictPass || !strings.HasPrefix(w.Status.Gain, "+") {
		t.Errorf("verdict %s, gain %q, reward %q", w.Status.Verdict, w.Status.Gain, w.Status.Reward)
	}
	expectRow(t, []string{"true", "true", w.Status.Reward}, `SELECT
		((performance_before #>> '{metrics,mean-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'baseline'))::text,
		((performance_after #>> '{metrics,mean-latency,samples}')::int = count(*) FILTER (WHERE tags ->> 'side' = 'candidate'))::text, performance_after ->> 'reward'
		FROM dgm.dgm_archive a JOIN dgm.performance_metrics m USING (improvement_id) WHERE a.improvement_id = $1 GROUP BY a.id`, w.Status.ImprovementID)
}

// expectColumns looks at what kubectl prints of a kept improvement.
func expectColumns(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	table := administrator().types(t, "kubectl get improvements -o wide -n "+w.Namespace)
	header, line, _ := strings.Cut(table, "\n")
	for _, column := range []string{"NAME", "TARGET", "TYPE", "PHASE", "VERDICT", "COMPLIANCE", "GAIN", "READY", "AGE", "REASON", "ARM", "PARENT", "SYNCED", "IMPROVEMENT-ID"} {
		if !strings.Contains(header, column) {
			t.Errorf("no column %s in %q", column, header)
		}
	}
	for _, value := range []string{w.Name, "checkout", "ConfigurationUpdate", "Completed", "Pass", "1.00", w.Status.Gain, "True", w.Status.ImprovementID} {
		if !strings.Contains(line, value) {
			t.Errorf("no %s in %q", value, line)
		}
	}
}

// expectStory looks at the events of an improvement that was kept and put back.
func expectStory(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) {
	t.Helper()
	told := administrator().types(t, "kubectl get events --sort-by=.metadata.creationTimestamp -o custom-columns=REASON:.reason --no-headers -n "+w.Namespace+" --field-selector involvedObject.name="+w.Name)
	for _, reason := range []string{"Preparing", "Testing", "TestEnded", "Validating", "Judged", "AwaitingApproval", "Approved", "Applying", "RollingOut", "Observing", "Completed", "RollingBack", "RolledBack"} {
		if n := slices.Index(strings.Fields(told), reason); n < 0 {
			t.Errorf("no event %s among %q", reason, strings.Fields(told))
		}
	}
}
