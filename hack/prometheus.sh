#!/usr/bin/env bash
# The local stack's Prometheus: a server of its own on this machine that scrapes the cluster's pods.
#
#   prometheus.sh up ADDRESS   starts it (unless it runs) on ADDRESS, where pods reach it
#   prometheus.sh status       prints its URL, or says that it does not run
#   prometheus.sh down         ends it and removes its data
#
# It scrapes each pod with the annotation prometheus.io/scrape: "true", at prometheus.io/port, every second.
#
# PROMETHEUS_DIR   its state (needed). $PROMETHEUS_DIR/url is its URL.
# PROMETHEUS_LOG   its log (default $PROMETHEUS_DIR/prometheus.log)
# KUBECONFIG       the cluster
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./say.sh
T0=${T0:-$(date +%s%N)}
DIR=${PROMETHEUS_DIR:?}
LOG=${PROMETHEUS_LOG:-$DIR/prometheus.log}

running() { [ -e "$DIR/pid" ] && [ -e "/proc/$(<"$DIR/pid")" ] && tr '\0' ' ' <"/proc/$(<"$DIR/pid")/cmdline" | grep -qF "prometheus.sh serve"; }

free_port() {
  local port
  while port=$((RANDOM % 10000 + 20000)); [ -n "$(ss -Hltn "sport = :$port")" ]; do :; done
  echo "$port"
}

configure() {
  cp "$KUBECONFIG" "$DIR/kubeconfig"
  echo '[]' >"$DIR/targets.json"
  cat >"$DIR/prometheus.yml" <<E
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: pods
  file_sd_configs: [{files: [targets.json]}]
E
}

# targets prints what is to be scraped now, as Prometheus reads it from a file.
targets() {
  kubectl get pods -A --field-selector status.phase=Running --no-headers -o custom-columns='I:.status.podIP,N:.metadata.namespace,P:.metadata.name,A:.metadata.labels.app\.kubernetes\.io/name,S:.metadata.annotations.prometheus\.io/scrape,T:.metadata.annotations.prometheus\.io/port' |
    awk 'BEGIN { printf "[" }
      $5 == "true" && $6 ~ /^[0-9]+$/ { printf "%s{\"targets\": [\"%s:%s\"], \"labels\": {\"namespace\": \"%s\", \"pod\": \"%s\", \"app\": \"%s\"}}", (n++ ? ", " : ""), $1, $6, $2, $3, $4 }
      END { print "]" }'
}

# serve runs Prometheus and keeps its targets up to date: Debian's is built without discovery in Kubernetes.
serve() {
  export KUBECONFIG=$DIR/kubeconfig
  prometheus --config.file="$DIR/prometheus.yml" --storage.tsdb.path="$DIR/data" --storage.tsdb.retention.time=1d --web.listen-address="$1" &
  trap 'kill 0' TERM
  while kill -0 $! 2>/dev/null; do
    kubectl get pods -A --watch --no-headers -o name 2>/dev/null | while read -r _; do
      while read -r -t .2 _; do :; done   # what happens at once is written once
      if targets >"$DIR/targets.new" 2>/dev/null; then mv "$DIR/targets.new" "$DIR/targets.json"; fi
    done || true
    sleep 1
  done
}

up() {
  local address=${1:?} port
  if running && [ "$(cat "$DIR/address")" = "$address" ] && cmp -s "$KUBECONFIG" "$DIR/kubeconfig"; then say "Prometheus runs already"; return; fi
  down
  (umask 077; mkdir -p "$DIR")
  configure
  port=$(free_port)
  echo "$address" >"$DIR/address"
  setsid ./prometheus.sh serve "$address:$port" </dev/null >>"$LOG" 2>&1 9>&- &
  echo $! >"$DIR/pid"
  for _ in {1..100}; do
    if curl -sf -o /dev/null "http://$address:$port/-/ready"; then
      echo "http://$address:$port" >"$DIR/url"
      say "Prometheus ready at http://$address:$port"
      return
    fi
    sleep .1
    running || break
  done
  tail -n 20 "$LOG" >&2
  die "Prometheus did not start; its log is $LOG"
}

down() {
  [ -e "$DIR" ] || return 0
  if running; then
    kill -- "-$(<"$DIR/pid")"
    while running; do sleep .1; done
    say "Prometheus ended"
  fi
  rm -rf "$DIR"
}

case ${1:-} in
up) up "${2:-}" ;;
down) down ;;
serve) serve "$2" ;;
status) if running; then cat "$DIR/url"; else echo "not running"; exit 1; fi ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
