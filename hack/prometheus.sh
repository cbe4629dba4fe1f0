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

running() {
  [ -e "$DIR/pid" ] && [ "$(readlink "/proc/$(<"$DIR/pid")/exe" 2>/dev/null)" = "$(readlink -f "$(command -v prometheus)")" ]
}

free_port() {
  local port
  while port=$((RANDOM % 10000 + 20000)); [ -n "$(ss -Hltn "sport = :$port")" ]; do :; done
  echo "$port"
}

configure() {
  cp "$KUBECONFIG" "$DIR/kubeconfig"
  cat >"$DIR/prometheus.yml" <<E
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: pods
  kubernetes_sd_configs:
  - {role: pod, kubeconfig_file: $DIR/kubeconfig}
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], action: keep, regex: "true"}
  - {source_labels: [__meta_kubernetes_pod_phase], action: keep, regex: Running}
  - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
    regex: (.+);(\d+)
    replacement: \$1:\$2
    target_label: __address__
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
  - {source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_name], target_label: app}
E
}

up() {
  local address=${1:?} port
  if running && [ "$(cat "$DIR/address")" = "$address" ] && cmp -s "$KUBECONFIG" "$DIR/kubeconfig"; then say "Prometheus runs already"; return; fi
  down
  (umask 077; mkdir -p "$DIR")
  configure
  port=$(free_port)
  echo "$address" >"$DIR/address"
  setsid prometheus --config.file="$DIR/prometheus.yml" --storage.tsdb.path="$DIR/data" --storage.tsdb.retention.time=1d \
    --web.listen-address="$address:$port" </dev/null >>"$LOG" 2>&1 9>&- &
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
    kill "$(<"$DIR/pid")"
    while running; do sleep .1; done
    say "Prometheus ended"
  fi
  rm -rf "$DIR"
}

case ${1:-} in
up) up "${2:-}" ;;
down) down ;;
status) if running; then cat "$DIR/url"; else echo "not running"; exit 1; fi ;;
*) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
