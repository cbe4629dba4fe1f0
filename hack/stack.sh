#!/usr/bin/env bash
# The local stack: a one-node Kubernetes, a PostgreSQL, a Prometheus and the operator in the cluster, as a user would install it.
#
#   stack.sh up       starts what does not run yet and deploys the operator when it has changed
#   stack.sh load PACKAGE NAME:TAG   builds an image and brings it onto the node; prints its reference
#   stack.sh run      runs the operator here instead of in the cluster
#   stack.sh status   says what runs
#   stack.sh down     ends and discards cluster and database; the logs stay
#
# CLUSTER=current   takes the cluster of the current KUBECONFIG instead of starting a node
# IMG=NAME:TAG      with it: the operator's image, where the nodes can pull it
# DB_ADDRESS        with it: this machine's address as pods reach it
# DGM_LOCAL         where all its state is (default .local in the clone): kubeconfig, postgres-url, logs/
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
T0=${T0:-$(date +%s%N)}; export T0
. hack/say.sh
LOCAL=${DGM_LOCAL:-$ROOT/.local}
mkdir -p "$LOCAL/logs"
LOCAL=$(cd "$LOCAL" && pwd)
export ONENODE_DIR=$LOCAL/cluster ONENODE_LOGS=$LOCAL/logs/node
export POSTGRES_DIR=$LOCAL/postgres POSTGRES_LOG=$LOCAL/logs/postgres.log
export PROMETHEUS_DIR=$LOCAL/prometheus PROMETHEUS_LOG=$LOCAL/logs/prometheus.log
system=dgm-system deployment=deployment/dgm-operator

# The kind of cluster stays what `up` was asked for.
kind=${CLUSTER:-$(cat "$LOCAL/kind" 2>/dev/null || echo onenode)}
case $kind in onenode | current) ;; *) die "CLUSTER is $kind; want onenode or current" ;; esac

use_kubectl() {
  if [ "$kind" = onenode ]; then BIN=$(hack/onenode/build.sh); PATH=$BIN:$PATH; fi
  export KUBECONFIG=$LOCAL/kubeconfig
}
cluster_uid() { kubectl get namespace kube-system -o 'jsonpath={.metadata.uid}'; }

start_cluster() {
  if [ "$kind" = onenode ]; then
    hack/deps.sh
    use_kubectl
    hack/onenode/onenode.sh up
    cp "$ONENODE_DIR/kubeconfig" "$LOCAL/kubeconfig"
    address=$(. "$ONENODE_DIR/env"; echo "$HOST_IP")
  else
    hack/deps.sh database
    command -v kubectl >/dev/null || die "kubectl is missing: https://kubernetes.io/docs/tasks/tools"
    (umask 077; kubectl config view --raw --minify --flatten >"$LOCAL/kubeconfig.new")
    mv "$LOCAL/kubeconfig.new" "$LOCAL/kubeconfig"
    use_kubectl
    local node_ip
    node_ip=$(kubectl get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}' | cut -d' ' -f1)
    address=${DB_ADDRESS:-$(ip route get "$node_ip" | grep -oP 'src \K\S+')}
    say "using cluster $(kubectl config current-context): no node is started, and its pods must reach PostgreSQL here at $address (DB_ADDRESS)"
  fi
  echo "$kind" >"$LOCAL/kind"
}

# start_database: rows belong to one cluster; a new cluster begins with a new database.
start_database() {
  local uid; uid=$(cluster_uid)
  [ "$(cat "$POSTGRES_DIR/cluster" 2>/dev/null)" = "$uid" ] || hack/postgres.sh down
  hack/postgres.sh up "${address:-}"
  echo "$uid" >"$POSTGRES_DIR/cluster"
  (umask 077; cp "$POSTGRES_DIR/url" "$LOCAL/postgres-url")
}

# database_url ROLE as pods have it: they see the Secret's directory.
database_url() { hack/postgres.sh url "$1" "$address" /etc/dgm/database/ca.crt; }

# start_prometheus: of a cluster that is there it is not known whether its pods can be scraped from here; it has one of its own.
start_prometheus() {
  [ "$kind" = onenode ] || return 0
  hack/prometheus.sh up "$address"
  echo "sources: {default: {url: \"$(<"$PROMETHEUS_DIR/url")\"}}" >"$LOCAL/metric-sources.yaml"
  kubectl create configmap dgm-metric-sources -n $system --dry-run=client -o yaml \
    --from-file=sources.yaml="$LOCAL/metric-sources.yaml" | kubectl apply -f - >/dev/null
}

