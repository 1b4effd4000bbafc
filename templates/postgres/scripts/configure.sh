#!/usr/bin/env bash
# ---
# name: Configure PostgreSQL
# description: Listens for the application servers; makes one role and one database for them.
# inputs:
#   DB_NAME: {type: text, default: app, description: The database to make.}
#   DB_USER: {type: text, default: app, description: The role that owns it.}
#   DB_PASSWORD: {type: secret, description: That role's password.}
#   DB_PORT: {type: int, default: 5432, description: TCP port PostgreSQL listens on.}
#   DB_ALLOW_FROM:
#     type: list
#     default: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]
#     description: Networks, in CIDR form, from which the role may connect with its password.
# packages: []
# timeout: 300
# retry_safe: true
# ...
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
export DB_NAME="${DB_NAME:-app}" DB_USER="${DB_USER:-app}" DB_PORT="${DB_PORT:-5432}"
export PGCONNECT_TIMEOUT=5
if [ -z "${DB_PASSWORD:-}" ]; then
  echo "DB_PASSWORD is empty: give the secret input DB_PASSWORD" >&2
  exit 2
fi
case "$DB_PORT" in
  *[!0-9]* | '') echo "DB_PORT must be a number from 1 to 65535, not '$DB_PORT'" >&2; exit 2 ;;
esac

# The address other servers reach this one at; the loopback where it has none.
first_ipv4() {
  hostname -I | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /[.]/) { print $i; found = 1; exit } }
    END { if (!found) print "127.0.0.1" }'
}

# put_file PATH MODE: standard input becomes the file, whole or not at all; the paths here are full.
put_file() {
  local new
  new="$(mktemp "$1.XXXXXX")"
  cat >"$new"
  chmod "$2" "$new"
  wrote=no
  if cmp -s "$new" "$1"; then
    rm -f "$new"
    echo "unchanged: ${1#"$root"}"
  else
    if [ -z "$root" ]; then
      chown postgres: "$new"
    fi
    mv -f "$new" "$1"
    if [ -z "$root" ] && command -v restorecon >/dev/null 2>&1; then
      restorecon "$1"
    fi
    wrote=yes
    echo "wrote: ${1#"$root"}"
  fi
}

if [ -n "$root" ]; then
  home="$root/var/lib/postgresql"
  bindir="$(cat "$home/bindir")"
  address="${SLIPWAY_ADDRESS:-127.0.0.1}"
  data="$home/data"
  hba="$data/pg_hba.conf"
  log="$root/var/log/postgresql.log"
  mkdir -p "$root/var/log"
  touch "$log"
  # No Unix socket: its path would be longer than the 103 bytes a socket's name may have.
  put_file "$data/slipway.conf" 0600 <<CONF
listen_addresses = '$address'
port = $DB_PORT
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 20
shared_buffers = 16MB
CONF
  settings="$wrote"
  if ! grep -q "^include 'slipway.conf'" "$data/postgresql.conf"; then
    printf "include 'slipway.conf'\n" >>"$data/postgresql.conf"
    settings=yes
    echo "wrote: ${data#"$root"}/postgresql.conf"
  fi
  # The machine has no network of its own: whoever reaches it comes from this computer.
  allow="127.0.0.0/8"
  as_postgres() {
    PGPASSWORD="$(cat "$home/superuser-password")" "$bindir/psql" -X -q -v ON_ERROR_STOP=1 \
      --host="$address" --port="$DB_PORT" --username=postgres "$@"
  }
  restart() {
    if running; then
      "$bindir/pg_ctl" --pgdata="$data" --silent --wait --mode=fast stop
    fi
    # Away from our own pipes: the server outlives this script and whoever reads its output.
    "$bindir/pg_ctl" --pgdata="$data" --log="$log" --silent --wait start \
      </dev/null >/dev/null 2>&1 || {
      echo "PostgreSQL did not start on $address:$DB_PORT; the end of its log:" >&2
      tail -n 5 "$log" >&2
      echo "if the port is taken, set the input DB_PORT to another number" >&2
      exit 1
    }
    echo "started: PostgreSQL on $address:$DB_PORT"
  }
  running() { "$bindir/pg_ctl" --pgdata="$data" status >/dev/null; }
