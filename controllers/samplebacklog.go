// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

const (
	// maxBacklog bounds the samples that wait for the database.
	maxBacklog = 1 << 19
	// backlogRetry is the pause between two attempts.
	backlogRetry = 5 * time.Second
)

// SampleBacklog keeps, in memory, the samples of rollbacks that did not wait for
// the database (P10), until it takes them.
type SampleBacklog struct {
	Store *pgstore.Store
	Log   logr.Logger

	mu      sync.Mutex
	waiting []pgstore.Sample
}

// Add keeps samples; beyond what there is room for, the newest are left out.
func (b *SampleBacklog) Add(samples []pgstore.Sample) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := min(len(samples), maxBacklog-len(b.waiting))
	if room < len(samples) {
		b.Log.Info("Samples are lost: as many wait for the database as there is room for", "lost", len(samples)-room)
	}
	b.waiting = append(b.waiting, samples[:room]...)
}

// NeedLeaderElection reports that the leader alone writes.
func (b *SampleBacklog) NeedLeaderElection() bool { return true }

// Start records what waits until ctx ends.
func (b *SampleBacklog) Start(ctx context.Context) error {
	ticker := time.NewTicker(backlogRetry)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			b.drain(ctx)
		}
	}
}

func (b *SampleBacklog) drain(ctx context.Context) {
	b.mu.Lock()
	waiting := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	err := b.Store.RecordMetrics(ctx, waiting)
	var rejected pgstore.RejectedSamples
	switch {
	case errors.As(err, &rejected):
		b.Log.Error(err, "Samples were left out")
	case err != nil:
		b.mu.Lock()
		b.waiting = append(waiting, b.waiting...)
		b.mu.Unlock()
	}
}
