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
if [ -n "$root" ]; then
  where="$(cat "$root/run/hello-web/listen")"
else
  where="${SLIPWAY_ADDRESS:-$(hostname -I | cut -d ' ' -f 1)}:${PORT:-8080}"
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
