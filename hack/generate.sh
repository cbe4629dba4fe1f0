#!/usr/bin/env bash
# Writes everything that is derived from other sources: deep copies, CRDs, the manager's ClusterRole and the typed queries.
# A generator runs only when its inputs are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tool() { go tool -modfile=hack/tools/go.mod "$@"; }

# has_go DIR tells whether a package below DIR has Go files.
has_go() { [[ -d $1 ]] && [[ -n $(find "$1" -name '*.go' -print -quit) ]]; }

generate_api() {
  has_go api || return 0
  tool controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...
  crds=$(mktemp -d)
  trap 'rm -rf "$crds"' EXIT
  tool controller-gen crd:generateEmbeddedObjectMeta=false paths=./api/... "output:crd:artifacts:config=$crds"
  mkdir -p config/crd/bases
  rm -f config/crd/bases/*.yaml # the file of a kind that is no more
  mv "$crds"/*.yaml config/crd/bases/
}

generate_rbac() {
  local paths=() dir
  for dir in controllers internal; do
    if has_go "$dir"; then paths+=("paths=./$dir/..."); fi
  done
  (( ${#paths[@]} )) || return 0
  tool controller-gen rbac:roleName=dgm-operator-manager "${paths[@]}" output:rbac:artifacts:config=config/rbac
}

generate_queries() {
  [[ -f internal/pgstore/sqlc.yaml ]] || return 0
  (cd internal/pgstore && go tool -modfile=../../hack/tools/go.mod sqlc generate)
}

generate_api
generate_rbac
generate_queries
