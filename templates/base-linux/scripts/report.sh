#!/usr/bin/env bash
# ---
# name: Report
# description: Prints what this layer is responsible for, as it is now; changes nothing.
# inputs: {}
# packages: []
# timeout: 60
# retry_safe: true
# ...
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

echo "server: ${SLIPWAY_SERVER_NAME:-unknown} (${SLIPWAY_TEMPLATE:-unknown template})"
if [ -f "$root/etc/os-release" ]; then
  echo "system: $(. "$root/etc/os-release" && printf '%s' "${PRETTY_NAME:-unknown}")"
else
  echo "system: a stand-in machine on $(uname -s) $(uname -r)"
fi
if [ -s "$root/var/lib/slipway/accounts" ]; then
  while IFS= read -r name; do
    home="$root/home/$name"
    if [ -z "$root" ]; then
      home="$(getent passwd "$name" | cut -d : -f 6)"
    fi
    if [ -s "$home/.ssh/authorized_keys" ]; then
      echo "account: $name, $(grep -c . "$home/.ssh/authorized_keys") key(s)"
    else
      echo "account: $name, no key any more"
    fi
  done <"$root/var/lib/slipway/accounts"
else
  echo "account: none from this template"
fi
echo "disk:"
df -hP "${root:-/}"
if [ -n "$root" ]; then
  echo "left out: clock and services, which a stand-in machine shares with its computer"
  exit 0
fi
if command -v chronyc >/dev/null 2>&1; then
  echo "clock:"
  chronyc -n tracking
fi
echo "failed units:"
systemctl --no-legend --plain list-units --state=failed
