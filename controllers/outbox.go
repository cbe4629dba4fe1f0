// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
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

// Outbox keeps, in ConfigMaps of the operator's namespace, what did not wait for
// the database while it was away: the last state of objects that went, and the
// samples of rollbacks. Nothing is lost (P3).
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
	labelOutbox      = "dgm.acgs.io/outbox"
	outboxRowKey     = "improvement"
	outboxSamplesKey = "samples.json.gz"
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
	if err := o.put(ctx, "outbox-"+row.ImprovementID.String(), outboxRowKey, encoded); err != nil {
		return fmt.Errorf("keep the last state of %s/%s until the database is back: %w", row.Namespace, row.Name, err)
	}
	return nil
}

// PutSamples keeps samples; the same again are kept once. Those that the API
// server refuses are lost, and logged: what is put back does not wait for them.
func (o *Outbox) PutSamples(ctx context.Context, all []sampleSeries) error {
	for _, series := range all {
		encoded, err := encodeSamples(series)
		if err != nil {
			return fmt.Errorf("encode the samples of %s: %w", series.Metric, err)
		}
		err = o.put(ctx, fmt.Sprintf("outbox-%s-%x", series.ImprovementID, sha256.Sum256(encoded))[:maxOutboxName], outboxSamplesKey, encoded)
		if refusedForGood(err) {
			log.FromContext(ctx).Error(err, "Samples are lost: the database is away, and they cannot be kept until it is back", "metric", series.Metric, "lost", len(series.Samples))
			continue
		}
		if err != nil {
			return fmt.Errorf("keep the samples of %s until the database is back: %w", series.Metric, err)
		}
	}
	return nil
}

// maxOutboxName cuts the digest in the name of what is kept.
const maxOutboxName = len("outbox-") + 36 + 1 + 32

// refusedForGood tells a refusal from an API server that is away or busy.
func refusedForGood(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && !apierrors.IsTooManyRequests(err)
}

func encodeSamples(series sampleSeries) ([]byte, error) {
	var encoded bytes.Buffer
	compressed := gzip.NewWriter(&encoded)
	err := errors.Join(json.NewEncoder(compressed).Encode(series), compressed.Close())
	return encoded.Bytes(), err
}

func decodeSamples(encoded []byte) (sampleSeries, error) {
	var series sampleSeries
	compressed, err := gzip.NewReader(bytes.NewReader(encoded))
	if err == nil {
		err = json.NewDecoder(compressed).Decode(&series)
	}
	return series, err
}

func (o *Outbox) put(ctx context.Context, name, key string, content []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.empty = false
	err := o.Client.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name, Labels: map[string]string{labelOutbox: "improvement"}},
		BinaryData: map[string][]byte{key: content},
	})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
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

// flushOne does not let one that is damaged, or refused, hold up the others.
func (o *Outbox) flushOne(ctx context.Context, store *pgstore.Store, kept *corev1.ConfigMap) error {
	var err error
	if samples, found := kept.BinaryData[outboxSamplesKey]; found {
		err = flushSamples(ctx, store, samples)
	} else {
		err = flushRow(ctx, store, kept.BinaryData[outboxRowKey])
	}
	var refused *pgstore.RowError
	var rejected pgstore.RejectedSamples
	switch {
	case errors.Is(err, errDamaged):
		log.FromContext(ctx).Error(err, "A ConfigMap labelled as kept for the database holds nothing of it: delete it by hand", "configMap", kept.Name)
		return nil
	case errors.As(err, &refused), errors.As(err, &rejected):
		log.FromContext(ctx).Error(err, "What was kept while the database was away is lost: the database refuses it", "configMap", kept.Name)
	case err != nil:
		return err
	}
	return client.IgnoreNotFound(o.Client.Delete(ctx, kept))
}

var errDamaged = errors.New("it cannot be read")

func flushRow(ctx context.Context, store *pgstore.Store, encoded []byte) error {
	var row pgstore.Improvement
	if err := json.Unmarshal(encoded, &row); err != nil {
		return errors.Join(errDamaged, err)
	}
	return store.MirrorImprovement(ctx, row)
}

func flushSamples(ctx context.Context, store *pgstore.Store, encoded []byte) error {
	series, err := decodeSamples(encoded)
	if err != nil {
		return errors.Join(errDamaged, err)
	}
	return store.RecordMetrics(ctx, series.rows())
}
