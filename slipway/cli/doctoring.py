"""``slipway doctor``: is everything here that Slipway needs, and what to do if not."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, stdout
from slipway.cli.session import Session, session
from slipway.clouds.base import TAG_INSTALLATION
from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from slipway.settings import Settings

_OLDEST_PYTHON = (3, 11)

#: Below this much free disk: a warning, a failure.
_LITTLE_DISK_BYTES, _NO_DISK_BYTES = 5 * 10**9, 500 * 10**6

#: The default bound of the clock gate: past it, every server looks wrong.
_MAX_OFFSET_MS = 500.0


class Level(StrEnum):
    """How a check came out."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    #: What to do about it; empty when nothing needs to be done.
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check this computer and installation; what is wrong comes with what to do about it.

    Ends with code 1 when something fails.

    Example: `slipway doctor`.
    """
    found: list[Check] = []
    for check in checks(session(context)):
        found.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    if any(check.level is Level.FAIL for check in found):
        raise typer.Exit(ExitCode.FAILED)


def checks(found: Session) -> Iterator[Check]:
    """All checks, each made when it is asked for. None of them raises."""
    yield _python()
    settings = found.settings
    todo: list[tuple[str, Callable[[], Check]]] = [
        ("state directory", lambda: _state_dir(settings)),
        ("free disk", lambda: _disk(settings)),
        ("database", lambda: _database(found)),
        ("templates", lambda: _templates(found)),
        ("local cloud", lambda: _local_cloud(found)),
        *((f"cloud {name}", functools.partial(_cloud, found, name)) for name in _others(found)),
        ("engine", lambda: _engine(found)),
        ("clock", lambda: _clock(found)),
        ("ssh", _ssh),
    ]
    for name, check in todo:
        try:
            yield check()
        except (SlipwayError, OSError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            yield Check(name=name, level=Level.FAIL, found=said)


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= _OLDEST_PYTHON:
        return Check(name="python", level=Level.OK, found=f"Python {version}")
    wanted = ".".join(str(part) for part in _OLDEST_PYTHON)
    return Check(
        name="python",
        level=Level.FAIL,
        found=f"Python {version}",
        remedy=f"install Python {wanted} or newer",
    )


def _state_dir(settings: Settings) -> Check:
    path, name = settings.state_dir, "state directory"
    if not path.exists():
        remedy = "nothing: it is made when something is launched"
        return Check(name=name, level=Level.WARN, found=f"{path} is not there yet", remedy=remedy)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check(
            name=name,
            level=Level.WARN,
            found=f"{path} has mode {mode:o}: others on this computer can look into it",
            remedy=f"chmod 700 {path}",
        )
    keys = [path / "keys" / "vault.key", path / "keys" / "id_ed25519"]
    for key in keys:
        if key.exists() and stat.S_IMODE(key.stat().st_mode) & 0o077:
            return Check(
                name=name,
                level=Level.FAIL,
                found=f"{key} can be read by others",
                remedy=f"chmod 600 {key}, and think of what it protects as known",
            )
    return Check(name=name, level=Level.OK, found=f"{path}, mode {mode:o}")


def _disk(settings: Settings) -> Check:
    path = settings.state_dir
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    found = f"{free / 1e9:.1f} GB free at {path}"
    if free >= _LITTLE_DISK_BYTES:
        return Check(name="free disk", level=Level.OK, found=found)
    level = Level.FAIL if free < _NO_DISK_BYTES else Level.WARN
    return Check(
        name="free disk", level=level, found=found, remedy="make room, or move SLIPWAY_STATE_DIR"
    )


def _database(found: Session) -> Check:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    from slipway.database import SCHEMA_VERSION, Database
    from slipway.errors import DatabaseUnavailable

    shown = sa.make_url(found.settings.database_url).render_as_string(hide_password=True)
    try:
        database = Database(found.settings.database_url)
        database.migrate()
        database.close()
    except (DatabaseUnavailable, SQLAlchemyError, ModuleNotFoundError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = str(cause).splitlines()[0]
        return Check(
            name="database",
            level=Level.FAIL,
            found=f"{shown}: {said}",
            remedy="check SLIPWAY_DATABASE_URL, and that the database runs and takes the password",
        )
    return Check(name="database", level=Level.OK, found=f"{shown}, schema {SCHEMA_VERSION}")


def _templates(found: Session) -> Check:
    store = found.services.templates
    names = store.library().names()
    problems = [problem for name in names for problem in store.check(name)]
    if problems:
        return Check(
            name="templates",
            level=Level.FAIL,
            found=f"{len(problems)} problems in {store.templates_dir}; the first: {problems[0]}",
            remedy="slipway template check",
        )
    if not names:
        return Check(
            name="templates",
            level=Level.WARN,
            found=f"there are none in {store.templates_dir}",
            remedy="set SLIPWAY_TEMPLATES_DIR, or write one with 'slipway template new NAME'",
        )
    return Check(
        name="templates", level=Level.OK, found=f"{len(names)} in {store.templates_dir}, all good"
    )


def _local_cloud(found: Session) -> Check:
    from slipway.clouds.local import LocalCloud

    cloud = LocalCloud(found.settings)
    was_running = cloud.is_running()
    health = cloud.health()
    if not was_running:
        # It was started to be asked; a look leaves nothing behind.
        cloud.down()
    state = "runs" if was_running else "starts"
    if health.confined:
        return Check(name="local cloud", level=Level.OK, found=f"{state}; {health.confinement}")
    return Check(
        name="local cloud",
        level=Level.WARN,
        found=f"{state}; {health.confinement}",
        remedy="launch only templates you trust in the local cloud",
    )


def _others(found: Session) -> list[str]:
    """The clouds of the file; one that cannot be read is told by whoever opens the database."""
    from slipway.launches.cloud_file import LOCAL

    try:
        return [name for name in found.services.clouds if name != LOCAL]
    except (SlipwayError, OSError):
        return []


def _cloud(found: Session, name: str) -> Check:
    cloud = found.services.clouds[name]
    tags = {TAG_INSTALLATION: found.services.installation_id}
    for region in cloud.regions():
        cloud.list_instances(region, tags=tags)
    regions = ", ".join(cloud.regions())
    return Check(name=f"cloud {name}", level=Level.OK, found=f"answers in {regions}")


def _engine(found: Session) -> Check:
    state = found.server.status()
    if state.reachable:
        return Check(name="engine", level=Level.OK, found=f"Prefect answers at {state.ui_url}")
    if state.ours:
        remedy = "nothing: it is started when something is launched; or 'slipway engine up'"
        return Check(name="engine", level=Level.WARN, found=state.problem, remedy=remedy)
    return Check(
        name="engine",
        level=Level.FAIL,
        found=state.problem,
        remedy="start that server, or unset PREFECT_API_URL to use one of our own",
    )


def _clock(found: Session) -> Check:
    from slipway.gates.ntp import check_controller_clock

    servers = found.settings.time_servers
    if not servers:
        return Check(
            name="clock",
            level=Level.WARN,
            found="this computer's clock is not compared with anything",
            remedy='set SLIPWAY_TIME_SERVERS, such as ["ntp-1.example"]',
        )
    reading = check_controller_clock(servers, found.services.clock, max_offset_ms=_MAX_OFFSET_MS)
    said = f"off by {reading.offset_ms:+.1f} ± {reading.bound_ms:.1f} ms by {reading.server}"
    return Check(name="clock", level=Level.OK, found=said)


def _ssh() -> Check:
    path = shutil.which("ssh")
    if path:
        return Check(name="ssh", level=Level.OK, found=f"OpenSSH's client is {path}")
    return Check(
        name="ssh",
        level=Level.WARN,
        found="there is no program 'ssh' on PATH",
        remedy="install OpenSSH's client; launches do without, 'slipway ssh' does not",
    )


def _print(check: Check) -> None:
    from rich.text import Text

    style = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}[check.level]
    line = Text(f"{check.level:<5}", style=style)
    line.append(f"{check.name:<16} ", style="bold")
    line.append(check.found, style="default")
    console = stdout()
    console.print(line)
    if check.remedy:
        console.print(Text(f"{'':<22}→ {check.remedy}", style="dim"))
