#!/usr/bin/env bash
# ---
# name: Time servers
# description: chrony keeps this server's clock by the servers given; the image's own if none are.
# inputs:
#   TIME_SERVERS:
#     type: list
#     default: []
#     description: NTP servers by name or address; empty keeps what the image came with.
# packages: [chrony]
# timeout: 600
# retry_safe: true
# ...
#
# One daemon on every distribution, because the clock gate can ask chrony how far off it is now.
# The whole file is ours: drop-in directories differ between distributions, and a pool line left
# over in the image's file would go on being used beside the servers asked for.
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"

put_file() {
  local dest="$root$1" new
  mkdir -p "$(dirname "$dest")"
  new="$(mktemp "$dest.XXXXXX")"
  cat >"$new"
  chmod "$2" "$new"
  wrote=no
  if [ -f "$dest" ] && cmp -s "$new" "$dest"; then
    rm -f "$new"
    chmod "$2" "$dest"
    echo "unchanged: $1"
  else
    mv -f "$new" "$dest"
    wrote=yes
    echo "wrote: $1"
  fi
}

servers=""
while IFS= read -r server; do
  [ -n "$server" ] || continue
  case "$server" in
    *[!A-Za-z0-9.:-]*)
      echo "TIME_SERVERS: '$server' is neither a host name nor an address" >&2
      exit 2
      ;;
  esac
  servers="$servers $server"
done <<LIST
${TIME_SERVERS:-}
LIST

if [ -z "$servers" ]; then
  echo "unchanged: TIME_SERVERS is empty, the image's own time service stays as it is"
  exit 0
fi

family=debian
if [ -f "$root/etc/os-release" ]; then
  family="$(. "$root/etc/os-release" && printf '%s %s' "${ID:-}" "${ID_LIKE:-}")"
fi
case " $family " in
  *" debian "* | *" ubuntu "*)
    conf=/etc/chrony/chrony.conf
    service=chrony
    if [ -z "$root" ] && ! command -v chronyd >/dev/null 2>&1; then
      export DEBIAN_FRONTEND=noninteractive
      apt-get -qq -o DPkg::Lock::Timeout=300 update
      # Debian allows one time service: this removes systemd-timesyncd.
      apt-get -qq -y -o DPkg::Lock::Timeout=300 install chrony >/dev/null
      echo "installed: chrony"
    fi
    ;;
  *)
    conf=/etc/chrony.conf
    service=chronyd
    if [ -z "$root" ] && ! command -v chronyd >/dev/null 2>&1; then
      dnf -q -y install chrony >/dev/null
      echo "installed: chrony"
    fi
    ;;
esac

# What the image came with, once, for whoever wants to go back.
ours="# Written by the template base-linux from its input TIME_SERVERS."
if [ -f "$root$conf" ] && [ ! -e "$root$conf.image" ] && ! grep -qxF "$ours" "$root$conf"; then
  cp -p "$root$conf" "$root$conf.image"
  echo "kept: $conf.image, the image's own file"
fi

# The first three updates may jump; after that a running database must not see time go back. A clock
# that is wrong later is the clock gate's business, which steps it with chronyc.
lines="$(for server in $servers; do echo "server $server iburst"; done)"
put_file "$conf" 0644 <<CONF
$ours
$lines
driftfile /var/lib/chrony/drift
makestep 1 3
rtcsync
CONF

if [ -n "$root" ]; then
  echo "left out: chronyd, because a stand-in machine has the clock of the computer it runs on"
  exit 0
fi

systemctl --quiet enable "$service"
if [ "$wrote" = yes ] || ! systemctl --quiet is-active "$service"; then
  systemctl restart "$service"
  echo "restarted: $service"
fi
# With a bound: without one waitsync is content with any offset.
if ! chronyc waitsync 60 0.5 0 1 >/dev/null; then
  echo "the clock is not within 0.5 s of any of:$servers after 60 s; what chrony sees:" >&2
  chronyc -n sources >&2 || true
  exit 1
fi
echo "checked: the clock is within 0.5 s of its time servers"
