#!/usr/bin/env bash
# ---
# name: Back up
# description: Dumps the database to /var/backups/postgresql, proves it readable, keeps the newest.
# inputs:
#   DB_NAME: {type: text, default: app, description: The database to dump.}
#   DB_PORT: {type: int, default: 5432, description: TCP port PostgreSQL listens on.}
#   BACKUP_KEEP: {type: int, default: 7, min: 1, description: How many dumps are kept.}
# packages: []
# timeout: 3600
# retry_safe: true
# ...
#
# A dump on the server it came from is half a backup: copy it elsewhere.
set -euo pipefail
umask 077

root="${SLIPWAY_ROOT:-}"
name="${DB_NAME:-app}"
port="${DB_PORT:-5432}"
keep="${BACKUP_KEEP:-7}"
directory=/var/backups/postgresql
file="$directory/$name-$(date -u +%Y%m%dT%H%M%SZ)-$$.dump"

mkdir -p "$root$directory"
if [ -n "$root" ]; then
  home="$root/var/lib/postgresql"
  bindir="$(cat "$home/bindir")"
  PGPASSWORD="$(cat "$home/superuser-password")"
  export PGPASSWORD
  dump() {
    "$bindir/pg_dump" --host="${SLIPWAY_ADDRESS:-127.0.0.1}" --port="$port" --username=postgres "$@"
  }
  restore="$bindir/pg_restore"
else
  dump() { (cd / && runuser -u postgres -- pg_dump --port="$port" "$@"); }
  restore=pg_restore
fi

trap 'rm -f "$root$file.part"' EXIT
dump --format=custom --dbname="$name" >"$root$file.part"
"$restore" --list "$root$file.part" >/dev/null
mv "$root$file.part" "$root$file"
echo "wrote: $file ($(wc -c <"$root$file" | tr -d ' ') bytes)"
if [ -n "${SLIPWAY_OUTPUT:-}" ]; then
  printf 'backup=%s\n' "$file" >>"$SLIPWAY_OUTPUT"
fi

# The time is in the name, so the names sort by age.
total="$(find "$root$directory" -name "$name-*.dump" | wc -l | tr -d ' ')"
if [ "$total" -gt "$keep" ]; then
  find "$root$directory" -name "$name-*.dump" | sort | head -n "$((total - keep))" |
    while IFS= read -r old; do
      rm -f "$old"
      echo "removed: ${old#"$root"}"
    done
fi
