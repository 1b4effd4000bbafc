"""The commands a stand-in machine answers itself, put before the host's own on its ``PATH``.

They keep a script off the computer it really runs on (``sudo``, ``shutdown``, ``systemctl``), and
give the machine a life of its own (``reboot``, ``cloud-init status``, ``chronyc``, ``date``).
All are shell: starting Python costs twenty times as much. All run with bash 3.2, which is what
macOS has.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from slipway.clouds.local.faults import Faults, TimeService

#: Where a host keeps its own commands; the same on every supported system.
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SUDO = r"""#!/bin/bash
# The machine's user may do everything there is to do here, so sudo only runs the command.
while [ "$#" -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    -[ugpCDRTUhrt] | --user | --group | --prompt | --chdir | --host) shift 2 || exit 1 ;;
    -*) shift ;;
    [A-Za-z_]*=*) export "$1"; shift ;;
    *) break ;;
  esac
done
[ "$#" -gt 0 ] || exec /bin/bash
exec "$@"
"""

# The supervisor holds the other end of run/power, so a detached process can reboot as well.
_REBOOT = r"""#!/bin/sh
printf 'reboot 0\n' > "$SLIPWAY_ROOT/run/power"
"""

_POWEROFF = r"""#!/bin/sh
printf 'poweroff 0\n' > "$SLIPWAY_ROOT/run/power"
"""

_SHUTDOWN = r"""#!/bin/bash
action=poweroff
when=+1
for argument in "$@"; do
  case $argument in
    -r | --reboot) action=reboot ;;
    -c) printf 'cancel 0\n' > "$SLIPWAY_ROOT/run/power"; exit ;;
    now | +[0-9]*) when=$argument; break ;;
    [0-9]*:[0-9]*) echo "shutdown: use now or +minutes on a stand-in machine" >&2; exit 1 ;;
  esac
done
[ "$when" = now ] && when=0
printf '%s %s\n' "$action" $(( ${when#+} * 60 )) > "$SLIPWAY_ROOT/run/power"
"""

_HOSTNAME = r"""#!/bin/sh
exec cat "$SLIPWAY_ROOT/etc/hostname"
"""

_SYSTEMCTL = r"""#!/bin/bash
# No service manager runs here: it answers for what a stand-in machine has, and refuses the rest.
quiet=
words=()
for argument in "$@"; do
  case $argument in -q | --quiet) quiet=1 ;; -*) ;; *) words+=("$argument") ;; esac
done
verb=${words[0]:-}
unit=${words[1]:-}
unit=${unit%.service}
case $verb in
  reboot | poweroff) exec "$verb" ;;
  is-system-running) [ "$quiet" ] || echo running; exit 0 ;;
  is-active)
    state=inactive
    case $unit in
      ssh | sshd) state=active ;;
      chrony | chronyd) [ -e "$SLIPWAY_ROOT/run/chrony.pid" ] && state=active ;;
    esac
    [ "$quiet" ] || echo "$state"
    [ "$state" = active ]; exit $(( $? * 3 )) ;;
esac
echo "systemctl: no service manager on a stand-in machine (systemctl $*)" >&2
exit 1
"""

_CLOUD_INIT = r"""#!/bin/bash
if [ "${1:-}" = --version ]; then echo "/usr/bin/cloud-init 24.1-slipway-local"; exit; fi
if [ "${1:-}" != status ]; then
  echo "cloud-init: a stand-in machine only knows 'cloud-init status'" >&2; exit 2
fi
shift
format=tabular
wait=
while [ "$#" -gt 0 ]; do
  case $1 in
    --format) format=$2; shift ;;
    --format=*) format=${1#*=} ;;
    -l | --long) format=long ;;
    -w | --wait) wait=1 ;;
    *) echo "cloud-init status: error: unrecognized arguments: $1" >&2; exit 2 ;;
  esac
  shift
done
state="$SLIPWAY_ROOT/run/cloud-init"
if [ "$wait" ]; then
  until [ -e "$state/result.json" ]; do
    [ "$format" = json ] || printf .
    sleep 0.2
  done
  [ "$format" = json ] || echo
fi
# `current` is switched as a whole, so the text and the exit code belong together.
cd -P "$state/current" 2>/dev/null || { echo "status: not started"; exit 0; }
case $format in
  json | yaml) cat json ;;
  long) cat tabular long ;;
  *) cat tabular ;;
esac
read -r code < code
exit "$code"
"""

_TIMEDATECTL = r"""#!/bin/bash
synchronised=no
if [ -e "$SLIPWAY_ROOT/run/chrony.pid" ]; then
  read -r _ synced _ < "$SLIPWAY_ROOT/var/lib/chrony/state"
  [ "$synced" = 1 ] && synchronised=yes
