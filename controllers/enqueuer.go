// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// enqueuer is the part that the controllers of all kinds share: their objects
// are reconciled for events of their own and when somebody else asks for it, and
// what they have written is remembered until the cache shows it.
type enqueuer struct {
	events  chan event.GenericEvent
	written *written
}

// register begins the controller of a kind; Complete ends it.
func (e *enqueuer) register(mgr ctrl.Manager, name string, kind client.Object, workers int) *ctrl.Builder {
	e.events, e.written = make(chan event.GenericEvent, 1024), newWritten()
	return ctrl.NewControllerManagedBy(mgr).
		Named(name).
		For(kind).
		WatchesRawSource(source.Channel(e.events, &handler.EnqueueRequestForObject{})).
		WithOptions(controllerOptions(workers))
}

// Enqueue has an object reconciled, unless ctx ends first: nobody takes events
// while the manager stops.
func (e *enqueuer) Enqueue(ctx context.Context, key types.NamespacedName) {
	object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	select {
	case e.events <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}
