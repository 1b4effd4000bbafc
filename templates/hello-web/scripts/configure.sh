#!/usr/bin/env bash
# ---
# name: Configure hello-web
# description: Writes the page's data; reaches the upstream, if one is given, from this server.
# inputs:
#   GREETING: {type: text, default: Hello, description: The headline of the page.}
#   COLOR:
#     type: choice
#     of: [indigo, teal, amber, rose, slate]
#     default: indigo
#     description: The colour behind the headline.
#   PORT: {type: int, default: 8080, description: TCP port the page is served on.}
#   UPSTREAM:
#     type: text
#     default: ""
#     description: URL (or address, or address:port) of a page this server must reach.
#   UPSTREAM_HOST:
#     type: env
#     required: false
#     description: The same, taken from another server, such as web-1.private_ip or web-1.url.
#   API_TOKEN:
#     type: secret
#     required: false
#     description: Whoever holds it may read /inputs.json; only its SHA-256 is kept.
# packages: []
# timeout: 180
# retry_safe: true
# ...
set -euo pipefail
umask 022

exec "${SLIPWAY_PYTHON:-python3}" \
  "${SLIPWAY_ROOT:-}/usr/local/lib/hello-web/hello_web.py" configure
