# shellcheck shell=bash
# What the components read: certificates, kubeconfigs and configuration files, written to the current directory (/mnt).

write_certificates() {
  cat >pki/openssl.cnf <<E
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, digitalSignature
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc, DNS:kubernetes.default.svc.cluster.local, DNS:$NODE, IP:127.0.0.1, IP:$NODE_IP, IP:$API_SERVICE_IP
E
  local new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -config pki/openssl.cnf"
  # shellcheck disable=SC2086 # options, to be split
  openssl req -x509 $new_key -extensions ca -subj /CN=onenode -keyout pki/ca.key -out pki/ca.crt 2>/dev/null
  openssl genrsa -out pki/sa.key 2048 2>/dev/null
  write_certificate apiserver /CN=kube-apiserver
  write_certificate apiserver-client /O=system:masters/CN=kube-apiserver-client
  write_certificate kubelet-server "/CN=$NODE"
  write_kubeconfig "" /O=system:masters/CN=admin
  write_kubeconfig kubelet. "/O=system:nodes/CN=system:node:$NODE"
  write_kubeconfig controller-manager. /CN=system:kube-controller-manager
  write_kubeconfig scheduler. /CN=system:kube-scheduler
  write_kubeconfig kube-proxy. /CN=system:kube-proxy
  write_kubeconfig coredns. /CN=system:coredns
}

write_certificate() { # NAME SUBJECT
  # shellcheck disable=SC2086 # options, to be split
  openssl req -x509 $new_key -extensions leaf -CA pki/ca.crt -CAkey pki/ca.key -subj "$2" -keyout "pki/$1.key" -out "pki/$1.crt" 2>/dev/null
}

write_kubeconfig() { # PREFIX SUBJECT
  write_certificate "${1}client" "$2"
  (umask 077; cat >"${1}kubeconfig") <<E
apiVersion: v1
kind: Config
current-context: $NODE
contexts: [{name: $NODE, context: {cluster: $NODE, user: $NODE}}]
clusters: [{name: $NODE, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 pki/ca.crt)}}]
users: [{name: $NODE, user: {client-certificate-data: $(base64 -w0 "pki/${1}client.crt"), client-key-data: $(base64 -w0 "pki/${1}client.key")}}]
E
}

write_configuration() {
  # restrict_oom_score_adj: lowering it needs CAP_SYS_RESOURCE, which a container may not have.
  cat >containerd.toml <<E
version = 3
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.blockfile']
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni', '/opt/cni/bin']
    conf_dir = '/mnt/cni'
    use_internal_loopback = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '$(command -v runc)'
      SystemdCgroup = false
E
  cat >cni/10-ptp.conflist <<E
{"cniVersion": "1.0.0", "name": "ptp", "plugins": [{"type": "ptp", "ipMasq": false,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
E
  # syncFrequency: how soon pods see a changed ConfigMap. The eviction signals want "0%" to be off.
  cat >kubelet.yaml <<E
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /mnt/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /mnt/pki/kubelet-server.crt
tlsPrivateKeyFile: /mnt/pki/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
syncFrequency: 2s
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$NODE
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
volumePluginDir: /mnt/volume-plugins
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
resolvConf: ""
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
E
  cat >kube-proxy.yaml <<E
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
bindAddress: $NODE_IP
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: /mnt/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0}
E
  cat >Corefile <<E
.:53 {
  bind $NODE_IP
  errors
  cache 5
  kubernetes cluster.local {
    kubeconfig /mnt/coredns.kubeconfig
  }
}
E
}
