"""When a Linux server is ready.

One SSH command reads everything at once, so a probe costs one connection. What is asked for, and
why, was learned from what others' users suffered: cloud-init that says "error" for something
harmless, package locks held by the distribution's own timers, a machine that is up and then
reboots once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from fnmatch import fnmatchcase

from slipway.gates.wait import Answer, Facts, Finding, Gate, Need, Reading, Signal
from slipway.remote.base import Command, Connector, Endpoint, Remote

#: POSIX sh; prints ``key=value`` lines and never fails because a tool is missing. Needs no root.
LINUX_PROBE = r"""
r=${SLIPWAY_ROOT:-}
b=
for f in "$r/proc/sys/kernel/random/boot_id" /proc/sys/kernel/random/boot_id; do
  if [ -r "$f" ]; then IFS= read -r b <"$f"; break; fi
done
[ -n "$b" ] || b=$(sysctl -n kern.bootsessionuuid 2>/dev/null)
echo "boot_id=$b"
u=
[ ! -r /proc/uptime ] || read -r u f </proc/uptime
echo "uptime_s=$u"
echo "user=$(id -un)"
if command -v cloud-init >/dev/null 2>&1; then
  o=$(cloud-init status --format json 2>/dev/null)
  c=$?
  # Releases before 22.1 do not know --format.
  [ -n "$o" ] || { o=$(cloud-init status 2>/dev/null); c=$?; }
  echo "cloud_init_exit=$c"
  echo "cloud_init=$(printf '%s' "$o" | tr '\n' ' ')"
fi
# fcntl locks, which flock(1) does not see; /proc/locks needs no root, fuser does.
l=free
for f in dpkg/lock-frontend dpkg/lock apt/lists/lock rpm/.rpm.lock; do
  p=$r/var/lib/$f
  [ -e "$p" ] || continue
  if [ -r /proc/locks ]; then
    i=$(ls -i "$p" 2>/dev/null)
    i=${i#"${i%%[! ]*}"}
    e="s/^[0-9]*: *[A-Z]* *[A-Z]* *WRITE *\([0-9]*\) [0-9a-f:]*:${i%% *} .*/\1/p"
    h=$(sed -n "$e" /proc/locks)
  elif command -v fuser >/dev/null 2>&1; then
    h=$(fuser "$p" 2>/dev/null)
  else
    h= l=unknown
  fi
  h=$(echo $h)
  if [ -n "$h" ]; then
    l="held: $p by process $h"
    n=$(ps -o comm= -p "${h%% *}" 2>/dev/null) && l="$l ($n)"
    break
  fi
done
echo "package_lock=$l"
if command -v systemctl >/dev/null 2>&1; then
  echo "systemd=$(systemctl is-system-running 2>/dev/null)"
fi
if [ -r /proc/mounts ]; then
  o=$(sed -n 's/^[^ ]* \/ [^ ]* \([^ ]*\) .*/\1/p' /proc/mounts | tail -n 1)
  case ,$o, in *,ro,*) echo root_disk=read-only ;; *) echo root_disk=writable ;; esac
