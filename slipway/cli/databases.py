"""``slipway database``: the tables behind everything, upgraded and copied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say, waiting
from slipway.cli.session import session

if TYPE_CHECKING:
    from slipway.database import Database

app = typer.Typer(help="The database: its schema, and copies of it.", no_args_is_help=True)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Say whether the tables are what this Slipway expects; code 1 when not. Changes nothing.

    Example: `slipway database status`.
    """
    from slipway.database import SCHEMA_VERSION

    database = _database(context)
    found = database.schema_version()
    if as_json:
        print_json({"database": _shown(database), "schema": found, "expected": SCHEMA_VERSION})
    else:
        typer.echo(f"{_shown(database)}: schema {found or 'none'}, expected {SCHEMA_VERSION}")
    if found != SCHEMA_VERSION:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def upgrade(context: typer.Context) -> None:
    """Bring the tables to what this Slipway expects; all of it or nothing.

    Every process does so when it starts. To do it once, before they do, is for upgrades of many
    machines. Example: `slipway database upgrade`.
    """
    database = _database(context)
    before = database.schema_version()
    with waiting("upgrading the tables"):
        database.migrate()
    after = database.schema_version()
    changed = f"from {before or 'none'} to {after}" if before != after else f"at {after} already"
    say(f"{_shown(database)}: schema {changed}")


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where the copy goes; must not exist.")],
) -> None:
    """Copy an SQLite database as it is at one moment, while everything goes on.

    For PostgreSQL use `pg_dump`. The secrets in the copy are encrypted with a key that is not in
    it: keep `keys/` of the state directory too, in another place.
    Example: `slipway database backup /backup/slipway.db`.
    """
    settings = session(context).settings
    with waiting(f"copying to {file}"):
        _database(context).backup(file)
    say(f"copied to {file}; it needs the keys in {settings.state_dir / 'keys'} to open secrets")


def _database(context: typer.Context) -> Database:
    """Not the services' one, which is migrated when it is made."""
    from slipway.database import Database

    return Database(session(context).settings.database_url)


def _shown(database: Database) -> str:
    return database.url.render_as_string(hide_password=True)
