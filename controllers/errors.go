// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
	"github.com/acgs/dgm-operator/internal/tenant"
)

// failure is an error that only the user can mend: trying again changes nothing.
type failure struct {
	reason  string
	message string
}

func (f *failure) Error() string { return f.reason + ": " + f.message }

func fail(reason, format string, args ...any) error {
	return &failure{reason: reason, message: fmt.Sprintf(format, args...)}
}

// isFailure reports whether only the user can mend an error.
func isFailure(err error) bool {
	var f *failure
	return errors.As(err, &f)
}

// pause is an error that passes by itself, or once somebody else has acted.
type pause struct {
	reason  string
	message string
	recheck time.Duration
}

func (p *pause) Error() string { return p.reason + ": " + p.message }

// isAnswer reports whether an error says how things are, rather than that
// finding out has failed.
func isAnswer(err error) bool {
	var p *pause
	return isFailure(err) || errors.As(err, &p)
}

// requestOf says what was asked of the API server, for messages.
type requestOf struct {
	verb    string
	object  string
	account string
	// namespace of the object and the account.
	namespace string
	// notOptedIn is what to say when the operator may not act as the account.
	notOptedIn string
}

// classify turns an answer of the API server to a request that was made as a
// tenant's account into a failure or a pause; other errors are returned as they
// are, to be tried again.
func classify(err error, request requestOf) error {
	var notNamespaced *tenant.NotNamespacedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &notNamespaced):
		return fail(dgmv1alpha1.ReasonChangeRefused, "%s: %v", request.object, err)
	case meta.IsNoMatchError(err):
		return fail(dgmv1alpha1.ReasonTargetNotFound, "%s: the API server does not know this kind: correct apiVersion and kind, or install it, then retry", request.object)
	case apierrors.IsNotFound(err):
		return fail(dgmv1alpha1.ReasonTargetNotFound, "%s does not exist in namespace %s: create it or correct the reference, then retry", request.object, request.namespace)
	case isMissingRight(err):
		return &pause{reason: dgmv1alpha1.ReasonForbidden, recheck: recheckRights, message: missingRight(err, request)}
	case apierrors.IsRequestEntityTooLargeError(err):
		return fail(dgmv1alpha1.ReasonTooLarge, "%s: %v", request.object, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsUnsupportedMediaType(err), apierrors.IsMethodNotSupported(err):
		return fail(dgmv1alpha1.ReasonInvalidPatch, "%s: the API server refuses the patch: %s; correct spec.changes", request.object, refusal(err))
	case apierrors.IsForbidden(err):
		return fail(dgmv1alpha1.ReasonChangeRefused, "%s: %v", request.object, err)
	default:
		return err
	}
}

// How much of an answer of the API server is passed on.
const (
	maxRefusal  = 600
	maxBadValue = 64
)

// refusal is what the API server says of an object that it does not take. For
// what it cannot read, it quotes the whole object, values and all: these belong
// neither in status nor in events, and would hide what is wrong.
func refusal(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return cutTo(err.Error(), maxRefusal)
	}
	var causes []string
	for _, cause := range status.Status().Details.Causes {
		causes = append(causes, strings.TrimPrefix(cause.Field+": "+withoutValue(cause.Message), ": "))
	}
	return cutTo(strings.Join(causes, "; "), maxRefusal)
}

// withoutValue takes a long quoted value out of `Invalid value: "…": why`, and
// the lines after the first: they show a difference of whole objects.
func withoutValue(message string) string {
	kind, rest, found := strings.Cut(message, ": ")
	if found {
		if quoted, err := strconv.QuotedPrefix(rest); err == nil && len(quoted) > maxBadValue {
			message = kind + rest[len(quoted):]
		}
	}
	first, _, _ := strings.Cut(message, "\n")
	return first
}

// isMissingRight tells a missing right from a refusal by an admission policy or
// a quota, which answers 403 as well.
func isMissingRight(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ") && strings.Contains(err.Error(), " resource ")
}

func missingRight(err error, request requestOf) string {
	if strings.Contains(err.Error(), " cannot impersonate") {
		return request.notOptedIn
	}
	return fmt.Sprintf("ServiceAccount %s may not %s %s: grant it by a Role in namespace %s with the verbs get and patch on that object; the API server says: %v",
		request.account, request.verb, request.object, request.namespace, err)
}

// classifyPlan does for the errors of package snapshot what classify does for
// those of the API server.
func classifyPlan(err error, object string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, snapshot.ErrTooLarge):
		return fail(dgmv1alpha1.ReasonTooLarge, "%s: %v; change less at a time", object, err)
	default:
		return fail(dgmv1alpha1.ReasonChangeRefused, "%s: %v", object, err)
	}
}
