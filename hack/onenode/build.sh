#!/usr/bin/env bash
# Builds every binary of the one-node cluster into the cache and prints the directory that holds them (its only line of stdout).
# The directory is named after a hash of all that goes into it, so it is built once, shared by every clone, and never half done.
set -euo pipefail
cd "$(dirname "$0")"
cache=${DGM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dgm-operator}/kube

version() { sed -n "s|^\t$1 v||p" go.mod; }
kubernetes=v$(version k8s.io/kubernetes)
stamp=k8s.io/component-base/version
IFS=. read -r major minor _ <<<"${kubernetes#v}"
ldflags="-s -w -X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor -X github.com/containerd/containerd/v2/version.Version=v$(version github.com/containerd/containerd/v2)"

toolchain=$(go env GOVERSION GOOS GOARCH)
hash=$({ cat build.sh go.mod go.sum ./*.go ./*/*.go; echo "$toolchain $ldflags"; } | sha256sum | cut -c1-16)
bin=$cache/$hash/bin
if [ -d "$bin" ]; then echo "$bin"; exit; fi

say() { echo "$(printf '%4ds' "$SECONDS") $*" >&2; }
build() { say "building ${1##*/}"; go build -buildvcs=false -ldflags "$ldflags" -o "$tmp/bin/$1" "$2" >&2; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "waiting for another build"; flock 9; }
if [ -d "$bin" ]; then echo "$bin"; exit; fi
rm -rf "$cache"/build.*   # of a build that was killed
tmp=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
say "building Kubernetes $kubernetes and what it runs on, once: about 12 minutes on 2 cores from an empty Go build cache"
build kube ./kube
for component in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do ln -s kube "$tmp/bin/$component"; done
build etcd go.etcd.io/etcd/server/v3
for command in containerd containerd-shim-runc-v2 ctr; do build $command github.com/containerd/containerd/v2/cmd/$command; done
build coredns ./coredns
CGO_ENABLED=0 build pause ./pause
go -C ../image run -buildvcs=false . -out "$tmp/bin/pause.tar" -tag localhost/pause:1 "$tmp/bin/pause" >&2
mkdir -p "$cache/$hash"
mv "$tmp/bin" "$bin"
say "built in $bin"
echo "$bin"
