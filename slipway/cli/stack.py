"""``slipway up``, ``down`` and ``status``: everything that runs on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say, stdout, waiting
from slipway.cli.session import session
from slipway.cli.wiring import Part, StackRequest
from slipway.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from pydantic import SecretStr

    from slipway.cli.wiring import StackStatus

_PARTS = get_args(Part)

_STYLES = {"ready": "green", "done": "green", "unhealthy": "bold red", "restarting": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Run this part only: {', '.join(_PARTS)}; may be given several times, or with "
            "commas.",
            metavar="PART",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port the API listens on; 0: any that is free.", min=0, max=65535)
    ] = 4280,
    prefect_host: Annotated[
        str, typer.Option(help="Address Prefect's server listens on.")
    ] = "127.0.0.1",
    prefect_port: Annotated[
        int | None,
        typer.Option(
            help="Port Prefect's server listens on; 0: any that is free. Left out: as last time, "
            "or 4200, or any.",
            min=0,
            max=65535,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="How many workers.", min=1, max=64)] = 1,
    worker_limit: Annotated[
        int | None,
        typer.Option(
            help="Flow runs of one worker at a time; left out: SLIPWAY_WORKER_RUNS.", min=1
        ),
    ] = None,
    postgres: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL instead of SQLite: var:VARIABLE, @FILE or - with a URL that has a "
            "password, or the URL itself without one.",
            metavar="URL",
        ),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            help="Redis for several Prefect servers, given like --postgres.", metavar="URL"
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(help="The log: lines for people, or one JSON object a line."),
    ] = "text",
    log_file: Annotated[
        Path | None,
        typer.Option(help="Write the log there; five files of 10 MB are kept.", dir_okay=False),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", "-d", help="Go on in the background once everything is ready."),
    ] = False,
) -> None:
    """Run everything on this machine: Prefect's server with its UI, the API, and workers.

    What dies is started again. Ctrl-C, or `slipway down`, stops it all: workers hand back what they
    do first; a second Ctrl-C kills. Nothing is left behind.

    Example: `slipway up --workers 2 --detach`.
    """
    request = StackRequest(
        only=_parts(only or []),
        host=host,
        port=port,
        prefect_host=prefect_host,
        prefect_port=prefect_port,
        workers=workers,
        worker_limit=worker_limit,
        postgres=_url(postgres, "--postgres"),
        redis=_url(redis, "--redis"),
        log_format=log_format,
        log_file=log_file.absolute() if log_file else None,
        detach=detach,
    )
    found = session(context)
    stack = found.wiring.stack(found.settings)
    if not detach:
        raise typer.Exit(stack.up(request))
    with waiting("starting everything (10 to 40 s the first time)"):
        code = stack.up(request)
    running = stack.status()
    if running is not None:
        _show(running)
        say("it goes on in the background; 'slipway status' shows it, 'slipway down' stops it")
        if any(each.name == "api" for each in running.services):
            say("to log in, or to call the API: slipway token create NAME --scope admin")
    raise typer.Exit(code)


def down(context: typer.Context) -> None:
    """Stop what `slipway up` runs for this state directory; workers hand back what they do.

    Example: `slipway down`.
    """
    found = session(context)
    with waiting("stopping; workers have a while to finish what they can"):
        ran = found.wiring.stack(found.settings).down()
    say("everything is stopped" if ran else "'slipway up' does not run for this state directory")


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show how what `slipway up` runs is; code 1 when not all of it is well, 3 when nothing runs.

    Example: `slipway status --json`.
    """
    found = session(context)
    running = found.wiring.stack(found.settings).status()
    if as_json:
        healthy = running is not None and running.healthy
        data = dataclasses.asdict(running) if running else None
        print_json({"running": running is not None, "healthy": healthy, "stack": data})
    elif running is None:
        typer.echo("'slipway up' does not run for this state directory")
    else:
        _show(running)
    if running is None:
        raise typer.Exit(ExitCode.ENGINE)
    if not running.healthy:
        raise typer.Exit(ExitCode.FAILED)


def _show(running: StackStatus) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("service", "state", "process", "restarts", "where"):
        table.add_column(title, justify="right" if title in ("process", "restarts") else "left")
    for each in running.services:
        state = Text(each.state, style=_STYLES.get(each.state, ""))
        pid = "" if each.pid is None else str(each.pid)
        table.add_row(each.name, state, pid, str(each.restarts), each.url or each.problem)
    stdout().print(table)
    if running.log_file:
        typer.echo(f"log: {running.log_file}")


def _parts(given: list[str]) -> frozenset[Part]:
    names = [name.strip() for each in given for name in each.split(",")]
    unknown = [name for name in names if name not in _PARTS]
    if unknown:
        what = f"there is no part {', '.join(unknown)}; there are {', '.join(_PARTS)}"
        raise InvalidInput(Problem(where="--only", what=what))
    return frozenset(part for part in _PARTS if part in names)


def _url(form: str | None, option: str) -> SecretStr | None:
    """A URL as `slipway.cli.giving` takes secrets, or as it is if there is no secret in it."""
    from urllib.parse import urlsplit

    from pydantic import SecretStr

    from slipway.cli.giving import read_secret

    if form is None:
        return None
    if "://" in form:
        if urlsplit(form).password is None:
            return SecretStr(form)
        # Not repeated: the process list has shown it long enough.
        what = (
            "a password never stands in an argument, where others can read it; give the URL as "
            "var:VARIABLE, @FILE or -"
        )
        raise InvalidInput(Problem(where=option, what=what))
    return read_secret(form, prompt=option.removeprefix("--"), where=option)
