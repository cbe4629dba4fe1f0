// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
)

// digest identifies the rows of an object.
type digest [16]byte

// digestOf is stable: field order is that of the struct, and documents are
// compacted.
func digestOf(rows any) (digest, error) {
	encoded, err := json.Marshal(rows)
	if err != nil {
		return digest{}, err
	}
	sum := sha256.Sum256(encoded)
	return digest(sum[:16]), nil
}

type objectKey struct {
	kind Kind
	uid  string
}

// digests remembers what was committed last for each object, so that mirroring
// what has not changed costs no query.
type digests struct {
	mu    sync.Mutex
	known map[objectKey]digest
}

func newDigests() *digests { return &digests{known: map[objectKey]digest{}} }

func (d *digests) get(kind Kind, uid string) (digest, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	value, found := d.known[objectKey{kind, uid}]
	return value, found
}

func (d *digests) set(kind Kind, uid string, value digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[objectKey{kind, uid}] = value
}

func (d *digests) forget(kind Kind, uid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, objectKey{kind, uid})
}

func (d *digests) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = map[objectKey]digest{}
}
