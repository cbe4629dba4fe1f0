// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// Command is what a person asks of an improvement by an annotation.
type Command string

// The commands.
const (
	CommandNone     Command = ""
	CommandRollback Command = "rollback"
	CommandAbort    Command = "abort"
	CommandKeep     Command = "keep"
	CommandRetry    Command = "retry"
)

// In bytes of JSON.
const (
	maxToken  = 256
	maxReason = 512
	// Status has no more room for these. A plan's digest has 64.
	maxKeepToken    = 64
	maxApproveToken = 65
)

// CommandRequest is a command with the reason that was given for it.
type CommandRequest struct {
	Command Command
	Reason  string
}

// NextCommand is the command that is asked for and not handled yet, with the
// tokens as they are once it is. Where several are new, the careful one wins:
// abort, rollback, keep, retry; one token is handled at a time. A command
// that means nothing in the phase is handled by doing nothing (CommandNone,
// with the tokens changed).
func NextCommand(w *dgmv1alpha1.ImprovementWorkspace) (CommandRequest, dgmv1alpha1.HandledCommands) {
	handled := w.Status.LastHandled
	for _, c := range []struct {
		command    Command
		annotation string
		token      *string
		meaningful bool
	}{
		{CommandAbort, dgmv1alpha1.AnnotationAbort, &handled.Abort, !w.Status.Phase.IsTerminal() && w.Status.Phase != dgmv1alpha1.PhaseRollingBack},
		{CommandRollback, dgmv1alpha1.AnnotationRollback, &handled.Rollback, w.Status.Phase == dgmv1alpha1.PhaseCompleted || w.Status.Phase.MayHaveApplied()},
		{CommandKeep, dgmv1alpha1.AnnotationKeep, &handled.Keep, w.Status.Phase == dgmv1alpha1.PhaseObserving},
		{CommandRetry, dgmv1alpha1.AnnotationRetry, &handled.Retry, w.Status.Phase.IsTerminal()},
	} {
		value := token(w.Annotations[c.annotation])
		if c.command == CommandKeep {
			value = keepToken(w)
		}
		if value == "" || value == *c.token {
			continue
		}
		*c.token = value
		if !c.meaningful {
			continue
		}
		reason := cutEncoded(strings.Join(strings.Fields(w.Annotations[c.annotation+dgmv1alpha1.AnnotationReasonSuffix]), " "), maxReason, mark)
		return CommandRequest{Command: c.command, Reason: reason}, handled
	}
	return CommandRequest{}, handled
}

// HandleAll are the tokens as they are once every command on the object counts
// as handled: an object that has just been created was not yet commanded.
func HandleAll(w *dgmv1alpha1.ImprovementWorkspace) dgmv1alpha1.HandledCommands {
	return dgmv1alpha1.HandledCommands{
		Rollback: token(w.Annotations[dgmv1alpha1.AnnotationRollback]),
		Abort:    token(w.Annotations[dgmv1alpha1.AnnotationAbort]),
		Retry:    token(w.Annotations[dgmv1alpha1.AnnotationRetry]),
		Keep:     keepToken(w),
		Approve:  approveToken(w),
	}
}

// token is as much of an annotation's value as status has room for.
func token(value string) string { return cutEncoded(value, maxToken, "") }

func approveToken(w *dgmv1alpha1.ImprovementWorkspace) string {
	return cutEncoded(w.Annotations[dgmv1alpha1.AnnotationApprove], maxApproveToken, "")
}

func keepToken(w *dgmv1alpha1.ImprovementWorkspace) string {
	return cutEncoded(w.Annotations[dgmv1alpha1.AnnotationKeep], maxKeepToken, "")
}
