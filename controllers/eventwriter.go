// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const (
	reportingController = "dgm-operator"
	// eventTimeout bounds the writing of an event: nothing hangs on one.
	eventTimeout = 5 * time.Second
	// maxEventSubject is what of an improvement's name begins the name of an event.
	maxEventSubject = 200
)

// EventWriter writes the events of improvements. Unlike the usual recorder it has
// written one when it returns, under a name that follows from what it says: what
// is told again after a crash is told once.
type EventWriter struct {
	// Client creates the events.
	Client client.Client
	// Instance is this replica's name.
	Instance string
	// Clock tells the time.
	Clock clock.PassiveClock
}

// Write writes an event about an improvement. One that cannot be written is
// logged: an improvement does not wait for it.
func (e *EventWriter) Write(ctx context.Context, w *dgmv1alpha1.ImprovementWorkspace, kind, reason, action, message string) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	message = cutMessage(message)
	said := sha256.Sum256([]byte(strings.Join([]string{string(w.UID), w.Status.ImprovementID, kind, reason, action, message}, "\x00")))
	subject := strings.TrimRight(w.Name[:min(len(w.Name), maxEventSubject)], "-.")
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: fmt.Sprintf("%s.%x", subject, said[:16])},
		EventTime:  metav1.MicroTime{Time: e.Clock.Now()}, ReportingController: reportingController, ReportingInstance: e.Instance,
		Type: kind, Reason: reason, Action: action, Note: message,
		Regarding: corev1.ObjectReference{
			APIVersion: dgmv1alpha1.GroupVersion.String(), Kind: "ImprovementWorkspace",
			Namespace: w.Namespace, Name: w.Name, UID: w.UID, ResourceVersion: w.ResourceVersion,
		},
	}
	err := e.Client.Create(ctx, event)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		log.FromContext(ctx).Error(err, "An event is lost", "reason", reason)
	}
}