fi
case "$*" in
  *timesync*)
    echo "Failed to query server: systemd-timesyncd is not running on a stand-in machine." >&2
    exit 1 ;;
  *show*--value* | *--value*show*) echo "$synchronised" ;;
  *show*) echo "NTPSynchronized=$synchronised" ;;
  set-*) echo "timedatectl: not on a stand-in machine" >&2; exit 1 ;;
  *) echo "System clock synchronized: $synchronised" ;;
esac
"""

# var/lib/chrony/state: clock offset in nanoseconds (machine minus true time), synchronised (1/0),
# makestep works (1/0).
_CHRONYC = r"""#!/bin/bash
csv=
while [ "$#" -gt 0 ]; do
  case $1 in
    -c) csv=1; shift ;;
    -[hpt]) shift 2 || exit 1 ;;
    -*) shift ;;
    *) break ;;
  esac
done
state="$SLIPWAY_ROOT/var/lib/chrony/state"
if ! [ -e "$SLIPWAY_ROOT/run/chrony.pid" ]; then echo "506 Cannot talk to daemon"; exit 1; fi
load() {
  read -r offset_ns synced cures < "$state"
  slow_ns=$(( -offset_ns ))
  size_ns=${slow_ns#-}
}
decimal() {
  local value=$1 sign=
  if [ "$value" -lt 0 ]; then sign=-; value=$(( -value )); fi
  printf '%s%d.%09d' "$sign" $(( value / 1000000000 )) $(( value % 1000000000 ))
}
to_ns() {
  local whole=${1%%.*} part=
  case $1 in *.*) part=${1#*.} ;; esac
  part=${part}000000000
  echo $(( ${whole:-0} * 1000000000 + 10#${part:0:9} ))
}
load
case ${1:-} in
  tracking)
    if [ "$csv" ]; then
      if [ "$synced" = 1 ]; then
        # Only the system time tells that a suspended guest is wrong: the rest looks perfect.
        printf 'C000027B,192.0.2.123,4,%s.000000000,%s,-0.000017090,0.000017090,' \
          "$(/bin/date +%s)" "$(decimal "$slow_ns")"
        echo "0.574,-0.035,3.977,0.000620307,0.000116208,8.2,Normal"
      else
        printf '00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,'
        echo "0.000,0.000,0.000,1.000000000,1.000000000,0.0,Not synchronised"
      fi
      exit
    fi
    direction=slow
    [ "$slow_ns" -lt 0 ] && direction=fast
    if [ "$synced" = 1 ]; then
      echo "Reference ID    : C000027B (192.0.2.123)"
      echo "Stratum         : 4"
      echo "Ref time (UTC)  : $(LC_ALL=C /bin/date -u '+%a %b %d %H:%M:%S %Y')"
      echo "System time     : $(decimal "$size_ns") seconds $direction of NTP time"
      echo "Last offset     : -0.000017090 seconds"
      echo "RMS offset      : 0.000017090 seconds"
      echo "Leap status     : Normal"
    else
      echo "Reference ID    : 00000000 ()"
      echo "Stratum         : 0"
      echo "Ref time (UTC)  : Thu Jan 01 00:00:00 1970"
      echo "System time     : 0.000000000 seconds fast of NTP time"
      echo "Last offset     : +0.000000000 seconds"
      echo "RMS offset      : 0.000000000 seconds"
      echo "Leap status     : Not synchronised"
    fi ;;
  makestep)
    if [ "$cures" = 1 ]; then
      echo "0 $synced $cures" > "$state.new" && mv "$state.new" "$state"
    fi
    echo "200 OK" ;;
  burst | online) echo "200 OK" ;;
  waitsync)
    tries=${2:-0}
    limit_ns=$(to_ns "${3:-0}")
    pause=${5:-10}
    attempt=1
    while :; do
      load
      refid=00000000
      correction_ns=0
      if [ "$synced" = 1 ]; then refid=C000027B; correction_ns=$size_ns; fi
      echo "try: $attempt, refid: $refid, correction: $(decimal "$correction_ns"), skew: 0.000"
      if [ "$synced" = 1 ]; then
        # As the real one: without a limit, any offset is good enough.
        if [ "$limit_ns" = 0 ] || [ "$correction_ns" -le "$limit_ns" ]; then exit 0; fi
      fi
      if [ "$tries" != 0 ] && [ "$attempt" -ge "$tries" ]; then exit 1; fi
      attempt=$(( attempt + 1 ))
      sleep "$pause"
    done ;;
  sources)
    if [ "$csv" ]; then
      if [ "$synced" = 1 ]; then
        echo "^,*,192.0.2.123,3,6,377,22,-0.000017090,-0.000017090,0.000100000"
      else
        echo "^,?,192.0.2.123,0,6,0,4294967295,0.000000000,0.000000000,0.000000000"
      fi
      exit
    fi
    echo "MS Name/IP address         Stratum Poll Reach LastRx Last sample"
    echo "==============================================================================="
    if [ "$synced" = 1 ]; then
      echo "^* 192.0.2.123                   3   6   377    22    -17us[  -17us] +/-  100us"
    else
      echo "^? 192.0.2.123                   0   6     0     -     +0ns[   +0ns] +/-    0ns"
    fi ;;
  *) echo "Unrecognized command"; exit 1 ;;
