#!/usr/bin/env bash
# Every test on real parts: unit, store (PostgreSQL), API server, then end to end on a one-node cluster of its own.
#
#   test.sh [GO TEST FLAGS]   e.g. test.sh -run TestP1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
hack/deps.sh
KUBEBUILDER_ASSETS=$(hack/onenode/build.sh)
export KUBEBUILDER_ASSETS

failed=""
for module in . hack/image; do
  go -C "$module" test -timeout 30m "$@" ./... || failed+=" $module"
done
go test -count=1 -timeout 30m -tags e2e "$@" ./test/e2e/... || failed+=" test/e2e"
[ -z "$failed" ] || { echo "tests failed in:$failed" >&2; exit 1; }
echo "all tests passed"
