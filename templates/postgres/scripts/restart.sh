#!/usr/bin/env bash
# ---
# name: Restart PostgreSQL
# description: Ends PostgreSQL in good order and starts it again; connections are cut.
# inputs: {}
# packages: []
# timeout: 180
# retry_safe: true
# ...
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

if [ -z "$root" ]; then
  systemctl restart postgresql
  echo "restarted: postgresql"
  exit 0
fi
home="$root/var/lib/postgresql"
bindir="$(cat "$home/bindir")"
if "$bindir/pg_ctl" --pgdata="$home/data" status >/dev/null; then
  "$bindir/pg_ctl" --pgdata="$home/data" --silent --wait --mode=fast stop
fi
# Away from our own pipes: the server outlives this script and whoever reads its output.
if ! "$bindir/pg_ctl" --pgdata="$home/data" --log="$root/var/log/postgresql.log" --silent --wait \
  start </dev/null >/dev/null 2>&1; then
  echo "PostgreSQL did not start; the end of its log:" >&2
  tail -n 5 "$root/var/log/postgresql.log" >&2
  exit 1
fi
echo "restarted: PostgreSQL"
