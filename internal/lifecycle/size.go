// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const (
	// MaxStatus bounds, in bytes of JSON, the status of an improvement.
	MaxStatus = 8 << 10
	// maxSyncedMessage bounds, in bytes of JSON, the message of DatabaseSynced,
	// which is set when all else is.
	maxSyncedMessage = 512
	// syncedReserve is room for the condition DatabaseSynced.
	syncedReserve = maxSyncedMessage + 256
	// leastMessage bounds each message of a status that does not fit otherwise.
	leastMessage = 512
)

// mark shows where a text was cut.
const mark = " …"

// fitStatus shortens the diff, of which the database has the whole, then the
// messages, and then what is said of metrics and the sandbox, until the status
// fits with DatabaseSynced still to be set.
func fitStatus(status *dgmv1alpha1.ImprovementWorkspaceStatus) {
	over := excess(*status)
	if over <= 0 {
		return
	}
	status.Diff = cutEncoded(status.Diff, max(0, encodedLen(status.Diff)-over), mark)
	if excess(*status) <= 0 {
		return
	}
	shortenMessages(status, leastMessage)
	if excess(*status) <= 0 {
		return
	}
	for i := range status.Metrics {
		status.Metrics[i].Interval = ""
	}
	if status.Sandbox != nil {
		status.Sandbox.LeftOut = cutEncoded(status.Sandbox.LeftOut, leastMessage/4, mark)
	}
	if excess(*status) > 0 {
		shortenMessages(status, leastMessage/4)
	}
	if excess(*status) > 0 {
		dropDetails(status)
	}
	if excess(*status) > 0 {
		shortenNames(status)
	}
}

// dropDetails leaves of each metric its verdict, of each ended test when it
// ended, and of a keep command who gave it.
func dropDetails(status *dgmv1alpha1.ImprovementWorkspaceStatus) {
	for i, m := range status.Metrics {
		status.Metrics[i] = dgmv1alpha1.MetricStatus{Name: m.Name, Verdict: m.Verdict}
	}
	for i := range status.Tests {
		if status.Tests[i].EndedAt != nil {
			status.Tests[i].StartedAt, status.Tests[i].Tries = nil, 0
		}
	}
	if status.Kept != nil {
		status.Kept.Reason = ""
	}
	if status.Sandbox != nil {
		status.Sandbox.LeftOut = ""
	}
	shortenMessages(status, leastMessage/8)
}

// shortenNames is the last resort: who approved, and which principles were
// violated, was in the database before.
func shortenNames(status *dgmv1alpha1.ImprovementWorkspaceStatus) {
	if status.Approval != nil {
		status.Approval.ApprovedBy = cutEncoded(status.Approval.ApprovedBy, leastMessage/8, mark)
	}
	if status.Kept != nil {
		status.Kept.KeptBy = cutEncoded(status.Kept.KeptBy, leastMessage/8, mark)
	}
	if status.Compliance != nil {
		status.Compliance.Violations = nil
	}
	shortenMessages(status, leastMessage/16)
}

func shortenMessages(status *dgmv1alpha1.ImprovementWorkspaceStatus, most int) {
	for i := range status.Conditions {
		status.Conditions[i].Message = cutEncoded(status.Conditions[i].Message, most, mark)
	}
	status.RollbackReason = cutEncoded(status.RollbackReason, most, mark)
}

// excess is by how many bytes a status is too large, without DatabaseSynced.
func excess(status dgmv1alpha1.ImprovementWorkspaceStatus) int {
	copied := status.DeepCopy()
	meta.RemoveStatusCondition(&copied.Conditions, dgmv1alpha1.ConditionDatabaseSynced)
	encoded, err := json.Marshal(copied)
	if err != nil {
		panic("a status cannot fail to marshal: " + err.Error())
	}
	return len(encoded) - (MaxStatus - syncedReserve)
}

// encodedLen is how many bytes a text takes in JSON, where one character can
// take six.
func encodedLen(s string) int {
	encoded, err := json.Marshal(s)
	if err != nil {
		panic("a string cannot fail to marshal: " + err.Error())
	}
	return len(encoded) - len(`""`)
}

// cutEncoded shortens s to at most n bytes of JSON without breaking a
// character, and ends what it has cut with a mark.
func cutEncoded(s string, n int, mark string) string {
	if encodedLen(s) <= n {
		return s
	}
	room := n - encodedLen(mark)
	if room < 0 {
		return ""
	}
	for i := 0; i < len(s); {
		_, width := utf8.DecodeRuneInString(s[i:])
		room -= encodedLen(s[i : i+width])
		if room < 0 {
			return s[:i] + mark
		}
		i += width
	}
	return s
}
