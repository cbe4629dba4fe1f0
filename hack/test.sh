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
for module in . hack/image config/monitoring; do
  go -C "$module" test -timeout 30m "$@" ./... || failed+=" $module"
done

DGM_LOCAL=$(mktemp -d)
chmod 711 "$DGM_LOCAL"   # PostgreSQL runs as another user
export DGM_LOCAL
clean_up() { hack/stack.sh down && rm -rf "$DGM_LOCAL"; }
trap clean_up EXIT
trap 'exit 130' INT TERM
hack/stack.sh up
# They wait more than they work.
go test -count=1 -timeout 30m -parallel 12 -tags e2e "$@" ./test/e2e/... || { failed+=" test/e2e"; clean_up() { hack/stack.sh down; echo "its logs: $DGM_LOCAL/logs" >&2; }; }
[ -z "$failed" ] || { echo "tests failed in:$failed" >&2; exit 1; }
echo "all tests passed"
