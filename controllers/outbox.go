// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// Outbox keeps, in ConfigMaps of the operator's namespace, the last state of
// objects that went while the database was away: deleting does not wait for it
// for ever, and nothing is lost (P3).
type Outbox struct {
	// Client writes the ConfigMaps.
	Client client.Client
	// Live lists them past the cache.
	Live client.Reader
	// Namespace is the operator's own.
	Namespace string

	mu    sync.Mutex
	empty bool // known to be
}

const (
	labelOutbox  = "dgm.acgs.io/outbox"
	outboxRowKey = "improvement"
)

// +kubebuilder:rbac:groups="",namespace=dgm-system,resources=configmaps,verbs=create;list;delete

// maxKept is what of a row surely goes into a ConfigMap, which holds 1 MiB.
const maxKept = 512 << 10

// encodeKept is a row as it is kept. One that is too large is kept without what
// was to change: the database has that since before anything was changed, and a
// row that does not bring it leaves it.
func encodeKept(row pgstore.Improvement) ([]byte, error) {
	encoded, err := json.Marshal(row)
	if err != nil || len(encoded) <= maxKept {
		return encoded, err
	}
	row.AlgorithmChanges, row.Configuration = nil, nil
	return json.Marshal(row)
}

// Put keeps a row; the same improvement again is kept once.
func (o *Outbox) Put(ctx context.Context, row pgstore.Improvement) error {
	encoded, err := encodeKept(row)
	if err != nil {
		return fmt.Errorf("encode the last state of %s/%s: %w", row.Namespace, row.Name, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.empty = false
	err = o.Client.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: "outbox-" + row.ImprovementID.String(),
			Labels: map[string]string{labelOutbox: "improvement"},
		},
		BinaryData: map[string][]byte{outboxRowKey: encoded},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("keep the last state of %s/%s until the database is back: %w", row.Namespace, row.Name, err)
	}
	return nil
}

// Drain flushes what may be kept. What is written or read of an object that bears
// the name of one that is gone must come after the last state of that one.
func (o *Outbox) Drain(ctx context.Context, store *pgstore.Store) error {
	if err := store.Ready(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.empty {
		return nil
	}
	return o.flush(ctx, store)
}

// Flush writes what was kept into the database, and forgets it.
func (o *Outbox) Flush(ctx context.Context, store *pgstore.Store) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.flush(ctx, store)
}

func (o *Outbox) flush(ctx context.Context, store *pgstore.Store) error {
	var kept corev1.ConfigMapList
	if err := o.Live.List(ctx, &kept, client.InNamespace(o.Namespace), client.HasLabels{labelOutbox}); err != nil {
		return fmt.Errorf("list what was kept while the database was away: %w", err)
	}
	for i := range kept.Items {
		if err := o.flushOne(ctx, store, &kept.Items[i]); err != nil {
			return err
		}
	}
	o.empty = true
	return nil
}

func (o *Outbox) flushOne(ctx context.Context, store *pgstore.Store, kept *corev1.ConfigMap) error {
	var row pgstore.Improvement
	if err := json.Unmarshal(kept.BinaryData[outboxRowKey], &row); err != nil {
		log.FromContext(ctx).Error(err, "A ConfigMap labelled as the last state of an improvement holds none: delete it by hand", "configMap", kept.Name)
		return nil // it must not hold up the others
	}
	err := store.MirrorImprovement(ctx, row)
	var refused *pgstore.RowError
	if errors.As(err, &refused) {
		log.FromContext(ctx).Error(err, "The last state of a deleted improvement is lost", "namespace", row.Namespace, "name", row.Name, "state", row.ArchiveStatus)
	} else if err != nil {
		return err
	}
	return client.IgnoreNotFound(o.Client.Delete(ctx, kept))
}
