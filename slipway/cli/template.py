"""``slipway template``: write, check, version, compare and import ServerTemplates."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from slipway.clock import SystemClock
from slipway.database import Database
from slipway.errors import InvalidInput, SlipwayError
from slipway.servertemplates import ResolvedTemplate, TemplateDiff, TemplateStore, VersionInfo
from slipway.servertemplates.rightscale import ImportReport, import_rightscale
from slipway.servertemplates.scaffold import new_template
from slipway.servertemplates.write import write_working_copy
from slipway.settings import Settings

app = typer.Typer(
    help="ServerTemplates: write, check, version, compare and import them.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Name of the template.")]
Ref = Annotated[
    str, typer.Argument(help="NAME, NAME@head, NAME@r4, NAME@TAG or NAME@HASH.", metavar="REF")
]


def store() -> TemplateStore:
    """The templates of this installation, as the environment says where they are."""
    settings = Settings()
    database = Database(settings.database_url)
    database.migrate()
    return TemplateStore(database, settings.templates_dir, SystemClock())


@contextlib.contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    """Say what was refused, one line a problem on stderr, and end with the error's exit code."""
    try:
        yield
    except SlipwayError as error:
        lines = str(error).splitlines()
        if isinstance(error, InvalidInput):
            lines = [_one_line(str(problem)) for problem in error.problems]
        if as_json:
            found: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
            if isinstance(error, InvalidInput):
                found["problems"] = [dataclasses.asdict(problem) for problem in error.problems]
            _print_json(found)
        for line in lines:
            typer.echo(line, err=True)
        raise typer.Exit(error.exit_code) from error


@app.command()
def new(
    name: Name,
    as_json: AsJson = False,
    image: Annotated[str, typer.Option(help="Image map it begins with.")] = "debian-12",
) -> None:
    """Write a new template: small, commented, and valid as it is.

    Example: `slipway template new shop`.
    """
    with _errors(as_json):
        found = store()
        files = new_template(found.library(), name, image=image)
        if as_json:
            _print_json({"name": name, "files": [str(file) for file in files]})
            return
        for file in files:
            typer.echo(f"wrote {file}")
        typer.echo(f"next: slipway template check {name}")


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Templates to check; all when none is named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find everything that is wrong with working copies.

    Example: `slipway template check shop`.
    """
    with _errors(as_json):
        found = store()
        chosen = names or found.library().names()
        checked = {name: found.check(name) for name in chosen}
        # A layer's problem shows in every template that includes it: say it once.
        problems = list(dict.fromkeys(p for each in checked.values() for p in each))
        if problems:
            raise InvalidInput(problems)
        if as_json:
            _print_json(
                {
                    "problems": [],
                    "templates": {name: found.head(name).hash for name in chosen},
                }
            )
            return
        for name in chosen:
            typer.echo(f"{name} is good ({found.head(name).hash[:12]})")
        if not chosen:
            typer.echo(f"there are no templates in {found.templates_dir}")


@app.command()
def commit(
    name: Name,
    message: Annotated[str, typer.Option("--message", "-m", help="What changed, and why.")],
    as_json: AsJson = False,
    author: Annotated[
        str, typer.Option(help="Who; the user of this computer when not given.")
    ] = "",
) -> None:
    """Keep the working copy, with everything it includes, as a version.

    Example: `slipway template commit shop -m "First"`.
    """
    with _errors(as_json):
        done = store().commit(name, message, author or _user())
        if as_json:
            _print_json(
                {
                    "created": done.created,
                    "message": done.message,
                    "version": _version_data(done.version),
                }
            )
            return
        typer.echo(done.message)


@app.command()
def tag(
    ref: Ref,
    name: Annotated[str, typer.Argument(help="The tag, like prod or v3.", metavar="TAG")],
    as_json: AsJson = False,
) -> None:
    """Point a tag at a version; it moves if it points elsewhere.

    Example: `slipway template tag shop@r3 prod`.
    """
    with _errors(as_json):
        version = store().tag(ref.partition("@")[0], ref, name, actor=_user())
        if as_json:
            _print_json(_version_data(version))
            return
        typer.echo(f"{version.name}@{name} is {version.ref} ({version.hash[:12]})")


@app.command()
def log(name: Name, as_json: AsJson = False) -> None:
    """Show a template's versions, newest first.

    Example: `slipway template log shop`.
    """
    with _errors(as_json):
        versions = store().log(name)
        if as_json:
            _print_json([_version_data(version) for version in versions])
            return
        table = Table("version", "hash", "tags", "when", "who", "message")
        for version in versions:
            table.add_row(
                f"r{version.number}",
                version.hash[:12],
                ", ".join(version.tags),
                _when(version.created_at),
                Text(version.author),
                Text(version.message),
            )
        _console().print(table)


@app.command()
def show(
    ref: Ref,
    as_json: AsJson = False,
    script: Annotated[
        str | None, typer.Option(help="Print this script, by key or path, instead.")
    ] = None,
) -> None:
    """Show a template as it would be launched, with all its layers.

    Example: `slipway template show shop@prod`.
    """
    with _errors(as_json):
        resolved, version = store().show(ref)
        if script is not None:
            _show_script(resolved, script, as_json)
            return
        if as_json:
            found = resolved.model_dump(mode="json", by_alias=True, exclude={"sources"})
            _print_json(
                {
                    "hash": resolved.hash,
                    "version": _version_data(version) if version else None,
                    "template": found,
                }
            )
            return
        _show_template(resolved, version)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="REF to compare from.")],
    after: Annotated[
        str | None,
        typer.Argument(help="REF to compare with; the working copy when not given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed: fields by section, scripts as text.

    A name alone as the only argument compares its newest version with the working copy.
    Example: `slipway template diff shop@prod shop@r3`.
    """
    with _errors(as_json):
        name, _, pin = before.partition("@")
        if after is None:
            before = before if pin else f"{name}@latest"
        found = store().diff(before, after or f"{name}@head")
        if as_json:
            _print_json(found.as_data())
            return
        _show_diff(found)


