#!/usr/bin/env bash
# ---
# name: hello-web is healthy
# description: Its page answers with 200 on the server's own network address.
# inputs:
#   PORT: {type: int, default: 8080, description: TCP port the page is served on.}
# packages: []
# timeout: 60
# retry_safe: true
# ...
#
# From the server itself, and not as an HTTP check from outside: the port is an input, and on a
# stand-in machine it is another one where the wanted port is taken.
set -euo pipefail

root="${SLIPWAY_ROOT:-}"

# The address other servers reach this one at; the loopback where it has none.
first_ipv4() {
  hostname -I | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /[.]/) { print $i; found = 1; exit } }
    END { if (!found) print "127.0.0.1" }'
}

if [ -n "$root" ]; then
  where="$(cat "$root/run/hello-web/listen")"
else
  where="${SLIPWAY_ADDRESS:-$(first_ipv4)}:${PORT:-8080}"
fi
exec "${SLIPWAY_PYTHON:-python3}" - "http://$where/" <<'PYTHON'
import sys, urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(sys.argv[1], timeout=5) as answer:
        print(f"checked: {sys.argv[1]} answers HTTP {answer.status}")
except OSError as error:
    sys.exit(f"{sys.argv[1]} does not answer: {error}")
PYTHON
