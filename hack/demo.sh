#!/usr/bin/env bash
# Shows improvements from end to end on the local stack (which it starts when needed): a sample service under load, one change
# that is tried in a sandbox and kept for its measured gain, one that is put back for its measured regression, what the database knows, and the way back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
T0=${T0:-$(date +%s%N)}; export T0
. hack/say.sh
LOCAL=${DGM_LOCAL:-$PWD/.local}
better=improvement/checkout-cache-ttl worse=improvement/checkout-fresher-prices

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
finished() { kubectl wait -n shop --for=condition=Finished "$1" --timeout=180s >/dev/null || failed "$1" "did not finish in time"; }
phase() { kubectl get -n shop "$1" -o 'jsonpath={.status.phase}'; }
story() { kubectl get events -n shop --field-selector "involvedObject.name=${1#*/}" --sort-by=.eventTime -o custom-columns=REASON:.reason,MESSAGE:.message | cut -c 1-180; }
failed() { kubectl describe -n shop "$1" >&2; die "$1 $2"; }

# command IMPROVEMENT COMMAND REASON gives a command by annotation and waits until it is taken up.
command() {
  local token; token=$(date +%s%N)
  show kubectl annotate -n shop "$1" --overwrite "dgm.acgs.io/$2=$token" "dgm.acgs.io/$2-reason=$3"
  kubectl wait -n shop "$1" --for="jsonpath={.status.lastHandled.$2}=$token" --timeout=60s >/dev/null || failed "$1" "did not take the command"
}

# begun waits until an improvement has begun. One that is known from an earlier run is made once more: nothing is made twice unless somebody says so.
begun() {
  kubectl wait -n shop "$1" --for='jsonpath={.status.improvementId}' --timeout=60s >/dev/null || failed "$1" "did not begin"
  if [ -n "${earlier:-}" ] || [ "$(kubectl get -n shop "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}')" = Adopted ]; then
    command "$1" retry "make demo again"
  fi
}

# ended waits until an improvement has ended and the database knows.
ended() {
  finished "$1"
  kubectl wait -n shop "$1" --for=condition=DatabaseSynced --timeout=60s >/dev/null
}

heading "A service under load whose answer time depends on its settings, and a Prometheus that watches it"
kubectl apply -f examples/shop/namespace.yaml >/dev/null
for one in $better $worse; do if kubectl get -n shop "$one" >/dev/null 2>&1; then finished "$one"; earlier=yes; fi; done
mkdir -p "$LOCAL/shop"
cat >"$LOCAL/shop/kustomization.yaml" <<E
resources: [$(realpath --relative-to "$LOCAL/shop" examples/shop)]
images: [{name: shop/checkout, newTag: "${image##*:}"}]
E
kubectl apply -k "$LOCAL/shop" >/dev/null
kubectl rollout status -n shop deployment/checkout --timeout=120s >/dev/null
kubectl rollout status -n shop deployment/customers --timeout=120s >/dev/null
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
echo "A product list takes 100 ms to compute and is served from cache for 5 s. Prometheus watches for 15 s."
sleep 15

heading "An improvement that is one: serve it from cache for 60 s. It is tried on a copy first"
show kubectl apply -k config/samples
begun $better
kubectl wait -n shop $better --for='jsonpath={.status.tests}' --timeout=60s >/dev/null || failed $better "was not tested"
sandbox=$(kubectl get -n shop $better -o 'jsonpath={.status.sandbox.namespace}')
show kubectl get pods,networkpolicies -n "$sandbox"
ended $better

heading "Then it is made, measured and kept"
story $better
show kubectl get improvements -n shop
[ "$(phase $better)" = Completed ] || failed $better "did not complete"
[ "$(cache_ttl)" = 60 ] || failed $better "did not set CACHE_TTL"

heading "An improvement that is none: 1 s, for fresher prices. It is measured, and put back by itself"
echo "Prometheus watches for 20 s."
sleep 20
show kubectl apply -f examples/improvements/fresher-prices.yaml
begun $worse
ended $worse
story $worse
show kubectl get improvements -n shop
[ "$(phase $worse)" = RolledBack ] || failed $worse "was not rolled back"
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
[ "$(cache_ttl)" = 60 ] || failed $worse "left CACHE_TTL at $(cache_ttl)"

heading "What the database knows"
query "select name, attempt, status, outcome_reason, performance_before#>>'{metrics,mean-latency,median}' as before_ms, performance_after#>>'{metrics,mean-latency,median}' as after_ms, performance_after->>'gain' as gain, performance_after->>'reward' as reward from dgm.dgm_archive where namespace = 'shop' order by timestamp"
query "select a.name, a.attempt, m.tags->>'side' as side, count(*), round(avg(m.value), 3) as mean_ms from dgm.performance_metrics m join dgm.dgm_archive a using (improvement_id) where a.namespace = 'shop' group by 1, 2, 3 order by 1, 2, 3"
query "select value->>'outcome' as outcome, value->'results' as results, value->>'log' as log from dgm.improvement_workspaces, jsonb_each(test_results->'tests') where namespace = 'shop' and name = '${better#*/}' order by created_at desc limit 1"
query "select improvement_id, description, created_by, rollback_data->>'diff' as change, rollback_data#>>'{snapshot,digest}' as snapshot from dgm.dgm_archive where namespace = 'shop' and name = '${better#*/}' order by timestamp desc limit 1" -x
query "select context_key, arm_id, algorithm_type, total_pulls, safety_threshold, risk_tolerance from dgm.bandit_states where namespace = 'shop' order by arm_id"

heading "And back by command"
command $better rollback "show the way back"
ended $better
show kubectl get improvements -n shop
show kubectl get configmap -n shop checkout-config -o 'jsonpath={.data}{"\n"}'
[ "$(cache_ttl)" = 5 ] || failed $better "did not put CACHE_TTL back to 5"
status=$(psql -XAtq "$(<"$LOCAL/postgres-url")" -c "select status from dgm.dgm_archive where improvement_id = '$(kubectl get -n shop $better -o 'jsonpath={.status.improvementId}')'")
[ "$status" = rolled_back ] || failed $better "is $status in the archive, not rolled_back"
printf '\nThe ConfigMap is as it was. To look around:\n  export KUBECONFIG=%s PATH=%s:$PATH\n  kubectl describe improvements -n shop\n  Prometheus: %s\n' "$KUBECONFIG" "${PATH%%:*}" "$(cat "$LOCAL/prometheus/url" 2>/dev/null || echo none)"
