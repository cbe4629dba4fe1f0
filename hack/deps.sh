#!/usr/bin/env bash
# What the local stack and the tests need from the system: installs the Debian packages that are missing when it may, else names them.
#
#   deps.sh            for everything
#   deps.sh database   for PostgreSQL alone, beside a cluster that is there
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin

# command or file, and the package that has it
needs="
git git
openssl openssl
ip iproute2
setpriv util-linux
"
[ "${1:-}" = database ] || needs+="
make make
gcc gcc
nft nftables
pgrep procps
runc runc
curl curl
prometheus prometheus
/usr/lib/cni/ptp containernetworking-plugins
"
missing() {
  local what package
  while read -r what package; do
    [ -z "$what" ] || [ -e "$what" ] || command -v "$what" >/dev/null || echo "$package"
  done <<<"$needs"
  [ -n "$(postgres_bin)" ] || echo postgresql
}
# 15 is the oldest that the schema runs on.
postgres_bin() {
  local bin
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [ -x "$bin/initdb" ] || bin=$(pg_config --bindir 2>/dev/null) || return 0
  [ -x "$bin/initdb" ] && [ "$("$bin/postgres" --version | grep -oE '[0-9]+' | head -n 1)" -ge 15 ] || return 0
  echo "$bin"
}

command -v go >/dev/null || { echo "error: Go is missing: https://go.dev/doc/install (1.26 or newer)" >&2; exit 1; }
packages=$(missing | sort -u | tr '\n' ' ')
[ -n "${packages// /}" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "error: missing: $packages" >&2
  echo "Install them (Debian, Ubuntu: sudo apt-get install $packages) and try again." >&2
  exit 1
fi
echo "installing $packages" >&2
# Debian's package would start a server for the whole machine: not asked for.
settings=/etc/postgresql-common/createcluster.d/dgm-operator.conf
mkdir -p "${settings%/*}"
echo "create_main_cluster = false" >"$settings"
made=("$settings")
# Nor shall any other service of a package start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  made+=("$policy")
fi
trap 'rm -f "${made[@]}"' EXIT
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
install() {
  # shellcheck disable=SC2086 # a list of packages
  apt-get install -y -q --no-install-recommends $packages >"$log" 2>&1
}
install || { apt-get update -q >"$log" 2>&1 && install; } || { tail -n 20 "$log" >&2; echo "error: apt-get could not install: $packages" >&2; exit 1; }
rm -f "$log"
packages=$(missing | sort -u | tr '\n' ' ')
[ -z "${packages// /}" ] || { echo "error: still missing after installing: $packages" >&2; exit 1; }
