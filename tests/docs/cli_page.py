"""Writes docs/cli.md from the command line itself: ``python -m tests.docs.cli_page``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from tests.docs.examples import ROOT

PAGE = ROOT / "docs" / "cli.md"

HEAD = """\
# Command line

Every command, as `--help` shows it. What all commands share is set in the environment, see
[Settings](#settings).

| exit code | means |
|---:|---|
| 0 | it did what it was asked |
| 1 | something else went wrong: a launch stranded, a chain does not verify |
| 2 | what was given was refused, and nothing was changed |
| 3 | the engine could not be reached, or the process that drove the work ended before it did |
| 130 | you stopped watching (Ctrl-C); what was started goes on |
"""


def application() -> typer.Typer | None:
    """The application, if there is one yet."""
    import slipway.cli

    found = getattr(slipway.cli, "app", None)
    return found if isinstance(found, typer.Typer) else None


# Typer carries a copy of click whose classes have no public name, hence the Any.
def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name, in the order of ``--help``."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from commands(child, f"{path} {name}")


def page() -> str:
    """The whole page."""
    found = application()
    parts = [HEAD]
    if found is not None:
        parts += [_section(*item) for item in commands(typer.main.get_command(found), "slipway")]
    return "\n".join([*parts, _settings()])


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = [name, *(["[OPTIONS]"] if options else []), *(_metavar(a) for a in arguments)]
    lines = [f"## `{name}`", "", _prose(command.help), "", "```text", " ".join(usage), "```", ""]
    rows = [(_metavar(argument), argument) for argument in arguments]
    rows += [(", ".join([*option.opts, *option.secondary_opts]), option) for option in options]
    if rows:
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{label}` | {_describe(parameter)} |" for label, parameter in rows]
        lines += [""]
    return "\n".join(lines)


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    shown = name if argument.required or name.startswith("[") else f"[{name}]"
    return f"{shown}..." if argument.nargs == -1 and not shown.endswith("...") else shown


def _describe(parameter: Any) -> str:
    said = _prose(getattr(parameter, "help", None)).replace("\n", " ").replace("|", "\\|")
    notes = []
    if parameter.required and parameter.param_type_name == "option":
        notes.append("required")
    if isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool):
        notes.append(f"default: `{parameter.default}`")
    return f"{said} ({', '.join(notes)})" if notes else said


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b", "").replace("\f", "").strip()


def _settings() -> str:
    from slipway.settings import Settings

    lines = ["## Settings", "", "| variable | |", "|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `SLIPWAY_{name.upper()}` | {_prose(field.description)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
