// SPDX-License-Identifier: Apache-2.0

// Package compatv5 is what the operator of schema version 5 sends, as it was
// generated then. A test runs it against the newest schema: a replica of that
// release goes on working while one of a newer release has migrated beside it.
// It is never regenerated, and goes when version 5 need not be suited any more.
package compatv5
