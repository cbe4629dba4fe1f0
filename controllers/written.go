// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// written remembers the resourceVersion of the last own write of each object
// until the cache has caught up with it: acting on an older state would repeat
// a step, or mirror an older state over a newer one (P4).
type written struct {
	mu       sync.Mutex
	versions map[types.NamespacedName]string
}

func newWritten() *written { return &written{versions: map[types.NamespacedName]string{}} }

// Record notes the version that a write returned.
func (w *written) Record(object client.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[client.ObjectKeyFromObject(object)] = object.GetResourceVersion()
}

// Behind reports whether the cached object is older than the last own write.
func (w *written) Behind(cached client.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	own, ok := w.versions[client.ObjectKeyFromObject(cached)]
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(cached.GetResourceVersion(), own)
	if err == nil && order < 0 {
		return true
	}
	delete(w.versions, client.ObjectKeyFromObject(cached))
	return false
}

// Forget drops what is remembered of an object that is gone.
func (w *written) Forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, key)
}
