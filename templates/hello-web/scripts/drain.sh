#!/usr/bin/env bash
# ---
# name: Drain hello-web
# description: Takes no new requests, finishes those in hand, ends the server and keeps it ended.
# inputs: {}
# packages: []
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

if [ -n "$root" ]; then
  prog="$root/usr/local/lib/hello-web/hello_web.py"
  # A launch can end before its first script ran, and still has to be decommissioned.
  if [ ! -f "$prog" ]; then
    echo "unchanged: hello-web was never installed here"
    exit 0
  fi
  exec "${SLIPWAY_PYTHON:-python3}" "$prog" stop
fi

if ! systemctl cat hello-web >/dev/null 2>&1; then
  echo "unchanged: hello-web was never installed here"
elif systemctl --quiet is-active hello-web || systemctl --quiet is-enabled hello-web; then
  systemctl --quiet disable --now hello-web
  echo "stopped: hello-web, now and after a reboot"
else
  echo "unchanged: hello-web does not run"
fi
