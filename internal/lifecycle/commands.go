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
	CommandRetry    Command = "retry"
)

const (
	maxToken  = 256
	maxReason = 512
)

// CommandRequest is a command with the reason that was given for it.
type CommandRequest struct {
	Command Command
	Reason  string
}

// NextCommand is the command that is asked for and not handled yet, with the
// tokens as they are once it is. Where several are new, the careful one wins:
// abort, then rollback, then retry; one token is handled at a time. A command
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
		{CommandRollback, dgmv1alpha1.AnnotationRollback, &handled.Rollback, w.Status.Phase == dgmv1alpha1.PhaseCompleted || w.Status.Phase == dgmv1alpha1.PhaseApplying},
		{CommandRetry, dgmv1alpha1.AnnotationRetry, &handled.Retry, w.Status.Phase.IsTerminal()},
	} {
		token := cut(w.Annotations[c.annotation], maxToken)
		if token == "" || token == *c.token {
			continue
		}
		*c.token = token
		if !c.meaningful {
			continue
		}
		reason := cut(strings.TrimSpace(w.Annotations[c.annotation+dgmv1alpha1.AnnotationReasonSuffix]), maxReason)
		return CommandRequest{Command: c.command, Reason: reason}, handled
	}
	return CommandRequest{}, handled
}

// HandleAll are the tokens as they are once every command on the object counts
// as handled: an object that has just been created was not yet commanded.
func HandleAll(w *dgmv1alpha1.ImprovementWorkspace) dgmv1alpha1.HandledCommands {
	return dgmv1alpha1.HandledCommands{
		Rollback: cut(w.Annotations[dgmv1alpha1.AnnotationRollback], maxToken),
		Abort:    cut(w.Annotations[dgmv1alpha1.AnnotationAbort], maxToken),
		Retry:    cut(w.Annotations[dgmv1alpha1.AnnotationRetry], maxToken),
	}
}

// cut shortens s to at most n bytes without breaking a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
