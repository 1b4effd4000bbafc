"""How the command line speaks: JSON and listings on stdout, words to people on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_WANTS_JSON = "slipway.json"


def _note_json(context: typer.Context, value: bool) -> bool:
    context.find_root().meta[_WANTS_JSON] = value
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", callback=_note_json)]


def wants_json(context: typer.Context) -> bool:
    """Whether the running command was asked for JSON."""
    return bool(context.find_root().meta.get(_WANTS_JSON))


#: Where nobody looks on, tables are as wide as they need to be, within reason.
_WIDTH_OF_FILES = 200


def stdout() -> Console:
    """For what was asked for."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    width = _WIDTH_OF_FILES if wide else None
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=width)


def stderr() -> Console:
    """For what is said about it."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def print_json(data: Any) -> None:
    """Print JSON values on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    typer.echo(text, err=True)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that we wait for something; only where a person looks on."""
    if not sys.stderr.isatty():
        yield
        return
    with stderr().status(f"{text} …"):
        yield


def when(moment: datetime | None) -> str:
    """A time for people, in the zone of this computer."""
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(moment: datetime | None) -> str | None:
    """A time for programs."""
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def seconds(duration_s: float | None) -> str:
    """``0.4 s``, ``2 min 5 s``; empty for none."""
    if duration_s is None:
        return ""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def printable(text: str) -> str:
    """What a server has printed, without what would drive our terminal: control characters."""
    return "".join(each if each == "\t" or each.isprintable() else "·" for each in text)


STATUS_STYLES = {
    "operational": "green",
    "stranded": "bold red",
    "cancelled": "yellow",
    "terminated": "dim",
    "decommissioning": "yellow",
}
