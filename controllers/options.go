// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Backoff of an object whose reconcile fails. The longest pause is short enough
// for a person who waits for something to come back.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = time.Minute
)

func controllerOptions(workers int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: workers,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](backoffFirst, backoffMost),
	}
}
