// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// categories is how many product lists there are, each cached for itself.
const categories = 8

// backendTime is what the backend takes to answer, beside the work of ranking.
const backendTime = 100 * time.Millisecond

// Product is one line of a product list.
type Product struct {
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

// catalog serves product lists, computing one only when the cached one is older than the caller accepts.
type catalog struct {
	backend func(category int) []Product
	entries [categories]entry
}

type entry struct {
	mu       sync.Mutex // held while computing: simultaneous misses compute once
	products []Product
	computed time.Time
}

func newCatalog(backend func(category int) []Product) *catalog { return &catalog{backend: backend} }

// products returns the list of a category, at most ttl old, and whether it came from the cache. The age is judged when it is
// read, so that a changed ttl counts at once.
func (c *catalog) products(category int, ttl time.Duration) (products []Product, hit bool) {
	e := &c.entries[category]
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.products != nil && time.Since(e.computed) < ttl {
		return e.products, true
	}
	e.products = c.backend(category)
	e.computed = time.Now()
	return e.products, false
}

// slowBackend waits as for a database and ranks its products.
func slowBackend(category int) []Product {
	time.Sleep(backendTime)
	products := make([]Product, 2000)
	for i := range products {
		demand := math.Abs(math.Sin(float64(category*len(products) + i)))
		products[i] = Product{Name: fmt.Sprintf("product %d-%04d", category, i), Cents: 100 + int(9900*demand)}
	}
	slices.SortFunc(products, func(a, b Product) int { return a.Cents - b.Cents })
	return products[:20]
}
