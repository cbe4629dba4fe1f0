#!/usr/bin/env bash
# Shows an improvement from end to end on the local stack (which it starts when needed): a sample service, a change of its
# settings, what became faster, what the database knows, and the way back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
T0=${T0:-$(date +%s%N)}; export T0
. hack/say.sh
LOCAL=${DGM_LOCAL:-$PWD/.local}
improvement=improvement/checkout-cache-ttl

hack/stack.sh up
image=$(hack/stack.sh load ./examples/checkout shop/checkout:1)
[ "$(cat "$LOCAL/kind")" = current ] || PATH=$(hack/onenode/build.sh):$PATH
PATH=$PATH:$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
export KUBECONFIG=$LOCAL/kubeconfig

heading() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
# show prints a command as one would type it, and runs it.
show() {
  local word line='$'
  for word; do [[ $word =~ [^a-zA-Z0-9_./=:,-] ]] && line+=" '$word'" || line+=" $word"; done
  echo "$line"
  "$@"
}
query() { # SQL [PSQL OPTION]
  printf '\n$ psql "$(cat .local/postgres-url)" -c "%s"\n' "$1"
  psql -X "$(<"$LOCAL/postgres-url")" -c "$1" "${@:2}"
}
cache_ttl() { kubectl get configmap -n shop checkout-config -o 'jsonpath={.data.CACHE_TTL}'; }
load() { kubectl exec -n shop deployment/checkout -- /checkout load -url http://checkout/products -rate 20 -duration "$1"; }
in_service() { kubectl get --raw "/api/v1/namespaces/shop/services/checkout:http/proxy/$1"; }
finished() { kubectl wait -n shop --for=condition=Finished $improvement --timeout=120s >/dev/null || failed "did not finish in time"; }
failed() { kubectl describe -n shop $improvement >&2; die "the improvement $1"; }

# order COMMAND REASON gives a command by annotation and waits until it is done.
order() {
  local token; token=$(date +%s%N)
  show kubectl annotate -n shop $improvement --overwrite "dgm.acgs.io/$1=$token" "dgm.acgs.io/$1-reason=$2"
  kubectl wait -n shop $improvement --for="jsonpath={.status.lastHandled.$1}=$token" --timeout=60s >/dev/null || failed "did not take the command"
  finished
}

# measure waits until the running service follows the ConfigMap, then sends it real requests from inside the cluster.
measure() {
  local want tries; want=$(cache_ttl)
  for ((tries = 0; tries < 120; tries++)); do
    [ "$(in_service settings 2>/dev/null)" != "{\"cacheTTLSeconds\":$want}" ] || break
    sleep .5
  done
  echo "the running service says: $(in_service settings)"
  # the first list of each category is computed in any case
  load 1s >/dev/null
  load 12s
}

heading "A service whose answer time depends on its settings (namespace shop)"
kubectl apply -f examples/shop/namespace.yaml >/dev/null
if kubectl get -n shop $improvement >/dev/null 2>&1; then finished; fi   # of an earlier run that was interrupted
mkdir -p "$LOCAL/shop"
cat >"$LOCAL/shop/kustomization.yaml" <<E
resources: [$(realpath --relative-to "$LOCAL/shop" examples/shop)]
images: [{name: shop/checkout, newTag: "${image##*:}"}]
E
kubectl apply -k "$LOCAL/shop" >/dev/null
kubectl rollout status -n shop deployment/checkout --timeout=120s >/dev/null
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
before=$(measure); echo "$before"

heading "An improvement and a policy"
show kubectl apply -k config/samples
finished
if [ "$(cache_ttl)" = 5 ]; then
  # The archive knows this very improvement from an earlier run: it is not made again unless somebody says so.
  order retry "make demo again"
fi
kubectl wait -n shop $improvement --for=condition=DatabaseSynced --timeout=60s >/dev/null
kubectl wait -n shop banditpolicy/checkout-tuning --for=condition=DatabaseSynced --timeout=60s >/dev/null
[ "$(kubectl get -n shop $improvement -o 'jsonpath={.status.phase}')" = Completed ] || failed "did not complete"
show kubectl get improvements -A
show kubectl get banditpolicies -A

heading "What changed in the cluster"
kubectl get -n shop $improvement -o 'jsonpath={.status.diff}{"\n"}'
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
after=$(measure)
printf 'before: %s\nafter:  %s\n' "${before##*$'\n'}" "${after##*$'\n'}"

heading "What the database knows"
query "select name, attempt, w.status, a.status as archive, target_service, outcome_reason from dgm.improvement_workspaces w join dgm.dgm_archive a using (improvement_id, name, namespace) where namespace = 'shop' order by attempt"
query "select improvement_id, description, created_by, rollback_data->>'diff' as change, rollback_data#>>'{snapshot,digest}' as snapshot from dgm.dgm_archive where namespace = 'shop' order by timestamp desc limit 1" -x
query "select context_key, arm_id, algorithm_type, total_pulls, safety_threshold, risk_tolerance from dgm.bandit_states where namespace = 'shop' order by arm_id"

heading "And back"
order rollback "show the way back"
kubectl wait -n shop $improvement --for=condition=DatabaseSynced --timeout=60s >/dev/null
show kubectl get improvements -A
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
[ "$(cache_ttl)" = 5 ] || failed "did not put CACHE_TTL back to 5"
query "select name, attempt, status, outcome_reason from dgm.dgm_archive where namespace = 'shop' order by timestamp"
status=$(psql -XAtq "$(<"$LOCAL/postgres-url")" -c "select status from dgm.dgm_archive where improvement_id = '$(kubectl get -n shop $improvement -o 'jsonpath={.status.improvementId}')'")
[ "$status" = rolled_back ] || failed "is $status in the archive, not rolled_back"
printf '\nThe ConfigMap is as it was. To look around:\n  export KUBECONFIG=%s PATH=%s:$PATH\n' "$KUBECONFIG" "${PATH%%:*}"