@app.command()
def compose(
    refs: Annotated[list[str], typer.Argument(help="Templates to merge; later ones win.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the new template.")],
    as_json: AsJson = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse when the templates disagree.")
    ] = False,
) -> None:
    """Merge several templates into one that stands alone, and name every disagreement.

    Example: `slipway template compose postgres shop --name all-in-one`.
    """
    with _errors(as_json):
        found = store()
        composition = found.compose(refs, name)
        clashes = [_one_line(str(clash)) for clash in composition.clashes]
        files: list[Path] = []
        if not (strict and clashes):
            # What cannot be resolved is not written.
            assert composition.template.name == name
            files = write_working_copy([composition.source], composition.blobs, found.templates_dir)
        if as_json:
            _print_json(
                {
                    "name": name,
                    "files": [str(file) for file in files],
                    "clashes": [
                        {
                            "path": clash.path,
                            "said": [{"template": who, "value": v} for who, v in clash.said],
                            "taken": None if strict else clash.said[-1][1],
                        }
                        for clash in composition.clashes
                    ],
                }
            )
        else:
            for file in files:
                typer.echo(f"wrote {file}")
            for clash in clashes:
                typer.echo(f"clash: {clash}", err=True)
        if strict and clashes:
            typer.echo(f"{len(clashes)} clashes; nothing was written", err=True)
            raise typer.Exit(2)


