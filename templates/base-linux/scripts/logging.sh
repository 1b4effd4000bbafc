#!/usr/bin/env bash
# ---
# name: Logging
# description: Logs outlive a reboot, never fill the disk, and go to a log server if one is given.
# inputs:
#   JOURNAL_MAX_MIB:
#     type: int
#     default: 512
#     description: The most the journal may take on disk, in MiB.
#   LOG_HOST:
#     type: text
#     default: ""
#     description: Log server as host or host:port (TCP syslog, port 514); empty keeps logs here.
# packages: [rsyslog]
# timeout: 600
# retry_safe: true
# ...
set -euo pipefail
umask 022

root="${SLIPWAY_ROOT:-}"
max_mib="${JOURNAL_MAX_MIB:-512}"
log_host="${LOG_HOST:-}"
forward=/etc/rsyslog.d/90-slipway-forward.conf

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

case "$max_mib" in
  *[!0-9]* | '' | 0) echo "JOURNAL_MAX_MIB must be a number of MiB, not '$max_mib'" >&2; exit 2 ;;
esac
port=514
host="$log_host"
case "$log_host" in
  \[*\]:*) port="${log_host##*:}"; host="${log_host%]:*}"; host="${host#[}" ;;
  *:*:*) ;;
  *:*) port="${log_host##*:}"; host="${log_host%:*}" ;;
esac
case "$host" in
  *[!A-Za-z0-9.:-]*)
    echo "LOG_HOST must be a host or host:port, not '$log_host'" >&2; exit 2 ;;
esac
case "$port" in
  *[!0-9]* | '') echo "LOG_HOST: '$port' is no port; write host or host:port" >&2; exit 2 ;;
esac

mkdir -p "$root/var/log/journal"
put_file /etc/systemd/journald.conf.d/50-slipway.conf 0644 <<CONF
# Written by the template base-linux from its input JOURNAL_MAX_MIB.
[Journal]
Storage=persistent
SystemMaxUse=${max_mib}M
SystemKeepFree=256M
CONF
journald="$wrote"

wrote=no
if [ -n "$host" ]; then
  if [ -z "$root" ] && ! command -v rsyslogd >/dev/null 2>&1; then
    if command -v apt-get >/dev/null 2>&1; then
      export DEBIAN_FRONTEND=noninteractive
      apt-get -qq -o DPkg::Lock::Timeout=300 update
      apt-get -qq -y -o DPkg::Lock::Timeout=300 install rsyslog >/dev/null
    else
      dnf -q -y install rsyslog >/dev/null
    fi
    echo "installed: rsyslog"
  fi
  # The queue goes to disk while the log server is away: at most 256 MiB, and nothing blocks.
  put_file "$forward" 0644 <<CONF
# Written by the template base-linux from its input LOG_HOST.
action(type="omfwd" target="$host" port="$port" protocol="tcp"
  action.resumeRetryCount="-1"
  queue.type="LinkedList" queue.filename="slipway-forward"
  queue.maxDiskSpace="256m" queue.saveOnShutdown="on" queue.timeoutEnqueue="0")
CONF
elif [ -e "$root$forward" ]; then
  rm -f "$root$forward"
  wrote=yes
  echo "removed: $forward"
fi

if [ -n "$root" ]; then
  echo "left out: restarting journald and rsyslog, because a stand-in machine runs neither"
  exit 0
fi
if [ "$journald" = yes ]; then
  systemctl restart systemd-journald
  journalctl --flush
  echo "restarted: systemd-journald"
fi
if [ -n "$host" ]; then
  # Asked of rsyslog itself: one bad line in any of its files would stop all logging.
  rsyslogd -N1 >/dev/null
  systemctl --quiet enable rsyslog
fi
if [ "$wrote" = yes ] && command -v rsyslogd >/dev/null 2>&1; then
  systemctl restart rsyslog
  echo "restarted: rsyslog"
fi
