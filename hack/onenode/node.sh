#!/usr/bin/env bash
# The node itself: the first process of the namespaces that onenode.sh makes, and the parent of every component.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../say.sh"
. "$here/config.sh"

# From here on the state is /mnt, so that the paths are the same in every cluster and the usual ones can be hidden.
mount --make-rshared /
mount --bind "$DIR" /mnt
mount --bind "$BIN" /mnt/bin
mkdir -p /mnt/logs-here && mount --bind "$LOGS" /mnt/logs-here
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind /mnt/lib /var/lib   # containerd, kubelet and CNI keep their state there
mount --bind /mnt/logs-here /var/log
cd /mnt
export PATH=/mnt/bin:$PATH KUBECONFIG=/mnt/kubeconfig

components=""
start() { local name=$1; shift; "$@" </dev/null >"/var/log/$name.log" 2>&1 & components+=" $name:$!"; }
wait_for() {
  local what=$1 tenths=$(($2 * 10)) c; shift 2
  until "$@" >/dev/null 2>&1; do
    for c in $components; do [ -e "/proc/${c#*:}" ] || { tail -n 5 "/var/log/${c%:*}.log"; die "${c%:*} ended (see ${c%:*}.log)"; }; done
    ((tenths-- > 0)) || die "timed out: $what"
    sleep .1
  done
  say "$what"
}

# kubelet sets these for the whole machine: it gets copies of its own to set.
hide_kernel_settings() {
  local key
  mkdir -p /run/kernel
  for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    cat "/proc/sys/$key" >"/run/kernel/${key//\//.}"
    mount --bind "/run/kernel/${key//\//.}" "/proc/sys/$key"
  done
}

make_cgroups() {
  local c f
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    for c in cpuset cpu io memory pids; do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true; done
    mkdir -p "/sys/fs/cgroup/$NODE"
  else
    for c in /sys/fs/cgroup/*/; do mkdir -p "$c$NODE"; done
    for f in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$f" >"/sys/fs/cgroup/cpuset/$NODE/cpuset.$f"; done
  fi
}

connect() {
  ip link set lo up
  until ip link show eth0 >/dev/null 2>&1; do sleep .02; done   # onenode.sh moves it in
  ip addr add "$NODE_IP/30" dev eth0
  ip link set eth0 up
  ip route add default via "$HOST_IP"
  echo 1 >/proc/sys/net/ipv4/ip_forward   # of this namespace
}

control_plane() {
  start containerd containerd -c containerd.toml
  start etcd etcd --data-dir etcd --unsafe-no-fsync
  start kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address "$NODE_IP" --advertise-address "$NODE_IP" \
    --service-cluster-ip-range "$SERVICE_CIDR" --client-ca-file pki/ca.crt --tls-cert-file pki/apiserver.crt --tls-private-key-file pki/apiserver.key \
    --kubelet-client-certificate pki/apiserver-client.crt --kubelet-client-key pki/apiserver-client.key \
    --kubelet-certificate-authority pki/ca.crt --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file pki/sa.key --service-account-signing-key-file pki/sa.key \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged=true
  wait_for "API server ready" 120 kubectl get --raw /readyz
  start kube-controller-manager kube-controller-manager --kubeconfig controller-manager.kubeconfig --bind-address 127.0.0.1 --leader-elect=false \
    --use-service-account-credentials --root-ca-file pki/ca.crt --service-account-private-key-file pki/sa.key \
    --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key --flex-volume-plugin-dir /mnt/volume-plugins
  start kube-scheduler kube-scheduler --kubeconfig scheduler.kubeconfig --bind-address 127.0.0.1 --leader-elect=false
}

node() {
  kubectl create clusterrole system:coredns --verb=list,watch --resource=services,namespaces,endpointslices.discovery.k8s.io
  kubectl create clusterrolebinding system:coredns --clusterrole=system:coredns --user=system:coredns
  start coredns coredns -conf Corefile
  wait_for "container runtime ready" 30 ctr version
  ctr -n k8s.io images import bin/pause.tar
  start kubelet kubelet --config kubelet.yaml --kubeconfig kubelet.kubeconfig --hostname-override "$NODE" --node-ip "$NODE_IP"
  start kube-proxy kube-proxy --config kube-proxy.yaml
} >/dev/null 2>&1

node_ready() { kubectl get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True; }
services_ready() { nft list map ip kube-proxy service-ips | grep -q "$API_SERVICE_IP"; }
dns_ready() { (: <"/dev/tcp/$NODE_IP/53"); }

hide_kernel_settings
make_cgroups
write_certificates
write_configuration
connect
control_plane
node
wait_for "node ready" 120 node_ready
wait_for "services routed" 60 services_ready
wait_for "DNS ready" 60 dns_ready
wait_for "default account there" 60 kubectl get serviceaccount default
touch ready
wait   # as the first process of its namespace: its end is the end of all
