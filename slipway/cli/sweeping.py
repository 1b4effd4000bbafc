"""``slipway sweep``: what was left behind in the clouds, listed and removed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, iso, print_json, say, stdout
from slipway.cli.session import actor, session

if TYPE_CHECKING:
    from slipway.launches.sweeping import Look, Swept


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sweep)


def sweep(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what launches left behind in the clouds.

    Only what carries this installation's tag, has expired, and is used by no launch that has not
    ended (an image: by no image map either). Exactly what is listed is removed, and each thing is
    looked at again just before. Without `--yes` it asks; where nobody can be asked it removes
    nothing.

    Example: `slipway sweep --dry-run`.

    Exit codes: 0 nothing of what was to go is left; 1 something could not be looked at or removed,
    or was not to be.
    """
    from slipway.launches import sweeping

    services = session(context).services
    found = sweeping.look(services)
    if not as_json:
        _show(found)
    for problem in found.problems:
        say(problem)
    swept, agreed = None, not dry_run and bool(found.leftovers)
    if agreed and not yes:
        agreed = _agreed(len(found.leftovers))
        if not agreed:
            say("nothing was removed")
    if agreed:
        because = "not asked (--yes)" if yes else "agreed to at the terminal"
        swept = sweeping.sweep(services, found, actor=actor(), because=because)
        if not as_json:
            _tell(found, swept)
    if as_json:
        print_json(_data(found, swept))
    declined = bool(found.leftovers) and not dry_run and not agreed
    failed = found.problems or declined or (swept and swept.count("failed"))
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.FINE)


def _agreed(count: int) -> bool:
    if not _is_terminal():
        say("nobody can be asked here; give --yes to remove this")
        return False
    return typer.confirm(f"Remove {count} for good?", err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _show(found: Look) -> None:
    from rich.table import Table

    from slipway.launches.sweeping import rows

    if not found.leftovers:
        say("nothing is left behind")
        return
    table = Table(box=None, header_style="bold")
    names = ("kind", "id", "cloud", "what", "expired", "why")
    for name in names:
        table.add_column(name.upper(), overflow="fold")
    for row in rows(found.leftovers):
        table.add_row(*(row[name] for name in names))
    stdout().print(table)


def _tell(found: Look, swept: Swept) -> None:
    for each in swept.removals:
        say(f"{each.leftover.name}: {each.outcome}" + (f": {each.why}" if each.why else ""))
    say(f"on record: slipway audit show sweep/{found.id}")


def _data(found: Look, swept: Swept | None) -> dict[str, Any]:
    outcomes = {each.leftover.name: each for each in swept.removals} if swept else {}
    return {
        "sweep": found.id,
        "leftovers": [
            {
                "kind": each.thing.kind,
                "id": each.thing.id,
                "cloud": each.cloud,
                "region": each.region,
                "what": each.thing.what,
                "created_at": iso(each.thing.created_at),
                "expired_at": iso(each.expired_at),
                "why": each.why,
                "outcome": outcomes[each.name].outcome if each.name in outcomes else None,
                "problem": outcomes[each.name].why if each.name in outcomes else "",
            }
            for each in found.leftovers
        ],
        "problems": list(found.problems),
    }
