// SPDX-License-Identifier: Apache-2.0

package controllers

import "sync"

// startOnce runs a function until it has succeeded once.
type startOnce struct {
	mu   sync.Mutex
	done bool
}

// Do runs f unless an earlier call of it has succeeded.
func (o *startOnce) Do(f func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	o.done = true
	return nil
}
