#!/usr/bin/env bash
# ---
# name: Set the greeting
# description: Changes the headline of the running page; the next request shows it.
# inputs:
#   GREETING: {type: text, default: Hello, description: The headline of the page.}
# packages: []
# timeout: 30
# retry_safe: true
# ...
set -euo pipefail
umask 022

exec "${SLIPWAY_PYTHON:-python3}" \
  "${SLIPWAY_ROOT:-}/usr/local/lib/hello-web/hello_web.py" configure --only-greeting