esac
"""

_DATE = r"""#!/bin/bash
# The machine's clock: the host's, moved by the offset that makestep sets to nothing.
offset_ns=0
state="$SLIPWAY_ROOT/var/lib/chrony/state"
[ -e "$state" ] && read -r offset_ns _ < "$state"
for argument in "$@"; do
  case $argument in
    # A date that the caller gives has nothing to do with the clock.
    -d* | --date* | -r* | --reference* | -f* | --file* | -j*) exec /bin/date "$@" ;;
    -s* | --set*) echo "date: cannot set date: Operation not permitted" >&2; exit 1 ;;
  esac
done
if [ -n "${EPOCHREALTIME:-}" ]; then
  now_ns=$(( ${EPOCHREALTIME/[.,]/} * 1000 ))
else
  # bash 3.2 has no clock finer than a second, and neither has the date of macOS.
  now_ns=$(/usr/bin/perl -MTime::HiRes=time -e 'printf "%.0f", time() * 1e6')000
fi
now_ns=$(( now_ns + offset_ns ))
seconds=$(( now_ns / 1000000000 ))
fraction=$(printf %09d $(( now_ns % 1000000000 )) )
if [ "$#" = 1 ] && [ "$1" = "+%s.%N" ]; then echo "$seconds.$fraction"; exit; fi
arguments=()
for argument in "$@"; do arguments+=("${argument//%N/$fraction}"); done
if [ "$(uname)" = Darwin ]; then
  exec /bin/date -r "$seconds" ${arguments[@]+"${arguments[@]}"}
fi
exec /bin/date -d "@$seconds" ${arguments[@]+"${arguments[@]}"}
"""

_ABSENT = r"""#!/bin/sh
# The host has this command, and it would speak of the host.
echo "bash: ${0##*/}: command not found" >&2
exit 127
"""

_SETS: dict[str, dict[str, str]] = {
    "base": {
        "sudo": _SUDO,
        "reboot": _REBOOT,
        "poweroff": _POWEROFF,
        "halt": _POWEROFF,
        "shutdown": _SHUTDOWN,
        "hostname": _HOSTNAME,
        "systemctl": _SYSTEMCTL,
        "cloud-init": _CLOUD_INIT,
        "timedatectl": _TIMEDATECTL,
    },
    "chrony": {"chronyc": _CHRONYC},
    "clock": {"date": _DATE},
    "no-chrony": {"chronyc": _ABSENT},
    "no-ntp": {"ntpq": _ABSENT, "ntpdate": _ABSENT},
}


class Shims:
    """The commands of all machines of one local cloud, written once."""

    def __init__(self, directory: Path) -> None:
        digest = hashlib.sha256(repr(_SETS).encode()).hexdigest()[:12]
        self._directory = directory / digest
        self._host_has = {
            name for name in ("chronyc", "ntpq", "ntpdate") if shutil.which(name, path=HOST_PATH)
        }

    def install(self) -> None:
        """Write the commands; harmless when they are there. Called by the supervisor alone."""
        for set_name, commands in _SETS.items():
            folder = self._directory / set_name
            folder.mkdir(parents=True, exist_ok=True)
            for name, body in commands.items():
                path = folder / name
                path.write_text(body)
                path.chmod(0o755)

    def path(self, root: Path, faults: Faults) -> str:
        """The ``PATH`` of every process on a machine with these faults."""
        sets = ["base"]
        if faults.time_service is not TimeService.NONE:
            sets.append("chrony")
        elif "chronyc" in self._host_has:
            sets.append("no-chrony")
        if self._host_has & {"ntpq", "ntpdate"}:
            sets.append("no-ntp")
        if faults.clock_offset_s or sys.platform == "darwin":
            sets.append("clock")
        # The interpreter that runs Slipway comes last: for scripts that need a Python at all.
        return ":".join(
            [
                f"{root}/usr/local/bin",
                *(str(self._directory / each) for each in sets),
                HOST_PATH,
                str(Path(sys.executable).parent),
            ]
        )
