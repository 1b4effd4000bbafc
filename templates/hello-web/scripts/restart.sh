#!/usr/bin/env bash
# ---
# name: Restart hello-web
# description: Ends the page server and starts it again; requests in hand are finished first.
# inputs: {}
# packages: []
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
python="${SLIPWAY_PYTHON:-python3}"
prog="$root/usr/local/lib/hello-web/hello_web.py"

if [ -n "$root" ]; then
  "$python" "$prog" stop
  env -u API_TOKEN "$python" "$prog" start --address "${SLIPWAY_ADDRESS:-127.0.0.1}"
  # The port can be another one now: it is chosen again where the wanted one is taken.
  if [ -n "${SLIPWAY_OUTPUT:-}" ]; then
    printf 'url=%s\n' "http://$(cat "$root/run/hello-web/listen")/" >>"$SLIPWAY_OUTPUT"
  fi
else
  systemctl restart hello-web
  echo "restarted: hello-web"
fi
