"""``slipway deploy``: put the flows, and what belongs to them, into Prefect."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.output import AsJson, print_json, printable, say, stdout
from slipway.cli.session import session

if TYPE_CHECKING:
    from slipway.cli.wiring import Change

#: A value that is longer is cut: a whole parameter schema helps nobody.
_LONGEST_VALUE = 60


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(deploy)


def deploy(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(help="What is to be deployed; else the prefect.yaml that comes with Slipway."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Work pool to deploy to, in place of the file's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put the work pool, blocks, deployments, schedules and automations into Prefect.

    Doing it again changes nothing. What an operator has paused in Prefect stays paused, and what
    was not deployed by this command is left alone.

    Example: `slipway deploy --dry-run`.
    """
    found = session(context)
    changes: list[Change] = []
    for change in found.wiring.deploy(found.settings, file=file, pool=pool, dry_run=dry_run):
        changes.append(change)
        if not as_json:
            _print(change)
    if as_json:
        print_json([dataclasses.asdict(change) for change in changes])
        return
    counts = Counter(change.action for change in changes)
    said = ", ".join(f"{count} {action}" for action, count in counts.items())
    say(f"{said}{' (nothing was written: a dry run)' if dry_run else ''}")


def _print(change: Change) -> None:
    from rich.text import Text

    from slipway.cli.wiring import Action

    signs = {
        Action.CREATED: ("+", "green"),
        Action.CHANGED: ("~", "yellow"),
        Action.REMOVED: ("-", "red"),
        Action.LEFT_OUT: ("!", "yellow"),
    }
    sign, style = signs.get(change.action, (" ", "dim"))
    line = Text(f"{sign} {change.action:<10}", style=style)
    line.append(f"{change.kind:<11} ", style="dim")
    line.append(change.name, style="bold" if change.action is not Action.UNCHANGED else "")
    if change.note:
        line.append(f": {change.note}", style="dim")
    console = stdout()
    console.print(line)
    for field in change.fields:
        told = Text(f"      {field.path}: ", style="dim")
        told.append(_short(field.before), style="red")
        told.append(" → ")
        told.append(_short(field.after), style="green")
        console.print(told)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text.replace("\n", " "))
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
