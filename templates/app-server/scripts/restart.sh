#!/usr/bin/env bash
# ---
# name: Restart the application
# description: Ends the application and starts it again; requests in hand are finished first.
# inputs: {}
# packages: []
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
python="${SLIPWAY_PYTHON:-python3}"

if [ -n "$root" ]; then
  "$python" "$root/usr/local/lib/app-server/app_server.py" stop
  env -u DB_PASSWORD "$python" "$root/usr/local/lib/app-server/app_server.py" start
else
  systemctl restart app-server
  echo "restarted: app-server"
fi
