#!/usr/bin/env bash
# ---
# name: Drain the application
# description: Takes no new requests, finishes those in hand, ends the application.
# inputs: {}
# packages: []
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

if [ -n "$root" ]; then
  prog="$root/usr/local/lib/app-server/app_server.py"
  # A launch can end before its first script ran, and still has to be decommissioned.
  if [ ! -f "$prog" ]; then
    echo "unchanged: the application was never installed here"
    exit 0
  fi
  exec "${SLIPWAY_PYTHON:-python3}" "$prog" stop
fi

if ! systemctl cat app-server >/dev/null 2>&1; then
  echo "unchanged: the application was never installed here"
elif systemctl --quiet is-active app-server || systemctl --quiet is-enabled app-server; then
  systemctl --quiet disable --now app-server
  echo "stopped: app-server, now and after a reboot"
else
  echo "unchanged: app-server does not run"
fi
