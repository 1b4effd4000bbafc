"""The application: which commands there are, and how it ends when something is wrong.

Command modules import only what their signatures need; what they work with is imported inside the
functions. `slipway --help` and completion have to answer while somebody waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from slipway.cli import (
    audits,
    clouds,
    credentials,
    databases,
    deploying,
    doctoring,
    engines,
    environments,
    launching,
    operating,
    servers,
    stack,
    sweeping,
    tokens,
)
from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say, wants_json
from slipway.cli.session import session
from slipway.errors import InvalidInput, SlipwayError


class Root(TyperGroup):
    """All commands; turns what goes wrong in any of them into words and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with _told(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(context: typer.Context) -> Iterator[None]:
    try:
        yield
    except SlipwayError as error:
        lines = str(error).splitlines()
        if isinstance(error, InvalidInput):
            lines = [" ".join(str(problem).splitlines()) for problem in error.problems]
        for line in lines:
            say(line)
        if wants_json(context):
            found: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
            if isinstance(error, InvalidInput):
                found["problems"] = [dataclasses.asdict(problem) for problem in error.problems]
            print_json(found)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


class _Lazy(TyperGroup):
    """A group of commands whose module is imported when they are asked for."""

    module: ClassVar[str]
    _loaded: TyperGroup | None = None

    @property
    def commands(self) -> Any:
        if self._loaded is None:
            found = typer.main.get_command(importlib.import_module(self.module).app)
            assert isinstance(found, TyperGroup)
            self._loaded = found
        return self._loaded.commands

    @commands.setter
    def commands(self, value: Any) -> None:
        """There are none before the module is imported."""


class _Templates(_Lazy):
    module = "slipway.cli.template"


class _Mirrors(_Lazy):
    module = "slipway.cli.mirrors"


class _Local(_Lazy):
    module = "slipway.cli.local"


app = typer.Typer(
    cls=Root,
    name="slipway",
    help="Builds and launches servers, with every step on record.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (launching, servers, operating, sweeping, stack):
    module.register(app)
app.add_typer(
    typer.Typer(no_args_is_help=True),
    name="template",
    cls=_Templates,
    help="ServerTemplates: write, check, version, compare and import them.",
)
app.add_typer(
    typer.Typer(no_args_is_help=True),
    name="mirror",
    cls=_Mirrors,
    help="Package repositories, kept by day and served.",
)
app.add_typer(environments.app, name="environments")
app.add_typer(credentials.app, name="credential")
app.add_typer(clouds.app, name="cloud")
app.add_typer(tokens.app, name="token")
app.add_typer(audits.app, name="audit")
app.add_typer(databases.app, name="database")
app.add_typer(engines.app, name="engine")
app.add_typer(
    typer.Typer(no_args_is_help=True),
    name="local",
    cls=_Local,
    help="The local cloud: stand-in machines on this computer.",
)
deploying.register(app)
doctoring.register(app)


@app.command()
def demo(
    context: typer.Context,
    faults: Annotated[
        bool, typer.Option("--faults", help="Show what servers that misbehave come to, instead.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the servers and Prefect running at the end.")
    ] = False,
) -> None:
    """Show what Slipway does, on this computer: no cloud account, no root, no containers.

    It works in `.slipway/demo` below the current directory, unless `SLIPWAY_STATE_DIR` says
    otherwise, and stops everything it started.

    Example: `slipway demo --faults`.
    """
    found = session(context)
    raise typer.Exit(found.wiring.demo(found.settings, faults=faults, keep=keep))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print which version this is.

    Example: `slipway version --json`.
    """
    import slipway

    if as_json:
        python = ".".join(str(part) for part in sys.version_info[:3])
        print_json({"slipway": slipway.__version__, "python": python})
        return
    typer.echo(f"slipway {slipway.__version__}")
