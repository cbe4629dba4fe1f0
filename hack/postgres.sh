#!/usr/bin/env bash
# The local stack's PostgreSQL: a server of its own on this machine, with its data in one directory.
#
#   postgres.sh up ADDRESS   starts it (unless it runs) on localhost and ADDRESS, where pods reach it (default: as before)
#   postgres.sh status       says whether it runs
#   postgres.sh stop         stops it; `up` starts it again with its data
#   postgres.sh down         ends it and removes its data
#
# POSTGRES_DIR   its state (needed). $POSTGRES_DIR/url is the owner's URL, with a password of its own.
# POSTGRES_LOG   its log (default $POSTGRES_DIR/postgres.log)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./say.sh
T0=${T0:-$(date +%s%N)}
DIR=${POSTGRES_DIR:?}
LOG=${POSTGRES_LOG:-$DIR/postgres.log}

# PostgreSQL refuses to run as root.
account=""
[ "$(id -u)" != 0 ] || account=postgres
as_account() { if [ -n "$account" ]; then setpriv --reuid $account --regid $account --clear-groups -- "$@"; else "$@"; fi; }
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/pg_ctl" ] || bin=$(pg_config --bindir)
control() { (cd /; as_account "$bin/pg_ctl" -D "$(readlink -f "$DIR/data")" "$@" 9>&-); }
running() { [ -e "$DIR/data" ] && control status >/dev/null 2>&1; }
superuser() { PGPASSWORD=$(<"$DIR/superuser") "$bin/psql" -qXAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$(<"$DIR/port")" -U postgres "$@"; }

free_port() {
  local port
  while port=$((RANDOM % 10000 + 20000)); [ -n "$(ss -Hltn "sport = :$port")" ]; do :; done
  echo "$port"
}

# make_data_directory: the account may not be allowed into this clone (one under /root, say): then the data is in /var/tmp.
make_data_directory() {
  local data=$DIR/data
  if [ -n "$account" ] && ! as_account test -x "$DIR"; then
    data=$(mktemp -d /var/tmp/dgm-postgres.XXXXXX)
    ln -s "$data" "$DIR/data"
    say "PostgreSQL's data is in $data: account $account may not enter $DIR"
  else
    mkdir "$data"
  fi
  [ -z "$account" ] || chown "$account:" "$data"
  chmod 700 "$data"
}

create() {
  (umask 077; openssl rand -hex 16 >"$DIR/superuser"; openssl rand -hex 16 >"$DIR/password"; free_port >"$DIR/port")
  make_data_directory
  local data password_file
  data=$(readlink -f "$DIR/data")
  password_file=$(mktemp)
  cp "$DIR/superuser" "$password_file"
  [ -z "$account" ] || chown "$account:" "$password_file"
  (cd /; as_account "$bin/initdb" -D "$data" -U postgres --pwfile="$password_file" -A scram-sha-256 -E UTF8 --locale=C.UTF-8) >"$DIR/initdb.log"
  rm "$password_file"
  cat >>"$data/postgresql.conf" <<E
unix_socket_directories = ''
shared_buffers = 512MB
max_connections = 200
shared_preload_libraries = 'pg_stat_statements'
E
  echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
  rm "$DIR/initdb.log"
}

create_database() {
  superuser -d postgres <<E
CREATE ROLE dgm LOGIN CREATEROLE PASSWORD '$(<"$DIR/password")';
GRANT pg_read_all_stats TO dgm;
CREATE DATABASE dgm OWNER dgm;
\\connect dgm
CREATE EXTENSION pg_stat_statements;
E
  (umask 077; echo "postgres://dgm:$(<"$DIR/password")@127.0.0.1:$(<"$DIR/port")/dgm?sslmode=disable" >"$DIR/url")
}

up() {
  local address=${1:-$(cat "$DIR/address")}
  mkdir -p "$DIR"
  if running && [ -e "$DIR/url" ] && [ "$(<"$DIR/address")" = "$address" ]; then say "PostgreSQL runs already"; return; fi
  ! running || control stop -m fast >/dev/null
  [ -e "$DIR/url" ] || { down; mkdir -p "$DIR"; create; }
  echo "$address" >"$DIR/address"
  if ! control start -w -t 60 -o "-p $(<"$DIR/port") -c listen_addresses=127.0.0.1,$address" >>"$LOG" 2>&1; then
    tail -n 20 "$LOG" >&2
    die "PostgreSQL did not start; its log is $LOG"
  fi
  [ -e "$DIR/url" ] || create_database
  say "PostgreSQL $(superuser -d dgm -c 'SHOW server_version') ready on port $(<"$DIR/port")"
}

down() {
  [ -e "$DIR" ] || return 0
  if running; then control stop -m immediate >/dev/null; say "PostgreSQL ended"; fi
  [ ! -L "$DIR/data" ] || rm -rf "$(readlink -f "$DIR/data")"
  rm -rf "$DIR"
}

case ${1:-} in
up) up "${2:-}" ;;
stop) ! running || control stop -m fast >/dev/null ;;
down) down ;;
status) if running; then cat "$DIR/url"; else echo "not running"; exit 1; fi ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
