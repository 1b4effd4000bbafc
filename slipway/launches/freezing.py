"""Package repositories as they were on a day."""

from __future__ import annotations

import shlex
from datetime import date
from importlib import resources

from slipway.errors import RemoteError
from slipway.launches.connecting import connect
from slipway.launches.frozen_sources import System, frozen_sources
from slipway.launches.inputs import template_of
from slipway.launches.mirror_file import declared
from slipway.launches.scripts import Job
from slipway.launches.services import Services
from slipway.launches.work import Work
from slipway.remote.base import Command
from slipway.steps import StepRun

#: Refreshing the lists from a busy archive takes minutes, not hours.
TIMEOUT_S = 900.0
_ASK_TIMEOUT_S = 20.0
#: Those whose own archives have every day, so that a mirror which does not have them is no loss.
_HAVE_ARCHIVES = ("debian", "ubuntu")

#: Where Debian calls a machine by another name than the kernel does.
_DEBIAN_NAMES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armhf",
    "i686": "i386",
    "ppc64le": "ppc64el",
}


def frozen_to(work: Work, run: StepRun) -> date | None:
    """The day the launch is frozen to; None for one that is not frozen, whose step is then done."""
    day = work.launch().freeze
    if day is None:
        run.succeed("not frozen: packages are today's")
    return day


def has_mirrors(services: Services) -> bool:
    """Whether clients can reach mirrors of ours, and there are any."""
    return bool(services.settings.mirror_url and declared(services.database))


def ask_system(work: Work) -> System:
    """What runs on the server, by its own word. Raises `RemoteError`."""
    command = 'cat "${SLIPWAY_ROOT:-}/etc/os-release" && printf "\\nMACHINE=%s\\n" "$(uname -m)"'
    with connect(work, work.launch()) as remote:
        result = remote.run(Command(text=command, timeout_s=_ASK_TIMEOUT_S))
    if result.exit_code != 0:
        raise RemoteError(f"cannot tell which system this is: {result.stderr.strip()}")
    return read_system(result.stdout)


def read_system(text: str) -> System:
    """What an ``os-release`` says (os-release(5)), and a line with the kernel's word for the
    ``MACHINE``; other lines are passed over."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition("=")
        try:
            found[name] = "".join(shlex.split(value))
        except ValueError:
            continue
    machine = found.get("MACHINE", "")
    return System(
        id=found.get("ID", "linux"),
        codename=found.get("VERSION_CODENAME", ""),
        major=found.get("VERSION_ID", "").partition(".")[0],
        architecture=_DEBIAN_NAMES.get(machine, machine),
        machine=machine,
    )


def freeze_job(work: Work, run: StepRun, day: date, *, system: System | None) -> Job:
    """The script that points the server's package manager at a day, safe to run again. The sources
    come from our mirrors where there are any of its ``system``, which is None when there are no
    mirrors. Raises `NotFound` when they do not have the day, and `PackagesMissing` when they do not
    have all that the template's scripts say they install."""
    services = work.services
    mirror_url = services.settings.mirror_url
    sources = None
    if system is not None:
        template = template_of(services, work.launch())
        packages = [name for script in template.scripts() for name in script.packages]
        sources = frozen_sources(services, system, day, list(dict.fromkeys(packages)))
    if sources is not None:
        run.note(f"packages come from {mirror_url}: {', '.join(sources.notes)}")
    elif system is not None and system.id in _HAVE_ARCHIVES:
        run.note(f"no mirror has {system.id} {system.codename}: its own archive is used")
        mirror_url = ""
    body = resources.files("slipway.launches").joinpath("freeze.sh").read_bytes()
    return Job(
        name="freeze-repositories",
        body=body,
        timeout_s=TIMEOUT_S,
        retry_safe=True,
        env={
            "FREEZE_DATE": day.isoformat(),
            "MIRROR_URL": mirror_url,
            "MIRROR_SOURCES": "" if sources is None else sources.text,
        },
        secrets={},
    )
