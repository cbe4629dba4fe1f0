#!/usr/bin/env bash
# Checks everything that can be checked without running the product; `make test` does the rest.
# Every step runs, each on one line with its seconds; the steps that failed are named at the end. VERIFY="step …" picks some.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD
readonly max_output_lines=150 # of a step that fails
readonly max_crd_bytes=$((256 * 1024)) # client-side apply keeps the object in an annotation, and annotations end there

tool() { go tool -modfile="$root/hack/tools/go.mod" "$@"; }

# files PATTERN… lists the files that are, or could be, committed.
files() { git ls-files -z -co --exclude-standard -- "$@" | while IFS= read -rd '' f; do [[ -f $f ]] && printf '%s\n' "$f"; done; }

# in_modules COMMAND… runs the command in every Go module and fails when one failed.
in_modules() {
  local mod failed=0
  while read -r mod; do
    (cd "$(dirname "$mod")" && "$@") || { echo "in $(dirname "$mod"): $*"; failed=1; }
  done < <(files go.mod '*/go.mod')
  return $failed
}

step_format() {
  local unformatted
  unformatted=$(files '*.go' | xargs gofmt -l) || return
  [[ -z $unformatted ]] || { echo "$unformatted"; return 1; }
}

step_modules() { in_modules go mod tidy -diff && in_modules go mod verify; }

step_vet() { in_modules go vet ./...; }

# fingerprint prints a digest of each file of the tree.
fingerprint() { files | tr '\n' '\0' | xargs -0 sha256sum; }

step_generated() {
  local before after
  before=$(fingerprint)
  hack/generate.sh || return
  after=$(fingerprint)
  diff <(echo "$before") <(echo "$after") | sed -n 's/^[<>] [0-9a-f]*  \(.*\)/differs: \1/p' | sort -u
  [[ $before == "$after" ]]
}

step_lint() {
  local linter
  linter=$(go -C hack/tools tool -n golangci-lint) || return
  "$linter" config verify && in_modules lint_module "$linter"
}

# lint_module LINTER lints the module in the current directory. hack/onenode and hack/tools are a few lines over all of
# Kubernetes and golangci-lint, which the linters that need types would look through as well.
lint_module() {
  local depth=()
  [[ $PWD != "$root"/hack/@(onenode|tools) ]] || depth=(--fast-only)
  "$1" run "${depth[@]}" --config="$root/.golangci.yaml" ./...
}

step_manifests() {
  local kustomization failed=0
  while read -r kustomization; do
    grep -q '^kind: Component' "$kustomization" && continue
    tool kustomize build "$(dirname "$kustomization")" >/dev/null || { echo "in $kustomization"; failed=1; }
  done < <(files 'config/**kustomization.yaml' 'examples/**kustomization.yaml')
  return $failed
}

step_crds() {
  local crd bytes failed=0
  while read -r crd; do
    bytes=$(wc -c <"$crd")
    (( bytes < max_crd_bytes )) || { echo "$crd: $bytes bytes, at most $max_crd_bytes"; failed=1; }
  done < <(files 'config/crd/bases/*.yaml')
  return $failed
}

step_scripts() {
  local script failed=0
  while read -r script; do
    bash -n "$script" || failed=1
    ! command -v shellcheck >/dev/null || shellcheck --severity=warning "$script" || failed=1
  done < <(files | tr '\n' '\0' | xargs -0 grep -lE '^#!.*(bash|/sh)')
  return $failed
}

step_docs() { go test -count=1 ./docs/; }

declare -A mend=(
  [format]="gofmt -w ."
  [modules]="go mod tidy, in the module that is named"
  [vet]="see above"
  [generated]="make generate, and commit what it wrote"
  [lint]="see above; \$(go -C hack/tools tool -n golangci-lint) run --fix mends some"
  [manifests]="see above"
  [crds]="shorten it: make nested templates schemaless, as docs of the kind say"
  [scripts]="see above"
  [docs]="see above"
)

failed=()
for step in ${VERIFY:-format modules generated vet lint manifests crds scripts docs}; do
  start=$SECONDS
  if output=$("step_$step" 2>&1); then
    printf 'ok    %-10s %4ds\n' "$step" $((SECONDS - start))
  else
    printf 'FAIL  %-10s %4ds\n' "$step" $((SECONDS - start))
    printf '%s\n' "$output" | grep -v '^go: downloading' | sed -e 's/^/      /' -e "$max_output_lines{a\      …" -e 'q}'
    failed+=("$step")
  fi
done
(( ${#failed[@]} )) || exit 0
echo
echo "verify failed:"
for step in "${failed[@]}"; do echo "  $step: ${mend[$step]}"; done
exit 1
