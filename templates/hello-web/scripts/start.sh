#!/usr/bin/env bash
# ---
# name: Start hello-web
# description: Starts the page server, now and after every reboot, and publishes its address.
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

# The address other servers reach this one at; the loopback where it has none.
first_ipv4() {
  hostname -I | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /[.]/) { print $i; found = 1; exit } }
    END { if (!found) print "127.0.0.1" }'
}

if [ -n "$root" ]; then
  # The environment of a process can be read while it runs: the secret stays out of it.
  env -u API_TOKEN "$python" "$prog" start --address "${SLIPWAY_ADDRESS:-127.0.0.1}"
  where="$(cat "$root/run/hello-web/listen")"
  echo "left out: starting it after a reboot, because a stand-in machine has no service manager" \
    "and its cloud runs no rc.local; after a reboot run the operational script restart"
else
  if systemctl --quiet is-active hello-web && systemctl --quiet is-enabled hello-web; then
    echo "unchanged: hello-web runs, now and after a reboot"
  else
    systemctl --quiet enable --now hello-web
    echo "started: hello-web, now and after every reboot"
  fi
  address="${SLIPWAY_ADDRESS:-$(first_ipv4)}"
  port="$("$python" -c 'import json; print(json.load(open("/etc/hello-web/page.json"))["port"])')"
  where="$address:$port"
fi

# systemd says "started" before the socket listens, and a stand-in's process has only just forked:
# ask for the page itself.
"$python" - "http://$where/healthz" <<'PYTHON'
import sys, time, urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = time.monotonic() + 20
while True:
    try:
        with opener.open(sys.argv[1], timeout=2) as answer:
            print(f"checked: {sys.argv[1]} answers HTTP {answer.status}")
            break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{sys.argv[1]} does not answer: {error}")
        time.sleep(0.1)
PYTHON

if [ -n "${SLIPWAY_OUTPUT:-}" ]; then
  printf 'url=%s\n' "http://$where/" >>"$SLIPWAY_OUTPUT"
fi
echo "page: http://$where/"