@app.command(name="import")
def import_(
    path: Annotated[Path, typer.Argument(help="ServerTemplate YAML that right_st downloaded.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the new template.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a template from a RightScale ServerTemplate, and list what could not come along.

    Example: `slipway template import server.yml`.
    """
    with _errors(as_json):
        found = store()
        report = import_rightscale(path, found.templates_dir, name=name)
        problems = found.check(report.name)
        if as_json:
            _print_json(
                {
                    "name": report.name,
                    "files": [str(file) for file in report.files],
                    "carried": [{"from": a, "to": b} for a, b in report.carried],
                    "not_carried": [dataclasses.asdict(note) for note in report.not_carried],
                    "problems": [dataclasses.asdict(problem) for problem in problems],
                }
            )
            return
        _show_import(report)
        for problem in problems:
            typer.echo(f"still to do: {_one_line(str(problem))}")


@app.command()
def checkout(
    ref: Ref,
    directory: Annotated[
        Path | None,
        typer.Argument(help="Directory of templates to write to; the usual one when not given."),
    ] = None,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are there already.")
    ] = False,
) -> None:
    """Write a version back as working copies, layers and image maps included.

    Example: `slipway template checkout shop@r3 /tmp/old`.
    """
    with _errors(as_json):
        found = store()
        target = directory or found.templates_dir
        resolved = found.checkout(ref, target, force=force)
        if as_json:
            _print_json({"name": resolved.name, "hash": resolved.hash, "directory": str(target)})
            return
        names = ", ".join([resolved.name, *(layer.name for layer in resolved.layers)])
        typer.echo(f"wrote {names} to {target} ({resolved.hash[:12]})")


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List all templates, with their newest version and tags.

    Example: `slipway template list --json`.
    """
    with _errors(as_json):
        summaries = store().list()
        if as_json:
            _print_json(
                [
                    {
                        "name": summary.name,
                        "description": summary.description,
                        "newest": _version_data(summary.newest) if summary.newest else None,
                        "tags": list(summary.tags),
                        "working_copy": summary.working_copy,
                    }
                    for summary in summaries
                ]
            )
            return
        table = Table("name", "version", "tags", "working copy", "description")
        for summary in summaries:
            table.add_row(
                summary.name,
                f"r{summary.newest.number}" if summary.newest else "",
                ", ".join(summary.tags),
                summary.working_copy,
                Text(summary.description.split("\n")[0]),
            )
        _console().print(table)


def _show_template(resolved: ResolvedTemplate, version: VersionInfo | None) -> None:
    console = _console()
    known = version.ref if version else "not committed"
    console.print(Text.assemble((resolved.name, "bold"), f"  {resolved.hash[:12]}  ({known})"))
    if resolved.description:
        console.print(Text(resolved.description))
    facts = Table.grid(padding=(0, 2))
    settings = resolved.settings.model_dump(exclude_none=True, exclude_defaults=True)
    rows: list[tuple[str, str]] = [
        ("image", resolved.image.name if resolved.image else "none: a layer for others"),
        ("settings", ", ".join(f"{key}={value}" for key, value in settings.items())),
        ("freeze", resolved.freeze),
        ("connect", resolved.connect),
        ("layers", ", ".join(f"{layer.name} {layer.hash[:12]}" for layer in resolved.layers)),
    ]
    for label, value in rows:
        if value:
            facts.add_row(label, Text(value))
    console.print(facts)
    if resolved.inputs:
        table = Table("input", "type", "default", "from", "description", title="Inputs")
        for name, declared in resolved.inputs.items():
            default = "" if declared.default is None else _plain(declared.default)
            if not declared.has_default:
                default = "(required)" if declared.is_required else "(optional)"
            table.add_row(
                name,
                str(declared.type),
                Text(default),
                Text(declared.default_from or ""),
                Text(declared.description or ""),
            )
        console.print(table)
    table = Table("script", "path", "timeout", "title", title="Scripts")
    for script in resolved.scripts():
        table.add_row(script.key, script.path, f"{script.timeout_s} s", Text(script.name))
    if resolved.scripts():
        console.print(table)


def _show_script(resolved: ResolvedTemplate, wanted: str, as_json: bool) -> None:
    for script in resolved.scripts():
        if wanted in (script.key, script.path):
            text = resolved.blobs[script.sha256].decode("utf-8", errors="replace")
            if as_json:
                _print_json({**script.model_dump(mode="json"), "text": text})
            else:
                typer.echo(text, nl=False)
            return
    known = ", ".join(script.key for script in resolved.scripts()) or "none"
    typer.echo(f"template {resolved.name} has no script {wanted!r} (it has {known})", err=True)
    raise typer.Exit(2)


def _show_diff(found: TemplateDiff) -> None:
    console = _console()
    if found.is_empty:
        console.print(f"no difference: both are {found.after_hash[:12]}")
        return
    section = ""
    for change in found.fields:
        if change.section != section:
            section = change.section
            console.print(Text(section, style="bold"))
        label = change.path.removeprefix(f"{section}.") if change.path != section else ""
        prefix = f"  {label}: " if label else "  "
        if change.before is not None:
            console.print(Text(f"{prefix}- {_plain(change.before)}", style="red"))
        if change.after is not None:
            console.print(Text(f"{prefix}+ {_plain(change.after)}", style="green"))
    for script in found.scripts:
        console.print(Text(f"{script.change} {script.path}", style="bold"))
        console.print(Syntax(script.diff, "diff", background_color="default", word_wrap=True))


def _show_import(report: ImportReport) -> None:
    for source, target in report.carried:
        typer.echo(f"{source} → {target}")
    if report.not_carried:
        typer.echo(f"\nNot carried over ({len(report.not_carried)}):")
    for note in report.not_carried:
        typer.echo(f"  {_one_line(str(note))}")


def _version_data(version: VersionInfo) -> dict[str, Any]:
    return {
        **dataclasses.asdict(version),
        "tags": list(version.tags),
        "ref": version.ref,
        "created_at": version.created_at.isoformat(),
    }


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _console() -> Console:
    return Console(highlight=False)


def _user() -> str:
    """Who is logged in; an account without a name has none in the record either."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
