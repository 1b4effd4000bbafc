"""``slipway token``: who may call the HTTP API."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli import completing
from slipway.cli.output import AsJson, iso, print_json, say, stdout, when
from slipway.cli.session import actor, session
from slipway.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from typing import Any

    from slipway.records import Token

app = typer.Typer(
    help="Tokens: who may call the HTTP API, for what and until when.", no_args_is_help=True
)

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NEVER = "never"


@app.command()
def create(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="Who or what uses it; the audit says token/NAME.", metavar="NAME"),
    ],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            "-s",
            help="read, launch (and read), write (and read) or admin (everything); may be given "
            "several times.",
            metavar="SCOPE",
        ),
    ],
    expires_in: Annotated[
        str,
        typer.Option(help="How long it is good for: 12h, 90d, 8w, or never.", metavar="TIME"),
    ] = "90d",
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept.

    Example: `slipway token create ci --scope launch --expires-in 90d`.
    """
    from slipway import tokens

    services = session(context).services
    issued = tokens.create(
        services.database,
        services.clock,
        name,
        scopes=scopes,
        expires_in=_duration(expires_in),
        actor=actor(),
    )
    value = issued.value.get_secret_value()
    if as_json:
        print_json({**_data(issued.token), "token": value})
        return
    typer.echo(value)
    until = when(issued.token.expires_at) if issued.token.expires_at else "it is revoked"
    say(f"token {name}, good for {', '.join(issued.token.scopes)} until {until}")
    say("it is not shown again; send it as 'Authorization: Bearer TOKEN'")


@app.command(name="list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tokens, with those that have ended.

    Example: `slipway token list`.
    """
    from slipway import tokens

    services = session(context).services
    found = tokens.list_tokens(services.database)
    if as_json:
        print_json([_data(token) for token in found])
        return
    if not found:
        say("there are no tokens; make one with 'slipway token create NAME --scope SCOPE'")
        return
    from rich.table import Table

    now = services.clock.now()
    table = Table(box=None, header_style="bold")
    for title in ("TOKEN", "BEGINS WITH", "SCOPES", "GOOD", "UNTIL", "LAST USED", "CREATED BY"):
        table.add_column(title, overflow="fold")
    for token in found:
        table.add_row(
            token.name,
            token.prefix,
            ", ".join(token.scopes),
            "yes" if tokens.is_good(token, now) else "revoked" if token.revoked_at else "expired",
            when(token.revoked_at or token.expires_at),
            when(token.last_used_at),
            token.created_by,
        )
    stdout().print(table)


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="Name or id of the token.", metavar="NAME", autocompletion=completing.tokens
        ),
    ],
) -> None:
    """End a token at once.

    Example: `slipway token revoke ci`.
    """
    from slipway import tokens

    services = session(context).services
    token = tokens.revoke(services.database, services.clock, name, actor=actor())
    say(f"token {token.name} ({token.prefix}…) is revoked")


def _duration(text: str) -> timedelta | None:
    if text == _NEVER:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)
    if found is None:
        what = f"{text!r} is no length of time; use 30m, 12h, 90d, 8w or never"
        raise InvalidInput(Problem(where="expires-in", what=what))
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _data(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "prefix": token.prefix,
        "scopes": token.scopes,
        "created_by": token.created_by,
        "created_at": iso(token.created_at),
        "expires_at": iso(token.expires_at),
        "revoked_at": iso(token.revoked_at),
        "last_used_at": iso(token.last_used_at),
    }
