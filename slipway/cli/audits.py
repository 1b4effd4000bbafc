"""``slipway audit``: what happened, and the proof that nobody edited it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli import completing
from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say
from slipway.cli.session import session
from slipway.errors import AuditBroken, NotFound

if TYPE_CHECKING:
    from slipway.launches.services import Services

app = typer.Typer(
    help="The audit record: show it, follow it, verify it, export it.", no_args_is_help=True
)

Subject = Annotated[
    str,
    typer.Argument(
        help="A server's name (its newest launch), a launch id, or a subject such as launch/….",
        metavar="SUBJECT",
        autocompletion=completing.servers,
    ),
]


def subject_for(services: Services, name: str) -> str:
    """The subject a person means. Raises `NotFound`."""
    from slipway.launches.requests import find_launch
    from slipway.lifecycle import subject_of

    return name if "/" in name else subject_of(find_launch(services, name).id)


@app.command()
def show(
    context: typer.Context,
    subject: Subject,
    output: Annotated[
        bool, typer.Option("--output/--no-output", help="With or without the scripts' output.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Print the whole record of one subject.

    Example: `slipway audit show web-1 --no-output`.
    """
    from slipway import audit
    from slipway.cli.story import Story

    services = session(context).services
    name = subject_for(services, subject)
    found = audit.entries(services.database, name)
    if not found:
        raise NotFound(f"{name}: there is no audit record of it")
    chosen = [entry for entry in found if output or entry.data is None]
    if as_json:
        print_json([audit.as_json(entry) for entry in chosen])
        return
    story = Story(full=True)
    for entry in chosen:
        story.tell(entry)
    story.end()


@app.command()
def follow(context: typer.Context, subject: Subject) -> None:
    """Watch a launch as it goes, until it comes to an end. Ctrl-C stops watching, not the launch.

    Example: `slipway audit follow web-1`.
    """
    from slipway.cli.watching import follow as watch
    from slipway.launches.work import get_launch

    found = session(context)
    launch_id = subject_for(found.services, subject).partition("/")[2]
    watch(found, get_launch(found.services, launch_id))


@app.command()
def verify(
    context: typer.Context,
    subject: Annotated[
        str | None,
        typer.Argument(
            help="A server's name, a launch id, or a subject; all when there is none.",
            autocompletion=completing.servers,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify every record.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute the hash chain; the first entry that was changed, removed or inserted is named.

    Ends with code 1 when a record does not hold.

    Example: `slipway audit verify --all`.
    """
    from slipway import audit

    services = session(context).services
    if subject is not None and not everything:
        names = [subject_for(services, subject)]
    else:
        names = audit.subjects(services.database)
    results, broken = [], 0
    for name in names:
        try:
            held = audit.verify(services.database, name)
        except AuditBroken as error:
            broken += 1
            results.append({"subject": name, "holds": False, "problem": str(error)})
            say(str(error))
        else:
            results.append(
                {"subject": name, "holds": True, "entries": held.entries, "head": held.head}
            )
            if not as_json:
                typer.echo(f"{name}: {held.entries} entries, the chain holds, head {held.head}")
    if as_json:
        print_json(results)
    elif not names:
        say("there are no records yet")
    if broken:
        say(f"{broken} of {len(names)} records do not hold")
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def export(
    context: typer.Context,
    subject: Subject,
    out: Annotated[
        Path | None, typer.Option(help="File to write; standard output when not given.")
    ] = None,
) -> None:
    """Write the record as JSON lines, complete enough to verify elsewhere.

    Example: `slipway audit export web-1 --out web-1.jsonl`.
    """
    from slipway import audit

    services = session(context).services
    name = subject_for(services, subject)
    lines = (json.dumps(entry, ensure_ascii=False) for entry in _entries(services, name))
    if out is None:
        for line in lines:
            typer.echo(line)
        return
    count = 0
    draft = out.with_name(f".{out.name}.draft")
    with draft.open("w") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    draft.replace(out)
    head = audit.verify(services.database, name).head
    say(f"wrote {count} entries to {out}; the newest has the hash {head}")


def _entries(services: Services, name: str) -> list[dict[str, object]]:
    from slipway import audit

    found = list(audit.export(services.database, name))
    if not found:
        raise NotFound(f"{name}: there is no audit record of it")
    return found
