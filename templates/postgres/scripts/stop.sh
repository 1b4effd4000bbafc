#!/usr/bin/env bash
# ---
# name: Stop PostgreSQL
# description: Ends PostgreSQL in good order, so that its disk can be kept, and keeps it ended.
# inputs: {}
# packages: []
# timeout: 180
# retry_safe: true
# ...
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

if [ -n "$root" ]; then
  home="$root/var/lib/postgresql"
  # A launch can end before its first script ran, and still has to be decommissioned.
  if [ ! -f "$home/data/PG_VERSION" ]; then
    echo "unchanged: there is no cluster here"
    exit 0
  fi
  bindir="$(cat "$home/bindir")"
  if "$bindir/pg_ctl" --pgdata="$home/data" status >/dev/null; then
    "$bindir/pg_ctl" --pgdata="$home/data" --silent --wait --mode=fast stop
    echo "stopped: PostgreSQL"
  else
    echo "unchanged: PostgreSQL does not run"
  fi
  exit 0
fi

if systemctl --quiet is-active postgresql || systemctl --quiet is-enabled postgresql; then
  systemctl --quiet disable --now postgresql
  echo "stopped: postgresql, now and after a reboot"
else
  echo "unchanged: postgresql does not run"
fi
