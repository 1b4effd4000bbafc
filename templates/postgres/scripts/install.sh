#!/usr/bin/env bash
# ---
# name: Install PostgreSQL
# description: The distribution's PostgreSQL with an empty cluster that runs after every reboot.
# inputs: {}
# packages: [postgresql]
# timeout: 900
# retry_safe: true
# ...
#
# On a stand-in machine nothing is installed: the programs of the computer it runs on are used, for
# a cluster of the machine's own in the machine's own directory.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"

if [ -n "$root" ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "PostgreSQL refuses to run as root and this stand-in machine runs as root, perhaps only" \
      "in its own user namespace: start Slipway as an ordinary user, without that confinement" >&2
    exit 1
  fi
  complete() {
    [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] && [ -x "$1/psql" ] && [ -x "$1/pg_dump" ]
  }
  found=""
  if command -v initdb >/dev/null 2>&1; then
    directory="$(dirname "$(command -v initdb)")"
    if complete "$directory"; then
      found="$directory"
    fi
  fi
  if [ -z "$found" ]; then
    # The last of what is there: within one kind of place names sort by version.
    for directory in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin \
      /usr/local/opt/postgresql*/bin; do
      if complete "$directory"; then
        found="$directory"
      fi
    done
  fi
  if [ -z "$found" ]; then
    echo "no PostgreSQL programs (initdb, pg_ctl, psql, pg_dump) in PATH or where distributions" \
      "put them: install PostgreSQL on this computer (Debian and Ubuntu: apt install postgresql;" \
      "Fedora: dnf install postgresql-server; macOS: brew install postgresql@16)" >&2
    exit 1
  fi
  mkdir -p "$root/var/lib/postgresql" "$root/run/postgresql"
  if [ "$(cat "$root/var/lib/postgresql/bindir" 2>/dev/null || true)" = "$found" ]; then
    echo "unchanged: uses $found"
  else
    printf '%s\n' "$found" >"$root/var/lib/postgresql/bindir"
    echo "wrote: /var/lib/postgresql/bindir ($found)"
  fi
  if [ -f "$root/var/lib/postgresql/data/PG_VERSION" ]; then
    echo "unchanged: cluster /var/lib/postgresql/data"
  else
    # A cluster half made by a run that was cut off is made again: it never held anything.
    rm -rf "$root/var/lib/postgresql/new"
    umask 077
    od -An -N 24 -tx1 /dev/urandom | tr -d ' \n' >"$root/var/lib/postgresql/superuser-password"
    "$found/initdb" --pgdata="$root/var/lib/postgresql/new" --username=postgres --encoding=UTF8 \
      --locale=C --auth=scram-sha-256 \
      --pwfile="$root/var/lib/postgresql/superuser-password" >/dev/null
    mv "$root/var/lib/postgresql/new" "$root/var/lib/postgresql/data"
    echo "created: cluster /var/lib/postgresql/data, $("$found/postgres" --version)"
  fi
  echo "left out: packages and the start after a reboot, because a stand-in machine shares this" \
    "computer's programs and has no service manager"
  exit 0
fi

if command -v apt-get >/dev/null 2>&1; then
  if dpkg-query -W -f '${Status}' postgresql 2>/dev/null | grep -q 'ok installed'; then
    echo "unchanged: postgresql is installed"
  else
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    # Brings a cluster "main" and starts it.
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install postgresql >/dev/null
    echo "installed: postgresql"
  fi
else
  # Rocky has one package of that name; Amazon Linux has the version in it.
  package=""
  if rpm -q --whatprovides postgresql-server >/dev/null 2>&1; then
    echo "unchanged: postgresql-server is installed"
  else
    for name in postgresql16-server postgresql15-server postgresql-server; do
      if dnf -q list --available "$name" >/dev/null 2>&1; then
        package="$name"
        break
      fi
    done
    if [ -z "$package" ]; then
      echo "no package postgresql-server in this server's repositories: enable one that has it" >&2
      exit 1
    fi
    dnf -q -y install "$package" >/dev/null
    echo "installed: $package"
  fi
  if [ -f /var/lib/pgsql/data/PG_VERSION ]; then
    echo "unchanged: cluster /var/lib/pgsql/data"
  else
    PGSETUP_INITDB_OPTIONS='--auth-host=scram-sha-256' postgresql-setup --initdb >/dev/null
    echo "created: cluster /var/lib/pgsql/data"
  fi
fi
if systemctl --quiet is-active postgresql && systemctl --quiet is-enabled postgresql; then
  echo "unchanged: postgresql runs, now and after a reboot"
else
  systemctl --quiet enable --now postgresql
  echo "started: postgresql, now and after every reboot"
fi
