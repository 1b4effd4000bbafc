#!/bin/sh
# Slipway: fetches this server's agent, checks it, and starts it. The agent then calls us and does
# what it is told. The token works once, from this instance only.
set -eu
umask 077
dir=${SLIPWAY_ROOT:-}/var/lib/slipway/agent
mkdir -p "$dir"
cat >"$dir/config.new" <<'SLIPWAY_CONFIG'
@CONFIG@
SLIPWAY_CONFIG
python=
for each in python3 /usr/libexec/platform-python python; do
  if command -v "$each" >/dev/null 2>&1 &&
    "$each" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null; then
    python=$(command -v "$each")
    break
  fi
done
if [ -z "$python" ]; then
  echo "slipway: the agent needs Python 3.6 or newer, and this server has none" >&2
  exit 1
fi
"$python" - "$dir" <<'SLIPWAY_FETCH'
import hashlib, json, os, ssl, sys, time, urllib.request
folder = sys.argv[1]
with open(folder + "/config.new") as file:
    told = json.load(file)
context = None
if told["api"].startswith("https:"):
    context = ssl.create_default_context(cadata=told["ca"] or None)
url = told["api"] + "/agent/v1/agent.py?sha256=" + told["program"]
end, pause = time.monotonic() + 7200, 0.5
while True:
    try:
        with urllib.request.urlopen(url, timeout=30, context=context) as answer:
            program = answer.read(1000000)
        found = hashlib.sha256(program).hexdigest()
        if found == told["program"]:
            break
        trouble = "it has SHA-256 " + found + ", not " + told["program"]
    except (OSError, ValueError) as error:
        trouble = str(error)
    if time.monotonic() > end:
        sys.exit("slipway: the agent could not be fetched from " + url + ": " + trouble)
    time.sleep(pause)
    pause = min(pause * 2, 30)
with open(folder + "/slipway_agent.new", "wb") as file:
    file.write(program)
    file.flush()
    os.fsync(file.fileno())
os.rename(folder + "/slipway_agent.new", folder + "/slipway_agent.py")
SLIPWAY_FETCH
exec "$python" "$dir/slipway_agent.py" install
