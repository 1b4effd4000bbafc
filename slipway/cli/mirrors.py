"""``slipway mirror``: package repositories, kept by day."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli import completing
from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, iso, print_json, say, stderr, stdout
from slipway.cli.session import actor, session
from slipway.errors import InvalidInput, NotFound, Problem

if TYPE_CHECKING:
    from rich.progress import TaskID

    from slipway.launches.services import Services
    from slipway.mirrors.days import Day
    from slipway.mirrors.difference import Difference
    from slipway.mirrors.progress import Progress
    from slipway.mirrors.sync import Synced

app = typer.Typer(help="Package repositories, kept by day and served.", no_args_is_help=True)

DEFAULT_PORT = 4290
#: How often a bar moves.
_EVERY_S = 0.2

Repository = Annotated[
    str,
    typer.Argument(
        help="A mirrored repository.", metavar="NAME", autocompletion=completing.mirrors
    ),
]
When = Annotated[
    str,
    typer.Option(
        "--day", metavar="WHEN", help="A date (2026-11-22), a time (20261122T020000Z) or latest."
    ),
]


class Client(StrEnum):
    """Whose form sources have."""

    APT = "apt"
    DNF = "dnf"


@app.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A mirrors file (YAML).")],
    as_json: AsJson = False,
) -> None:
    """Declare the repositories of a file, or change them to what it says. Fetches nothing.

    Example: `slipway mirror add mirrors.yaml`.
    """
    from slipway.launches.mirror_file import declare, read_mirrors

    services = session(context).services
    outcomes = declare(services.database, services.clock, read_mirrors(file), actor=actor())
    if as_json:
        print_json([{"repository": name, "outcome": each} for name, each in outcomes.items()])
        return
    for name, outcome in outcomes.items():
        say(f"{name}: {outcome}")


@app.command(name="list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the repositories, with their first and their last day.

    Example: `slipway mirror list`.
    """
    from slipway.launches.mirror_file import declared

    services = session(context).services
    found: list[dict[str, Any]] = []
    for name, repository in declared(services.database).items():
        history = services.mirror.days.history(name)
        found.append(
            {
                "repository": name,
                "suites": list(repository.suites),
                "urls": list(repository.urls),
                "states": len({day.taken_at for day in history}),
                "first": iso(history[-1].taken_at) if history else None,
                "last": iso(history[0].taken_at) if history else None,
            }
        )
    if as_json:
        print_json(found)
        return
    if not found:
        say("no repository is mirrored; 'slipway mirror add FILE' declares some")
    for each in found:
        span = f"{each['first']} to {each['last']}" if each["states"] else "never synced"
        typer.echo(f"{each['repository']}: {' '.join(each['suites'])}; {span}")