# load_image PACKAGE NAME:TAG builds an image, brings it onto the node unless it is there and sets $image to its reference.
load_image() {
  local archive=$LOCAL/images/${2##*/} context loaded
  archive=${archive%:*}.tar
  image=$(hack/image.sh "$1" "$2" "$LOCAL/images")
  loaded=$(cluster_uid)-$image
  ! grep -qsxF "$loaded" "$LOCAL/loaded" || return 0
  if [ "$kind" = onenode ]; then
    hack/onenode/onenode.sh load "$archive"
  else
    context=$(kubectl config current-context)
    case $context in
    kind-*) kind load image-archive "$archive" --name "${context#kind-}" ;;
    k3d-*) k3d image import "$archive" -c "${context#k3d-}" ;;
    *) die "push $archive to where the nodes of $context can pull it, and name it: IMG=registry/name:tag (for the operator)" ;;
    esac >&2
  fi
  echo "$loaded" >>"$LOCAL/loaded"
  say "image $image loaded"
}

deploy() {
  local name tag secret
  image=${IMG:-$(cat "$LOCAL/image" 2>/dev/null || true)}
  if [ "$kind" = current ] && [ -n "$image" ]; then echo "$image" >"$LOCAL/image"; else load_image ./cmd/manager dgm-operator:dev; fi
  name=${image%:*} tag=${image##*:}
  mkdir -p "$LOCAL/deploy"
  cat >"$LOCAL/deploy/kustomization.yaml" <<E
# written by stack.sh: the operator as installed, with the image of this clone
resources: [$(realpath --relative-to "$LOCAL/deploy" config/default)]
images: [{name: dgm-operator, newName: $name, newTag: "$tag"}]
E
  kubectl apply -f config/manager/namespace.yaml >/dev/null
  secret=$(kubectl create secret generic dgm-database -n $system --dry-run=client -o yaml \
    --from-literal=url="$(database_url dgm_operator)" --from-literal=migration-url="$(database_url dgm_migrate)" \
    --from-file=ca.crt="$POSTGRES_DIR/ca.crt" |
    kubectl apply -f -)
  start_prometheus
  kubectl apply -k "$LOCAL/deploy" >"$LOCAL/logs/apply.log"
  # It would take up another address by itself, some seconds after this script has said that it is ready.
  [[ $secret != *configured ]] || kubectl rollout restart -n $system $deployment >/dev/null
  say "manifests of config/default applied"
  if ! kubectl rollout status -n $system $deployment --timeout=180s >/dev/null; then
    kubectl get pods -n $system -o wide >&2
    kubectl logs -n $system $deployment --tail=30 >&2 || true
    die "the operator did not become ready"
  fi
  say "operator ready"
}

up() {
  start_cluster
  start_database
  deploy
  say "all is ready:  export KUBECONFIG=$LOCAL/kubeconfig${BIN:+ PATH=$BIN:\$PATH}"
}

run() {
  [ -e "$LOCAL/kubeconfig" ] || up
  use_kubectl
  start_database
  kubectl scale -n $system $deployment --replicas=0 >/dev/null
  kubectl wait -n $system pod -l app.kubernetes.io/name=dgm-operator --for=delete --timeout=60s >/dev/null
  say "the operator in the cluster is scaled to 0, this one runs instead; \`make up\` brings it back"
  mkdir -p bin
  go build -o bin/manager ./cmd/manager
  mkdir -p "$LOCAL/database"
  (umask 077; hack/postgres.sh url dgm_operator >"$LOCAL/database/url"; hack/postgres.sh url dgm_migrate >"$LOCAL/database/migration-url")
  exec bin/manager run --cluster-name local --database-url-file "$LOCAL/database/url" --migration-url-file "$LOCAL/database/migration-url" \
    --metric-sources-file "$LOCAL/metric-sources.yaml" --leader-election-namespace $system "$@"
}

status() {
  [ "$kind" = current ] || hack/onenode/onenode.sh status || true
  hack/postgres.sh status || true
  hack/prometheus.sh status || true
  [ ! -e "$LOCAL/kubeconfig" ] || { use_kubectl; kubectl get -n $system $deployment; }
}

# undeploy takes the operator out of a cluster that goes on; its objects first, while it is there to let go of them.
undeploy() {
  use_kubectl
  kubectl delete improvementworkspaces,banditpolicies,systemconfigurations --all -A --timeout=120s >/dev/null || say "some objects are still there: kubectl get improvements,bp,sysconf -A"
  kubectl delete -k "$LOCAL/deploy" --ignore-not-found --timeout=120s >/dev/null
  say "operator and its kinds removed from cluster $(kubectl config current-context)"
}

down() {
  if [ "$kind" = current ] && [ -e "$LOCAL/deploy" ]; then undeploy || say "could not take the operator out of the cluster"; fi
  hack/onenode/onenode.sh down
  hack/prometheus.sh down
  hack/postgres.sh down
  rm -rf "$LOCAL"/{kubeconfig,metric-sources.yaml,postgres-url,database,kind,image,loaded,deploy,shop,cluster,images}
}

case ${1:-} in
up | down | run | status) command=$1; shift; $command "$@" ;;
load) use_kubectl; load_image "$2" "$3"; echo "$image" ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
