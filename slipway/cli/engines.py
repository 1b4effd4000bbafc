"""``slipway engine``: the Prefect server behind the flows."""

from __future__ import annotations

import dataclasses

import typer

from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say, waiting
from slipway.cli.session import session

app = typer.Typer(
    help="The engine: the Prefect server of this state directory.", no_args_is_help=True
)


@app.command()
def up(context: typer.Context, as_json: AsJson = False) -> None:
    """Start the Prefect server, or find it; it stays up.

    Example: `slipway engine up`.
    """
    server = session(context).server
    with waiting("starting the Prefect server (10 to 20 s the first time)"):
        url = server.up()
    if as_json:
        print_json(dataclasses.asdict(server.status()))
        return
    typer.echo(f"Prefect is up: {url}")


@app.command()
def down(context: typer.Context) -> None:
    """Stop the Prefect server; what it knows is kept.

    Example: `slipway engine down`.
    """
    ran = session(context).server.down()
    say("the Prefect server is stopped" if ran else "no Prefect server of ours was running")


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Say whether the Prefect server answers; code 3 when not.

    Example: `slipway engine status`.
    """
    found = session(context).server.status()
    if as_json:
        print_json(dataclasses.asdict(found))
    elif found.reachable:
        ours = f"process {found.pid}" if found.ours else "given by PREFECT_API_URL"
        typer.echo(f"Prefect is up: {found.ui_url} ({ours})")
    else:
        typer.echo(f"Prefect is not up: {found.problem}")
    if not found.reachable:
        raise typer.Exit(ExitCode.ENGINE)
