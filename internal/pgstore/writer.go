// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// A transaction is repeated for this long; then its callers are told, and
	// come back on their own.
	retryFor     = 3 * time.Second
	retryFirst   = 20 * time.Millisecond
	retrySlowest = 500 * time.Millisecond
	// transactionTimeout ends a transaction over a connection that hangs.
	transactionTimeout = 40 * time.Second
)

// writeLoop is the one writer: what arrives within the batch delay, or while
// the previous transaction was under way, goes into one transaction.
func (s *session) writeLoop(ctx context.Context) error {
	var next *request
	for {
		var b *batch
		var err error
		b, next, err = s.collect(ctx, next)
		if err != nil {
			return err
		}
		if err := s.write(ctx, b.requests); err != nil {
			return err
		}
	}
}

// collect waits for a request and gathers others with it. left is one that must
// wait for the transaction after.
func (s *session) collect(ctx context.Context, first *request) (b *batch, left *request, err error) {
	if first == nil {
		select {
		case first = <-s.queue:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	b = newBatch()
	b.add(first)
	delay := time.NewTimer(s.store.config.BatchDelay)
	defer delay.Stop()
	for len(b.requests) < s.store.config.BatchSize {
		select {
		case r := <-s.queue:
			if !b.add(r) {
				return b, r, nil
			}
		case <-delay.C:
			return b, nil, nil
		}
	}
	return b, nil, nil
}

// write commits requests and answers their callers. It returns an error when the
// session cannot go on; its end answers them then.
func (s *session) write(ctx context.Context, requests []*request) error {
	deadline := time.Now().Add(retryFor)
	for wait := retryFirst; ; wait = min(2*wait, retrySlowest) {
		err := s.tryWrite(ctx, requests)
		if err == nil {
			s.contended.Store(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		kind := classify(err)
		late := time.Now().Add(wait).After(deadline)
		switch {
		case isVerdict(err), kind == failureSchema, kind == failureOther, kind == failureRow:
			return err
		case late && kind == failureContention:
			s.giveUp(requests, err)
			return nil
		case late:
			return err
		case kind == failureConnection:
			s.pool.Reset()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// giveUp answers callers after somebody else's locks were in the way for long.
func (s *session) giveUp(requests []*request, err error) {
	failed := unavailable(reason(err))
	s.contended.Store(&failed)
	for _, r := range requests {
		r.answer(failed)
	}
}

// tryWrite compares what needs comparing, writes what differs, and answers.
func (s *session) tryWrite(ctx context.Context, requests []*request) error {
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	var compare, write []*request
	for _, r := range requests {
		r.err = nil
		if r.changed {
			write = append(write, r)
		} else {
			compare = append(compare, r)
		}
	}
	if len(compare) > 0 {
		changed, err := s.compare(ctx, compare)
		if err != nil {
			return err
		}
		write = append(write, changed...)
	}
	if len(write) > 0 {
		if err := s.commit(ctx, write); err != nil {
			return err
		}
		s.announce(write)
	}
	for _, r := range requests {
		s.finish(r)
	}
	return nil
}

// finish notes what the database holds now and answers the callers.
func (s *session) finish(r *request) {
	if r.err == nil && !r.tombstone {
		s.store.digests.set(r.kind, r.object.UID, r.digest)
	}
	r.answer(r.err)
}

// failure is what callers are told when a session ends.
func (s *Store) failure(cause error) error {
	switch {
	case errors.Is(cause, ErrDeposed):
		return ErrDeposed
	case errors.Is(cause, context.Canceled):
		return unavailable("this replica stops leading")
	}
	return fmt.Errorf("%w: %s", ErrUnavailable, reason(cause))
}
