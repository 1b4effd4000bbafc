"""``slipway environments``: named sets of servers and inputs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli import completing
from slipway.cli.output import AsJson, iso, print_json, say, stdout
from slipway.cli.session import actor, session
from slipway.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway.launches.services import Services
    from slipway.records import Environment

app = typer.Typer(
    help="Environments: named sets of servers, with inputs and a freeze date they share.",
    no_args_is_help=True,
)

Name = Annotated[
    str,
    typer.Argument(
        help="Name of the environment.", metavar="NAME", autocompletion=completing.environments
    ),
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        help="One or more values; a secret as NAME=cred:CREDENTIAL.", metavar="NAME=VALUE..."
    ),
]
Day = Annotated[
    datetime,
    typer.Argument(help="The day, such as 2026-11-01.", formats=["%Y-%m-%d"], metavar="DATE"),
]


@app.command(name="list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the environments.

    Example: `slipway environments list --json`.
    """
    from slipway.launches.environments import list_environments
    from slipway.launches.requests import list_launches

    services = session(context).services
    found = list_environments(services.database)
    servers: dict[str | None, list[str]] = {}
    for launch in list_launches(services):
        servers.setdefault(launch.environment, []).append(launch.server_name)
    if as_json:
        print_json([_data(each, servers.get(each.name, [])) for each in found])
        return
    if not found:
        say("there are no environments; make one with 'slipway environments create NAME'")
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("ENVIRONMENT", "FROZEN TO", "INPUTS", "SERVERS"):
        table.add_column(title, overflow="fold")
    for each in found:
        names = ", ".join(servers.get(each.name, [])) or "-"
        table.add_row(each.name, str(each.freeze or "-"), str(len(each.inputs)), names)
    stdout().print(table)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new environment.", metavar="NAME")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="NAME=VALUE; may be given several times.", metavar="NAME=VALUE"
        ),
    ] = None,
    inputs_file: Annotated[
        Path | None, typer.Option(help="YAML file with one NAME: value a line.")
    ] = None,
    freeze: Annotated[
        datetime | None,
        typer.Option(
            help="The day its servers are frozen to.", formats=["%Y-%m-%d"], metavar="DATE"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an environment.

    Example: `slipway environments create staging --input DOMAIN=example`.
    """
    from slipway.cli.giving import from_file, pairs
    from slipway.launches.environments import create_environment

    services = session(context).services
    written, given = pairs(inputs or [])
    if given.problems:
        raise InvalidInput(given.problems)
    values: dict[str, Any] = from_file(inputs_file) if inputs_file else {}
    _no_literal_secrets(services, {**values, **written})
    made = create_environment(
        services.database,
        services.clock,
        name,
        actor=actor(),
        inputs={**values, **written},
        freeze=freeze.date() if freeze else None,
    )
    _changed(made, as_json, "created")


@app.command()
def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show an environment's inputs and servers.

    Example: `slipway environments show staging`.
    """
    from slipway.cli.servers import values
    from slipway.launches.environments import get_environment
    from slipway.launches.requests import list_launches

    services = session(context).services
    found = get_environment(services.database, name)
    launches = list_launches(services, environment=name)
    if as_json:
        print_json(_data(found, [launch.server_name for launch in launches]))
        return
    typer.echo(f"{found.name}  {f'frozen to {found.freeze}' if found.freeze else 'not frozen'}")
    values({key: str(value) for key, value in found.inputs.items()}, "inputs")
    values({launch.server_name: launch.status for launch in launches}, "servers")


@app.command(name="set")
def set_(context: typer.Context, name: Name, inputs: Inputs, as_json: AsJson = False) -> None:
    """Set inputs; servers that are up keep what they have.

    Example: `slipway environments set staging GREETING=hello TOKEN=cred:staging-token`.
    """
    from slipway.cli.giving import pairs
    from slipway.launches.environments import change_environment

    services = session(context).services
    values, given = pairs(inputs, option="argument")
    if given.problems:
        raise InvalidInput(given.problems)
    _no_literal_secrets(services, values)
    changed = change_environment(
        services.database, services.clock, name, actor=actor(), set_inputs=values
    )
    _changed(changed, as_json, "changed")


@app.command()
def unset(
    context: typer.Context,
    name: Name,
    inputs: Annotated[list[str], typer.Argument(help="Names of inputs.", metavar="INPUT...")],
    as_json: AsJson = False,
) -> None:
    """Take inputs away.

    Example: `slipway environments unset staging GREETING`.
    """
    from slipway.launches.environments import change_environment

    services = session(context).services
    changed = change_environment(
        services.database, services.clock, name, actor=actor(), unset_inputs=tuple(inputs)
    )
    _changed(changed, as_json, "changed")


@app.command()
def freeze(context: typer.Context, name: Name, day: Day, as_json: AsJson = False) -> None:
    """Install packages as they were on a day, from the next launch on.

    Example: `slipway environments freeze staging 2026-11-01`.
    """
    from slipway.launches.environments import change_environment

    services = session(context).services
    changed = change_environment(
        services.database, services.clock, name, actor=actor(), freeze=day.date()
    )
    _changed(changed, as_json, f"frozen to {changed.freeze}")


@app.command()
def thaw(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Install today's packages again, from the next launch on.

    Example: `slipway environments thaw staging`.
    """
    from slipway.launches.environments import change_environment

    services = session(context).services
    changed = change_environment(services.database, services.clock, name, actor=actor(), thaw=True)
    _changed(changed, as_json, "not frozen any more")


@app.command()
def delete(context: typer.Context, name: Name) -> None:
    """Remove an environment whose servers are all down.

    Example: `slipway environments delete staging`.
    """
    from slipway.launches.environments import delete_environment

    services = session(context).services
    delete_environment(services.database, services.clock, name, actor=actor())
    say(f"environment {name} is deleted")


def _no_literal_secrets(services: Services, values: Mapping[str, Any]) -> None:
    """Refuse what would be a secret in clear text. Raises `InvalidInput`."""
    from slipway.launches.environments import literal_secrets

    problems = literal_secrets(services.templates, values)
    if problems:
        raise InvalidInput(problems)


def _changed(environment: Environment, as_json: bool, what: str) -> None:
    if as_json:
        print_json(_data(environment, None))
    say(f"environment {environment.name} is {what}")


def _data(environment: Environment, servers: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": environment.name,
        "inputs": environment.inputs,
        "freeze": environment.freeze.isoformat() if environment.freeze else None,
        "created_at": iso(environment.created_at),
        "updated_at": iso(environment.updated_at),
    }
    if servers is not None:
        found["servers"] = servers
    return found
