"""Shell completion of names that are on record. It never fails and never creates anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from slipway.cli.session import Session, session
from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def _names(found: Callable[[Session], Iterable[str]], context: typer.Context) -> list[str]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        asked = session(context)
        if not asked.settings.state_dir.is_dir():
            return []
        return sorted(found(asked))
    except (SlipwayError, SQLAlchemyError, OSError, AssertionError):
        # A broken database shows in commands; in the middle of a line there is no place for it.
        return []


def servers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Servers that are not terminated."""

    def find(found: Session) -> Iterable[str]:
        from slipway.launches.requests import list_launches

        return [launch.server_name for launch in list_launches(found.services)]

    return [name for name in _names(find, ctx) if name.startswith(incomplete)]


def environments(ctx: typer.Context, incomplete: str) -> list[str]:
    """Environments."""

    def find(found: Session) -> Iterable[str]:
        from slipway.launches.environments import list_environments

        return [each.name for each in list_environments(found.services.database)]

    return [name for name in _names(find, ctx) if name.startswith(incomplete)]


def clouds(ctx: typer.Context, incomplete: str) -> list[str]:
    """Clouds that are configured."""
    return [
        name
        for name in _names(lambda asked: asked.services.clouds, ctx)
        if name.startswith(incomplete)
    ]


def mirrors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Repositories that are mirrored."""

    def find(found: Session) -> Iterable[str]:
        from slipway.launches.mirror_file import declared

        return declared(found.services.database)

    return [name for name in _names(find, ctx) if name.startswith(incomplete)]


def credentials(ctx: typer.Context, incomplete: str) -> list[str]:
    """Credentials that people keep."""
    found = _names(lambda asked: asked.services.vault.names(), ctx)
    return [name for name in found if name.startswith(incomplete)]


def tokens(ctx: typer.Context, incomplete: str) -> list[str]:
    """Tokens that were not revoked."""

    def find(found: Session) -> Iterable[str]:
        from slipway.tokens import list_tokens

        kept = list_tokens(found.services.database)
        return [token.name for token in kept if token.revoked_at is None]

    return [name for name in _names(find, ctx) if name.startswith(incomplete)]


def templates(ctx: typer.Context, incomplete: str) -> list[str]:
    """Templates with a working copy: the directory says, no database needed."""
    try:
        directory = session(ctx).settings.templates_dir
        names = [path.parent.name for path in directory.glob("*/template.yaml")]
    except (SlipwayError, OSError, AssertionError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def scripts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Operational scripts of the server that stands before on the line."""

    def find(found: Session) -> Iterable[str]:
        from slipway.launches.inputs import template_of
        from slipway.launches.requests import find_launch

        launch = find_launch(found.services, str(ctx.params.get("server")))
        return template_of(found.services, launch).operational

    return [name for name in _names(find, ctx) if name.startswith(incomplete)]