@app.command()
def sync(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which; without one, all.", metavar="[NAME]...", autocompletion=completing.mirrors
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the next day of repositories: fetch what changed, and put the day on record.

    A suite that cannot be taken keeps the day it has, and the others get theirs. Interrupted, it
    goes on where it was. Ends with code 1 when a suite could not be taken, or when no suite has a
    package that is to be here.

    Example: `slipway mirror sync debian`.
    """
    from slipway.launches.mirror_file import declared
    from slipway.launches.mirroring import to_take

    services = session(context).services
    chosen = names or list(declared(services.database))
    if not chosen:
        raise NotFound("no repository is mirrored; 'slipway mirror add FILE' declares some")
    repositories = [to_take(services, name) for name in chosen]
    done = []
    for repository in repositories:
        with _bar(repository.name) as progress:
            done.append(services.mirror.sync(repository, actor=actor(), progress=progress))
        if not as_json:
            _tell(done[-1])
    if as_json:
        print_json([_synced(each) for each in done])
    if any(each.failures or each.missing for each in done):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def days(context: typer.Context, name: Repository, as_json: AsJson = False) -> None:
    """List the states of a repository, the newest first, with what changed.

    Example: `slipway mirror days debian`.
    """
    from rich.table import Table

    from slipway.launches.mirroring import kept_days

    services = session(context).services
    history = services.mirror.days.history(_known(services, name))
    pins = kept_days(services, name)
    here = {each: services.mirror.coverage(each) for each in {day.manifest for day in history}}
    if as_json:
        print_json([{**_day(day, pins), "coverage": here[day.manifest]} for day in history])
        return
    table = Table(box=None, header_style="bold")
    for title in ("TAKEN", "SUITE", "ADDED", "REMOVED", "CHANGED", "BYTES", "HERE", "PINNED"):
        table.add_column(title, justify="right" if title[0] in "ARCB" else "left")
    for day in history:
        counts = [str(day.changes.get(key, 0)) for key in ("added", "removed", "changed")]
        size = str(day.changes.get("new_bytes", 0))
        pinned = pins.get(day.taken_at.date(), "")
        covered = here[day.manifest] or "?"
        table.add_row(iso(day.taken_at), day.suite, *counts, size, covered, pinned)
    stdout().print(table)


@app.command()
def diff(
    context: typer.Context,
    name: Repository,
    before: Annotated[str, typer.Argument(help="A date, a time or latest.", metavar="BEFORE")],
    after: Annotated[
        str, typer.Argument(help="A date, a time or latest.", metavar="AFTER")
    ] = "latest",
    as_json: AsJson = False,
) -> None:
    """Show which packages were added, removed and changed between two days.

    Example: `slipway mirror diff debian 2026-11-01 2026-11-22`.
    """
    from slipway.launches.mirroring import differences

    found = dict(differences(session(context).services, name, before, after))
    if as_json:
        print_json([_difference(suite, each) for suite, each in found.items()])
        return
    for suite, each in found.items():
        counts = each.counts()
        say(
            f"{suite}: {counts['added']} added, {counts['removed']} removed, "
            f"{counts['changed']} changed, {each.new_bytes} bytes of new files"
        )
        for change in each.changes:
            old, new = " ".join(change.before), " ".join(change.after)
            sign = "-" if not new else "+" if not old else "~"
            line = f"{sign} {change.package}:{change.architecture} {old} -> {new}".rstrip(" ->")
            typer.echo(f"{line} (downgraded)" if change.downgraded else line)


@app.command()
def sources(
    context: typer.Context,
    name: Repository,
    day: When = "latest",
    url: Annotated[
        str, typer.Option("--url", help="Where clients reach the mirror; else SLIPWAY_MIRROR_URL.")
    ] = "",
    client: Annotated[
        Client | None,
        typer.Option("--client", help="For whom; without it, for whom the repository is."),
    ] = None,
) -> None:
    """Print what to put on a machine for a repository as of a day: a file for
    `/etc/apt/sources.list.d/`, or one for `/etc/yum.repos.d/`. The day itself is then in a file of
    its own, `/etc/dnf/vars/slipday`.

    Example: `slipway mirror sources debian --day 2026-11-22 --url http://mirror.example.org`.
    """
    from slipway.launches.frozen_sources import sources_text
    from slipway.launches.mirror_file import find_declared
    from slipway.mirrors.repository import RpmRepository
    from slipway.mirrors.sources import DAY_VARIABLE

    found = session(context)
    base = url or found.settings.mirror_url
    if not base:
        what = "where clients reach the mirror is not known; give it, or set SLIPWAY_MIRROR_URL"
        raise InvalidInput(Problem(where="--url", what=what))
    repository = find_declared(found.services.database, name)
    theirs = Client.DNF if isinstance(repository, RpmRepository) else Client.APT
    if client not in (None, theirs):
        what = f"{name} is a repository for {theirs.value}"
        raise InvalidInput(Problem(where="--client", what=what))
    site = found.services.mirror.site()
    text = sources_text(site, repository, site.resolve(day, name), when=day, base=base)
    typer.echo(text, nl=False)
    if theirs is Client.DNF:
        say(f"beside it, {day} has to be in /etc/dnf/vars/{DAY_VARIABLE}")


@app.command()
def pin(
    context: typer.Context,
    name: Repository,
    day: Annotated[str, typer.Argument(help="A date, 2026-11-22.", metavar="DAY")],
    reason: Annotated[str, typer.Option("--reason", help="Why it is kept.")] = "pinned by hand",
    remove: Annotated[bool, typer.Option("--remove", help="Let it go again.")] = False,
) -> None:
    """Keep a day of a repository, whatever its age.

    Example: `slipway mirror pin debian 2026-11-22 --reason "release 4.2"`.
    """
    services = session(context).services
    on = _date(day)
    services.mirror.site().resolve(day, _known(services, name))
    if remove:
        services.mirror.pins.remove(name, on)
        say(f"{name} of {on} is not pinned any more")
    else:
        services.mirror.pins.add(name, on, reason, services.clock.now())
        say(f"{name} of {on} is kept: {reason}")


@app.command()
def verify(context: typer.Context, as_json: AsJson = False) -> None:
    """Read every file of every day and compare it with its hash. Ends with code 1 when one is
    damaged or missing, and names it.

    Example: `slipway mirror verify`.
    """
    services = session(context).services
    with _bar("verify") as progress:
        found = services.mirror.verify(progress=progress)
    if as_json:
        print_json([each.data() for each in found])
    else:
        for each in found:
            typer.echo(str(each))
        say(f"{progress.files} files read, {len(found)} not as they should be")
    if found:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def repair(context: typer.Context, as_json: AsJson = False) -> None:
    """Fetch what is damaged or missing again, by its hash. Ends with code 1 when something could
    not be had.

    Example: `slipway mirror repair`.
    """
    from slipway.launches.mirror_file import declared

    services = session(context).services
    with _bar("repair") as progress:
        found = services.mirror.repair(
            declared(services.database), actor=actor(), progress=progress
        )
    if as_json:
        print_json([{**each.data(), "repaired": each.healed} for each in found])
    else:
        for each in found:
            typer.echo(f"{each}: {'repaired' if each.healed else 'still so'}")
        say(f"{sum(each.healed for each in found)} of {len(found)} repaired")
    if not all(each.healed for each in found):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def prune(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the days that are neither pinned nor to be kept, and the files that no day has.

    Example: `slipway mirror prune --dry-run`.
    """
    from slipway.launches.mirroring import prune as prune_mirrors

    services = session(context).services
    found = prune_mirrors(services, actor=actor(), dry_run=dry_run)
    if as_json:
        print_json(
            {
                "days": [
                    {"repository": name, "suite": day.suite, "taken_at": iso(day.taken_at)}
                    for name, day in found.days
                ],
                "files": found.files,
                "bytes": found.bytes,
            }
        )
        return
    for name, day in found.days:
        typer.echo(f"{name} {day.suite} {iso(day.taken_at)}")
    verb = "would be removed" if dry_run else "removed"
    say(f"{len(found.days)} days, {found.files} files and {found.bytes} bytes {verb}")


@app.command()
def export(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Where; made if need be.", metavar="DIR")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which; without one, all.", metavar="[NAME]...", autocompletion=completing.mirrors
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lay all days out as directories of links into the store, for nginx or another web server to
    serve at the same addresses. Run it again after each sync and prune; it only adds what is new,
    and removes what is not kept any more.

    Example: `slipway mirror export /srv/mirror-export`.
    """
    import dataclasses

    from rich.progress import Progress as Bar

    from slipway.mirrors.export import Export

    services = session(context).services
    mirror = services.mirror
    tree = Export(mirror.site(), mirror.store, services.clock, directory.expanduser())
    done = []
    with Bar(console=stderr(), transient=True, disable=not sys.stderr.isatty()) as bar:
        for name in names or mirror.days.repositories():
            task = bar.add_task(name)

            def note(at: int, of: int, task: TaskID = task) -> None:
                bar.update(task, completed=at, total=of)

            done.append(tree.repository(name, note))
    if as_json:
        print_json([dataclasses.asdict(each) for each in done])
        return
    for each in done:
        say(
            f"{each.repository}: {each.addresses} addresses; {each.states} states and "
            f"{each.links} links made, {each.removed} removed"
        )


@app.command()
def replicate(
    context: typer.Context,
    url: Annotated[
        str, typer.Argument(help="The other mirror, as in http://mirror.example.org:4290.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Which; without one, all that are declared here.",
            metavar="[NAME]...",
            autocompletion=completing.mirrors,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the days that another mirror has and that are later than those here, with the moments
    they have there. What is declared here says what of them is taken, and whose signature is
    believed. Ends with code 1 when a day could not be taken; it is tried again the next time.

    Example: `slipway mirror replicate http://mirror.example.org:4290 debian`.
    """
    from slipway.launches.mirror_file import declared
    from slipway.launches.mirroring import to_take
    from slipway.mirrors.asgi import PREFIX

    services = session(context).services
    chosen = names or list(declared(services.database))
    if not chosen:
        raise NotFound("no repository is mirrored; 'slipway mirror add FILE' declares some")
    peer = f"{url.rstrip('/').removesuffix(PREFIX)}{PREFIX}"
    done: list[Synced] = []
    for name in chosen:
        repository = to_take(services, name)
        known = len(done)
        with _bar(name) as progress:
            for each in services.mirror.replicate(
                repository, peer, actor=actor(), progress=progress
            ):
                done.append(each)
                if not as_json:
                    _tell(each)
        if not as_json and len(done) == known:
            say(f"{name}: nothing new")
    if as_json:
        print_json([_synced(each) for each in done])
    if any(each.failures for each in done):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0: any that is free.")
    ] = DEFAULT_PORT,
) -> None:
    """Serve all days to apt, dnf and browsers, until told to stop. Nothing here is secret: what is
    served was public and is signed.

    Example: `slipway mirror serve --host 0.0.0.0`.
    """
    import uvicorn

    from slipway.mirrors.asgi import PREFIX, MirrorSite
    from slipway.mirrors.serving import FileProtocol

    services = session(context).services
    listening = socket.create_server((host, port), reuse_port=False, backlog=512)
    config = uvicorn.Config(
        MirrorSite(services.mirror.site()),
        http=FileProtocol,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    shown = listening.getsockname()[1]
    say(f"serving http://{host}:{shown}{PREFIX}/; stop it with Ctrl-C")
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    raise typer.Exit(ExitCode.FINE if server.started else ExitCode.FAILED)


# --- Words ----------------------------------------------------------------------------------------


def _known(services: Services, name: str) -> str:
    """The name of a repository that has days or is declared. Raises `NotFound`."""
    from slipway.launches.mirror_file import find_declared

    if name not in services.mirror.days.repositories():
        find_declared(services.database, name)
    return name


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        what = f"{text!r} is not a date; one is written 2026-11-22"
        raise InvalidInput(Problem(where="DAY", what=what)) from error


def _difference(suite: str, found: Difference) -> dict[str, Any]:
    return {
        "suite": suite,
        "new_bytes": found.new_bytes,
        "packages": [
            {
                "package": each.package,
                "architecture": each.architecture,
                "before": list(each.before),
                "after": list(each.after),
                "downgraded": each.downgraded,
            }
            for each in found.changes
        ],
    }


def _day(day: Day, pins: dict[date, str]) -> dict[str, Any]:
    return {
        "taken_at": iso(day.taken_at),
        "suite": day.suite,
        "manifest": day.manifest,
        "changes": dict(day.changes),
        "pinned": pins.get(day.taken_at.date()),
    }


def _synced(done: Synced) -> dict[str, Any]:
    return {
        "repository": done.repository,
        "taken_at": iso(done.taken_at),
        "suites": [_day(day, {}) for day in done.days],
        "failures": {suite: str(error) for suite, error in done.failures.items()},
        "missing": list(done.missing),
        "requests": done.requests,
        "files": done.files,
        "bytes": done.bytes,
    }


def _tell(done: Synced) -> None:
    for day in done.days:
        changes = day.changes
        words = (
            f"{changes['added']} added, {changes['removed']} removed, {changes['changed']} changed"
            if changes
            else "unchanged"
        )
        say(f"{done.repository} {day.suite}: {words}")
    for error in done.failures.values():
        stderr().print(str(error), style="red", markup=False)
    for each in done.missing:
        stderr().print(f"no suite has {each}", style="red", markup=False)
    when = f" of {iso(done.taken_at)}" if done.taken_at else ""
    say(
        f"{done.repository}{when}: {done.files} files, {done.bytes} bytes, {done.requests} requests"
    )


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """How far it is, as a bar where a person looks on."""
    from slipway.mirrors.progress import Progress

    progress = Progress()
    if not sys.stderr.isatty():
        yield progress
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    ended = threading.Event()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar("{task.description}", *columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def follow() -> None:
            while not ended.wait(_EVERY_S):
                bar.update(
                    task,
                    description=f"{name} {progress.suite}".rstrip(),
                    total=progress.bytes_wanted or None,
                    completed=progress.bytes,
                )

        follower = threading.Thread(target=follow, name="bar", daemon=True)
        follower.start()
        try:
            yield progress
        finally:
            ended.set()
            follower.join()
