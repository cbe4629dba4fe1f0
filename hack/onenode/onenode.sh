#!/usr/bin/env bash
# A real one-node Kubernetes that runs pods, without a container engine.
#
#   onenode.sh up            starts it (about 10 s) unless it runs already; then KUBECONFIG=$ONENODE_DIR/kubeconfig
#   onenode.sh load TAR...   imports image archives (docker-archive or OCI) into the node
#   onenode.sh exec CMD...   runs CMD in the node's network namespace (plain access works from the host without it)
#   onenode.sh status        says whether it runs, and where
#   onenode.sh down          ends it and leaves nothing behind but its logs
#
# ONENODE_DIR   its state: one directory, one cluster (needed)
# ONENODE_LOGS  its logs (default $ONENODE_DIR/logs)
# ONENODE_NET   the second octet of 10.x.0.0/16 (default: the first free one from 244 on)
#
# All of it lives in mount, pid and network namespaces of its own: ending one process ends every other, with all mounts, pods,
# interfaces and rules. A veth pair and one route lead in, so the API server, pods, ClusterIPs and NodePorts answer from this
# machine, and pods reach its servers at HOST_IP (in $ONENODE_DIR/env). Two clusters side by side do not meet.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
[ -n "${ONENODE_DIR:-}" ] || usage
mkdir -p "$ONENODE_DIR"
DIR=$(cd "$ONENODE_DIR" && pwd)
T0=${T0:-$(date +%s%N)}; export T0
. "$here/../say.sh"

# A pid may have been given to another process since: its start time tells. One that only waits to be reaped (Z) has ended.
start_time() { awk '$3 != "Z" {print $22}' "/proc/$1/stat" 2>/dev/null || true; }
running() { local pid started; [ -s "$DIR/pid" ] && read -r pid started <"$DIR/pid" && [ -n "$started" ] && [ "$(start_time "$pid")" = "$started" ]; }
node_pid() { pgrep -P "$(cut -d' ' -f1 "$DIR/pid")"; }
in_node() { nsenter -t "$(node_pid)" "$@"; }

cgroups() { if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else ls -d /sys/fs/cgroup/*/; fi; }

# claim takes the first range that is free; making the cgroup is the atomic step that keeps two starts apart.
claim() {
  local first=${ONENODE_NET:-244} last=${ONENODE_NET:-254} n claim_in
  claim_in=$(cgroups | head -n 1)
  for ((n = first; n <= last; n++)); do
    [ -z "$(ip -4 route show root "10.$n.0.0/16")" ] || continue
    mkdir "${claim_in%/}/onenode$n" 2>/dev/null || continue
    cat >"$DIR/env" <<E
NODE=onenode$n
NET=10.$n
NODE_IP=10.$n.254.2
HOST_IP=10.$n.254.1
POD_CIDR=10.$n.0.0/24
SERVICE_CIDR=10.$n.1.0/24
API_SERVICE_IP=10.$n.1.1
E
    return
  done
  die "no free network: 10.$first.0.0/16 to 10.$last.0.0/16 are in use (ip route). Set ONENODE_NET to another second octet."
}

up() {
  if running; then say "cluster $(. "$DIR/env"; echo "$NODE") runs already"; return; fi
  [ "$(id -u)" = 0 ] || die "a node needs root (namespaces, mounts, cgroups). Run as root, or use a cluster that is there: make up CLUSTER=current"
  down
  BIN=$("$here/build.sh"); LOGS=${ONENODE_LOGS:-$DIR/logs}
  mkdir -p "$LOGS" "$DIR"/{bin,pki,cni,volume-plugins,etcd,lib}
  LOGS=$(cd "$LOGS" && pwd); rm -rf "${LOGS:?}"/*
  claim; set -a; . "$DIR/env"; set +a
  export DIR BIN LOGS
  setsid unshare --mount --net --pid --fork --kill-child --mount-proc "$here/node.sh" </dev/null >"$LOGS/node.log" 2>&1 9>&- &
  local pid=$! child
  echo "$pid $(start_time $pid)" >"$DIR/pid"
  until child=$(pgrep -P $pid) && [ "$(readlink "/proc/$child/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do running || failed; sleep .02; done
  ip link add "$NODE" type veth peer name eth0 netns "$child"
  ip addr add "$HOST_IP/30" dev "$NODE"
  ip link set "$NODE" up
  ip route add "$NET.0.0/16" via "$NODE_IP"
  tail -n +1 --pid "$pid" -F "$LOGS/node.log" 2>/dev/null & local follow=$!
  until [ -e "$DIR/ready" ]; do running || { kill $follow; failed; }; sleep .1; done
  sleep .1; kill $follow; wait $follow 2>/dev/null || true
}
failed() { tail -n 20 "$LOGS/node.log"; down; die "the cluster did not start; its logs are in $LOGS"; }

down() {
  [ -e "$DIR/env" ] || return 0
  local pid=0 NODE dir i
  NODE=$(. "$DIR/env"; echo "$NODE")
  if running; then read -r pid _ <"$DIR/pid"; kill -9 "$pid"; fi   # --kill-child: the kernel ends the whole pid namespace
  ip link del "$NODE" 2>/dev/null || true
  for ((i = 0; i < 200; i++)); do
    for dir in $(cgroups); do find "${dir%/}/$NODE" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    ! running && [ -z "$(for dir in $(cgroups); do ls -d "${dir%/}/$NODE" 2>/dev/null; done)" ] && break
    sleep .05
  done
  [ "$i" -lt 200 ] || say "cgroups named $NODE are still there: $(for dir in $(cgroups); do cat "${dir%/}/$NODE/cgroup.procs" 2>/dev/null; done | sort -u | tr '\n' ' ')"
  # its logs may lie in the state directory: they stay
  find "$DIR" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf --one-file-system {} +
  [ "$pid" = 0 ] || say "cluster $NODE ended"
}

case ${1:-} in
up | down) exec 9<"$DIR"; flock 9; "$1" ;;
load) shift; for archive; do output=$(in_node -m /mnt/bin/ctr -n k8s.io images import - <"$archive" 2>&1) || die "$archive: $output"; done ;;
exec) shift; in_node -n -- "$@" ;;
status) if running; then cat "$DIR/env"; else echo "not running"; exit 1; fi ;;
*) usage ;;
esac
