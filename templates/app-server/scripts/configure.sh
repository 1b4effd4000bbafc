#!/usr/bin/env bash
# ---
# name: Configure the application
# description: Tells the application where its database is, waits for that, and starts it.
# inputs:
#   DB_HOST:
#     type: env
#     description: The database server, such as db-1.private_ip; text:self is this server.
#   DB_PORT: {type: int, default: 5432, description: TCP port PostgreSQL listens on.}
#   ROLE:
#     type: choice
#     of: [blue, green]
#     default: blue
#     description: Which of two groups of servers this one belongs to; shown on its page.
# packages: []
# timeout: 300
# retry_safe: true
# ...
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
python="${SLIPWAY_PYTHON:-python3}"
prog="$root/usr/local/lib/app-server/app_server.py"
config=/etc/app-server/config.json

# The address other servers reach this one at; the loopback where it has none.
first_ipv4() {
  hostname -I | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /[.]/) { print $i; found = 1; exit } }
    END { if (!found) print "127.0.0.1" }'
}

if [ -n "$root" ]; then
  address="${SLIPWAY_ADDRESS:-127.0.0.1}"
  self="$address"
else
  address=0.0.0.0
  self=127.0.0.1
fi
db_host="${DB_HOST:-}"
if [ -z "$db_host" ]; then
  echo "DB_HOST is empty: give it as an env input, such as DB_HOST=db-1.private_ip" >&2
  exit 2
fi
if [ "$db_host" = self ]; then
  db_host="$self"
fi

mkdir -p "$root/etc/app-server"
new="$(mktemp "$root$config.XXXXXX")"
DB_HOST="$db_host" ADDRESS="$address" "$python" - >"$new" <<'PYTHON'
import json, os

env = os.environ
config = {
    "server": env.get("SLIPWAY_SERVER_NAME") or os.uname().nodename,
    "role": env.get("ROLE") or "blue",
    "address": env["ADDRESS"],
    "port": 8000,
    "db_host": env["DB_HOST"],
    "db_port": int(env.get("DB_PORT") or 5432),
}
print(json.dumps(config, indent=2))
PYTHON
chmod 0644 "$new"
changed=no
if cmp -s "$new" "$root$config"; then
  rm -f "$new"
  echo "unchanged: $config"
else
  mv -f "$new" "$root$config"
  changed=yes
  echo "wrote: $config"
fi

# The database server is operational by now or its address would not be known; a moment's grace
# covers a firewall rule that has just been made.
tries=0
until said="$("$python" "$prog" check)"; do
  tries=$((tries + 1))
  if [ "$tries" -ge "${APP_SERVER_TRIES:-30}" ]; then
    echo "the database is not there: $said" >&2
    exit 1
  fi
  sleep 1
done
echo "checked: $said"

if [ -n "$root" ]; then
  if [ "$changed" = yes ]; then
    "$python" "$prog" stop
  fi
  # Of what this script was told the process needs nothing: it reads its configuration.
  env -u DB_PASSWORD "$python" "$prog" start
else
  if systemctl --quiet is-active app-server && systemctl --quiet is-enabled app-server; then
    if [ "$changed" = yes ]; then
      systemctl restart app-server
      echo "restarted: app-server"
    else
      echo "unchanged: app-server runs, now and after a reboot"
    fi
  else
    systemctl --quiet enable --now app-server
    echo "started: app-server, now and after every reboot"
  fi
  self="${SLIPWAY_ADDRESS:-$(first_ipv4)}"
fi
if [ -n "${SLIPWAY_OUTPUT:-}" ]; then
  printf 'url=%s\n' "http://$self:8000/" >>"$SLIPWAY_OUTPUT"
fi