fi
echo probe=complete
"""


def read_facts(stdout: str) -> dict[str, str]:
    """The probe's ``key=value`` lines; anything else (a login shell's greeting) is passed over."""
    pairs = (line.partition("=") for line in stdout.splitlines())
    return {key: value.strip() for key, equals, value in pairs if equals and key.isidentifier()}


def read_boot(facts: Facts) -> Finding:
    """Whether the machine names its boot."""
    boot = facts.get("boot_id", "")
    return Finding(answer=Answer.YES if boot else Answer.NOT_YET, value=boot)


def read_probe(facts: Facts) -> Finding:
    """Whether the probe came to its end."""
    value = facts.get("probe", "cut off")
    return Finding(answer=Answer.YES if value == "complete" else Answer.NOT_YET, value=value)


def read_cloud_init(facts: Facts, ignore_errors: tuple[str, ...] = ()) -> Finding:
    """Whether cloud-init has finished, without errors other than the ignored ones.

    Reads ``cloud-init status --format json`` (``extended_status``, ``errors``) and falls back to
    the plain ``status: done`` of old releases. ``degraded done`` (exit code 2: recoverable errors
    only) is done.
    """
    text = facts.get("cloud_init")
    if text is None:
        return Finding(answer=Answer.ABSENT, value="not installed")
    errors: list[str] = []
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return Finding(answer=Answer.NOT_YET, value="unreadable")
        status = str(document.get("extended_status") or document.get("status") or "")
        errors = [str(error) for error in document.get("errors") or ()]
    else:
        status = text.partition("status:")[2].strip().partition("  ")[0]
    if not status:
        return Finding(answer=Answer.NOT_YET, value="silent")
    fatal = [
        error
        for error in errors
        if not any(fnmatchcase(error.lower(), pattern.lower()) for pattern in ignore_errors)
    ]
    failed = "error" in status
    if fatal or (failed and not errors):
        value = f"{status} ({'; '.join(fatal)})" if fatal else status
        return Finding(answer=Answer.NEVER, value=value)
    if "running" in status:
        return Finding(answer=Answer.NOT_YET, value=status)
    if failed or "done" in status or status == "disabled":
        ignored = f" (ignored: {'; '.join(errors)})" if errors else ""
        return Finding(answer=Answer.YES, value=status + ignored)
    return Finding(answer=Answer.NOT_YET, value=status)


def read_package_lock(facts: Facts) -> Finding:
    """Whether somebody holds the package manager's lock, as apt's own timers do after a boot."""
    value = facts.get("package_lock", "")
    if not value:
        return Finding(answer=Answer.ABSENT, value="not told")
    held = value.startswith("held")
    return Finding(answer=Answer.NOT_YET if held else Answer.YES, value=value)


def read_systemd(facts: Facts) -> Finding:
    """What systemd thinks of the boot as a whole."""
    value = facts.get("systemd", "")
    if not value or value == "offline":
        return Finding(answer=Answer.ABSENT, value=value or "not installed")
    return Finding(answer=Answer.YES if value == "running" else Answer.NOT_YET, value=value)


def read_root_disk(facts: Facts) -> Finding:
    """Whether the root file system takes writes."""
    value = facts.get("root_disk", "")
    if not value:
        return Finding(answer=Answer.ABSENT, value="not told")
    return Finding(answer=Answer.YES if value == "writable" else Answer.NOT_YET, value=value)


LINUX = Gate(
    name="linux-ready",
    signals=(
        Signal(
            name="probe",
            need=Need.REQUIRED,
            read=read_probe,
            meaning="the login works but the probe's output is incomplete",
            remedy="see that the login shell is a POSIX shell and prints nothing odd",
        ),
        Signal(
            name="boot",
            need=Need.REQUIRED,
            read=read_boot,
            meaning="the machine does not say which boot this is, so a reboot would go unseen",
            remedy="see that /proc/sys/kernel/random/boot_id can be read",
        ),
        Signal(
            name="cloud-init",
            need=Need.WHERE_PRESENT,
            read=read_cloud_init,
            meaning="first-boot setup has not ended well",
            remedy="read /var/log/cloud-init-output.log; list harmless errors in the template",
        ),
        Signal(
            name="package-lock",
            need=Need.WHERE_PRESENT,
            read=read_package_lock,
            meaning="another program is installing packages, so our scripts would collide with it",
            remedy="wait longer, or switch off unattended upgrades in the image",
        ),
        Signal(
            name="systemd",
            need=Need.HINT,
            read=read_systemd,
            meaning="some unit has failed or is still starting",
            remedy="run 'systemctl --failed' on the server",
        ),
        Signal(
            name="root-disk",
            need=Need.HINT,
            read=read_root_disk,
            meaning="the root file system is mounted read-only",
            remedy="read the console for file system errors",
        ),
    ),
)


#: What "ssh" stands for in a template: no gate passes without it.
_ALWAYS = frozenset({"probe", "boot"})


def linux_gate(
    *, signals: Collection[str] | None = None, ignore_errors: tuple[str, ...] = ()
) -> Gate:
    """`LINUX` as a template wants it.

    ``signals`` are the ones that count, where the server has them; the others are recorded as
    hints. ``ignore_errors`` are cloud-init errors known to be harmless (shell patterns, letter case
    ignored).
    """

    def fitted(signal: Signal) -> Signal:
        if signal.name == "cloud-init" and ignore_errors:
            signal = replace(signal, read=lambda facts: read_cloud_init(facts, ignore_errors))
        if signals is None or signal.name in _ALWAYS:
            return signal
        counts = signal.name in signals
        return replace(signal, need=Need.WHERE_PRESENT if counts else Need.HINT)

    return replace(LINUX, signals=tuple(fitted(signal) for signal in LINUX.signals))


def probe_linux(remote: Remote, *, timeout_s: float) -> Reading:
    """Probe over an open connection."""
    result = remote.run(Command(text=LINUX_PROBE, timeout_s=timeout_s))
    facts = read_facts(result.stdout)
    facts["host_key"] = remote.host_key
    return Reading(facts=facts)


def linux_probe(connector: Connector, endpoint: Endpoint) -> Callable[[float], Reading]:
    """A probe that connects anew each time: a machine is ready when it lets us *in*."""

    def probe(timeout_s: float) -> Reading:
        remote = connector.connect(endpoint, timeout_s=timeout_s)
        try:
            return probe_linux(remote, timeout_s=timeout_s)
        finally:
            remote.close()

    return probe
