#!/usr/bin/env bash
# The local stack's PostgreSQL: a server of its own on this machine, with its data in one directory, used as docs/database.md
# has it for production: TLS only, with a CA of its own, and a login role for each purpose.
#
#   postgres.sh up ADDRESS   starts it (unless it runs) on localhost and ADDRESS, where pods reach it (default: as before)
#   postgres.sh url ROLE [HOST] [CA FILE]   prints the URL of a login role: dgm (the owner), dgm_migrate, dgm_operator or dgm_monitor
#   postgres.sh status       says whether it runs
#   postgres.sh stop         stops it; `up` starts it again with its data
#   postgres.sh down         ends it and removes its data
#
# POSTGRES_DIR   its state (needed): ca.crt, and url, which is the owner's
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
superuser() {
  PGPASSWORD=$(<"$DIR/superuser") PGSSLMODE=verify-full PGSSLROOTCERT=$DIR/ca.crt \
    "$bin/psql" -qXAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$(<"$DIR/port")" -U postgres "$@"
}

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
  (umask 077; openssl rand -hex 16 >"$DIR/superuser"; free_port >"$DIR/port")
  make_data_directory
  local data password_file
  data=$(readlink -f "$DIR/data")
  password_file=$(mktemp)
  cp "$DIR/superuser" "$password_file"
  [ -z "$account" ] || chown "$account:" "$password_file"
  (cd /; as_account "$bin/initdb" -D "$data" -U postgres --pwfile="$password_file" -A scram-sha-256 -E UTF8 --locale=C.UTF-8) >"$DIR/initdb.log"
  rm "$password_file" "$DIR/initdb.log"
  touch "$DIR/created"
}

# certify ADDRESS gives the server a certificate for localhost and ADDRESS, unless it has one that is good for another day.
certify() {
  local data name check
  data=$(readlink -f "$DIR/data")
  case $1 in *[!0-9.]*) name=DNS:$1 check=-verify_hostname ;; *) name=IP:$1 check=-verify_ip ;; esac
  ! openssl verify -CAfile "$DIR/ca.crt" $check "$1" -attime $(($(date +%s) + 86400)) "$data/server.crt" >/dev/null 2>&1 || return 0
  cat >"$DIR/openssl.cnf" <<E
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost, $name
E
  [ -e "$DIR/ca.crt" ] || issue "$DIR/ca" "/CN=dgm local stack" -extensions ca
  issue "$data/server" /CN=postgres -extensions server -CA "$DIR/ca.crt" -CAkey "$DIR/ca.key"
  chmod a+r "$DIR/ca.crt"
  [ -z "$account" ] || chown "$account:" "$data"/server.{crt,key}
}

# issue FILE SUBJECT OPTION… makes FILE.crt and FILE.key.
issue() {
  local said
  said=$(umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -config "$DIR/openssl.cnf" \
    -keyout "$1.key" -out "$1.crt" -subj "$2" "${@:3}" 2>&1) || die "openssl: $said"
}

# configure ADDRESS writes what the server is started with; a data directory of an older clone gets it too.
configure() {
  local data; data=$(readlink -f "$DIR/data")
  cat >"$data/postgresql.conf" <<E
listen_addresses = '127.0.0.1,$1'
port = $(<"$DIR/port")
unix_socket_directories = ''
ssl = on
wal_level = logical
shared_buffers = 512MB
max_connections = 200
shared_preload_libraries = 'pg_stat_statements'
timezone = 'Etc/UTC'
log_timezone = 'Etc/UTC'
E
  # A plain connection finds no entry and is refused.
  cat >"$data/pg_hba.conf" <<E
hostssl all all all scram-sha-256
hostssl replication all 127.0.0.1/32 scram-sha-256
E
}

# set_up makes the database and its roles, or mends them, and sets the passwords that are here.
set_up() {
  local role
  mkdir -p "$DIR/passwords"
  chmod 700 "$DIR/passwords"
  for role in dgm dgm_migrate dgm_operator dgm_monitor; do
    [ -e "$DIR/passwords/$role" ] || (umask 077; openssl rand -hex 16 >"$DIR/passwords/$role")
  done
  {
    for role in dgm dgm_migrate dgm_operator dgm_monitor; do echo "\\set ${role}_password $(<"$DIR/passwords/$role")"; done
    cat postgres.sql
  } | superuser -d postgres
  (umask 077; url dgm >"$DIR/url")
}

# url ROLE [HOST] [CA FILE]: a path may hold what means something in a URL.
url() {
  local ca; ca=$(sed 's/%/%25/g; s/ /%20/g; s/&/%26/g; s/#/%23/g; s/+/%2B/g' <<<"${3:-$(readlink -f "$DIR")/ca.crt}")
  echo "postgres://$1:$(<"$DIR/passwords/$1")@${2:-127.0.0.1}:$(<"$DIR/port")/dgm?sslmode=verify-full&sslrootcert=$ca"
}

# up restarts a server of an older clone, or for another address: its data stays.
up() {
  local address=${1:-$(cat "$DIR/address")} before
  mkdir -p "$DIR"
  [ -e "$DIR/created" ] || [ -e "$DIR/url" ] || { down; mkdir -p "$DIR"; create; }
  before=$(settings)
  certify "$address"
  configure "$address"
  echo "$address" >"$DIR/address"
  if running && [ "$before" = "$(settings)" ]; then
    set_up
    say "PostgreSQL runs already"
    return
  fi
  ! running || control stop -m fast >/dev/null
  if ! control start -w -t 60 >>"$LOG" 2>&1; then
    tail -n 20 "$LOG" >&2
    die "PostgreSQL did not start; its log is $LOG"
  fi
  set_up
  say "PostgreSQL $(superuser -d dgm -c 'SHOW server_version') ready on port $(<"$DIR/port"), TLS only"
}

# settings is a digest of what the server reads when it starts.
settings() {
  local data; data=$(readlink -f "$DIR/data")
  { cat "$data"/{postgresql.conf,pg_hba.conf,server.crt} 2>/dev/null || true; } | sha256sum   # one of an older clone has no certificate
}

down() {
  [ -e "$DIR" ] || return 0
  if running; then control stop -m immediate >/dev/null; say "PostgreSQL ended"; fi
  [ ! -L "$DIR/data" ] || rm -rf "$(readlink -f "$DIR/data")"
  rm -rf "$DIR"
}

case ${1:-} in
up) up "${2:-}" ;;
url) url "${@:2}" ;;
stop) ! running || control stop -m fast >/dev/null ;;
down) down ;;
status) if running; then cat "$DIR/url"; else echo "not running"; exit 1; fi ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
