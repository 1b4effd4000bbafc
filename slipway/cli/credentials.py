"""``slipway credential``: secrets, stored encrypted and named as ``cred:NAME``."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli import completing
from slipway.cli.output import AsJson, print_json, say
from slipway.cli.session import session

app = typer.Typer(
    help="Credentials: secrets, stored encrypted and named as cred:NAME.", no_args_is_help=True
)

Name = Annotated[
    str,
    typer.Argument(
        help="Name of the credential.", metavar="NAME", autocompletion=completing.credentials
    ),
]


@app.command(name="set")
def set_(
    context: typer.Context,
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            help="Where the value is: - (asked for, or one line of standard input), @FILE or "
            "var:VARIABLE; never the value itself.",
            metavar="[SOURCE]",
        ),
    ] = "-",
) -> None:
    """Store a credential, over one of the same name.

    Example: `slipway credential set staging-token @token.txt`.
    """
    from slipway.cli.giving import read_secret
    from slipway.vault import check_credential_name

    check_credential_name(name)
    value = read_secret(source, prompt=f"Value of {name}", where=f"credential {name}")
    session(context).services.vault.put(name, value)
    say(f"credential {name} is stored; give it to inputs as cred:{name}")


@app.command(name="list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the names of credentials; values are never shown.

    Example: `slipway credential list`.
    """
    names = session(context).services.vault.names()
    if as_json:
        print_json([{"name": name} for name in names])
        return
    for name in names:
        typer.echo(name)
    if not names:
        say("there are no credentials; store one with 'slipway credential set NAME'")


@app.command()
def remove(context: typer.Context, name: Name) -> None:
    """Forget a credential.

    Example: `slipway credential remove staging-token`.
    """
    session(context).services.vault.remove(name)
    say(f"credential {name} is removed")
