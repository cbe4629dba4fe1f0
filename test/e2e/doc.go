// SPDX-License-Identifier: Apache-2.0

// Package e2e proves the promises on the installed product: a real one-node cluster, the operator in it from its own image
// and config/default with its real rights, a real PostgreSQL.
//
// `make test` starts a stack for it. To run it on one that is there:
//
//	DGM_LOCAL=$PWD/.local go test -count=1 -tags e2e ./test/e2e
package e2e
