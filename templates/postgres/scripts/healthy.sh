#!/usr/bin/env bash
# ---
# name: PostgreSQL is healthy
# description: The application's role logs in over the network address and runs a query.
# inputs:
#   DB_NAME: {type: text, default: app, description: The database to make.}
#   DB_USER: {type: text, default: app, description: The role that owns it.}
#   DB_PASSWORD: {type: secret, description: That role's password.}
#   DB_PORT: {type: int, default: 5432, description: TCP port PostgreSQL listens on.}
# packages: []
# timeout: 60
# retry_safe: true
# ...
#
# From the server itself, and not as a TCP check from outside: a database's port is rightly closed
# to whoever launches it, and an open port says nothing about logging in.
set -euo pipefail

root="${SLIPWAY_ROOT:-}"
psql=psql
address=127.0.0.1
if [ -n "$root" ]; then
  psql="$(cat "$root/var/lib/postgresql/bindir")/psql"
  address="${SLIPWAY_ADDRESS:-127.0.0.1}"
fi
PGPASSWORD="$DB_PASSWORD" PGCONNECT_TIMEOUT=5 "$psql" -X -q -At --host="$address" \
  --port="${DB_PORT:-5432}" --username="${DB_USER:-app}" --dbname="${DB_NAME:-app}" \
  -c 'SELECT 1' >/dev/null
echo "checked: ${DB_USER:-app} logs in to ${DB_NAME:-app} on $address:${DB_PORT:-5432}"
