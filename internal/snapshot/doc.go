// Package snapshot computes what a change does to an object, stores it, and puts it back.
//
// A plan is made of the object before the change and of the server's dry-run answer to it. It names every touched
// path with its value before and after; list items are named by their merge key, so that a path stays right while
// others add or remove items. Which lists have merge keys is learnt from metadata.managedFields, which the API
// server fills in for built-in kinds and custom resources alike; a list that it says nothing about is one value.
//
// Restoring looks at each path of the live object: the value after is replaced by the value before, the value
// before is left, and anything else belongs to somebody else and is left alone and reported.
//
// The package is pure: it reads and returns data and never talks to a server.
package snapshot