else
  address="${SLIPWAY_ADDRESS:-$(first_ipv4)}"
  # runuser leaves the environment as it is, which is how DB_PASSWORD reaches psql unseen by ps.
  current_port="$(cat /var/lib/slipway/postgres-port 2>/dev/null || echo 5432)"
  as_postgres() {
    (cd / && runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 --port="$current_port" "$@")
  }
  running() { systemctl --quiet is-active postgresql; }
  running || systemctl start postgresql
  hba="$(as_postgres -At -c 'SHOW hba_file')"
  allow="$(printf '%s\n' "${DB_ALLOW_FROM:-}" 127.0.0.0/8)"
  before="$(as_postgres -At -c "SELECT string_agg(name || setting, ',' ORDER BY name)
    FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'")"
  # ALTER SYSTEM writes the same file on every distribution, wherever its other files are.
  as_postgres <<'SQL'
\set port `printenv DB_PORT`
ALTER SYSTEM SET listen_addresses = '*';
ALTER SYSTEM SET port = :port;
ALTER SYSTEM SET password_encryption = 'scram-sha-256';
SQL
  after="$(as_postgres -At -c "SELECT string_agg(name || setting, ',' ORDER BY name)
    FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'")"
  settings=no
  if [ "$before" != "$after" ]; then
    settings=yes
    echo "set: listen_addresses, port, password_encryption"
  fi
  restart() {
    systemctl restart postgresql
    current_port="$DB_PORT"
    mkdir -p /var/lib/slipway
    printf '%s\n' "$DB_PORT" >/var/lib/slipway/postgres-port
    echo "restarted: postgresql on port $DB_PORT"
  }
fi

# Our block goes first: the first line that matches a connection decides. What the distribution
# wrote stays below it.
rules="$(
  echo "# slipway: begin"
  printf '%s\n' "$allow" | while IFS= read -r network; do
    if [ -n "$network" ]; then
      printf 'host "%s" "%s" %s scram-sha-256\n' "$DB_NAME" "$DB_USER" "$network"
    fi
  done
  if [ -n "$root" ]; then
    echo "host all postgres 127.0.0.0/8 scram-sha-256"
  fi
  echo "# slipway: end"
  sed '/^# slipway: begin$/,/^# slipway: end$/d' "$hba"
)"
put_file "$hba" 0600 <<CONF
$rules
CONF
rules="$wrote"

if [ "$settings" = yes ] || ! running; then
  restart
elif [ "$rules" = yes ]; then
  as_postgres -c 'SELECT pg_reload_conf()' >/dev/null
  echo "reloaded: pg_hba.conf"
else
  echo "unchanged: PostgreSQL runs on $address:$DB_PORT"
fi

# systemd and pg_ctl can be back before the server takes connections.
tries=0
until as_postgres -At -c 'SELECT 1' >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ]; then
    echo "PostgreSQL does not take connections on port $DB_PORT after 30 s:" >&2
    as_postgres -At -c 'SELECT 1' >&2
    exit 1
  fi
  sleep 0.5
done

# Names and password come in as psql variables: quoted by psql, on no command line, in no log.
as_postgres --dbname=postgres <<'SQL'
\set name `printenv DB_NAME`
\set role `printenv DB_USER`
\set password `printenv DB_PASSWORD`
SELECT format('CREATE ROLE %I LOGIN', :'role')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SET log_statement = 'none';
ALTER ROLE :"role" WITH LOGIN PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'role')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SQL
echo "set: role $DB_USER with its password, owner of database $DB_NAME"

if [ -n "${SLIPWAY_OUTPUT:-}" ]; then
  printf 'host=%s\nport=%s\n' "$address" "$DB_PORT" >>"$SLIPWAY_OUTPUT"
fi
