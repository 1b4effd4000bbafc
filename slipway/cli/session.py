"""One run of the command line: the settings, and the services when a command needs them."""

from __future__ import annotations

import functools
import getpass
import socket
from typing import TYPE_CHECKING, Any

from slipway.cli.wiring import EngineFailed, Wiring
from slipway.errors import SlipwayError

if TYPE_CHECKING:
    import typer

    from slipway.cli.wiring import EngineServer
    from slipway.launches.engine import Engine
    from slipway.launches.services import Services
    from slipway.settings import Settings


class Session:
    """What commands work with; everything is made at first use."""

    def __init__(self, wiring: Wiring, settings: Settings | None = None) -> None:
        self.wiring = wiring
        self._settings = settings

    @functools.cached_property
    def settings(self) -> Settings:
        """Those given, else read from the environment. Raises `InvalidInput` naming the
        variable."""
        if self._settings is not None:
            return self._settings
        from pydantic import ValidationError

        from slipway.errors import InvalidInput, Problem
        from slipway.settings import Settings

        try:
            return Settings()
        except ValidationError as error:
            raise InvalidInput(
                Problem(where=f"SLIPWAY_{str(each['loc'][0]).upper()}", what=each["msg"])
                for each in error.errors()
            ) from error

    @functools.cached_property
    def services(self) -> Services:
        """The records, clouds and templates."""
        return self.wiring.services(self.settings)

    @functools.cached_property
    def engine(self) -> Engine:
        """Who runs flows."""
        return self.wiring.engine(self.settings)

    @functools.cached_property
    def server(self) -> EngineServer:
        """The server behind the engine."""
        return self.wiring.server(self.settings)

    def ready(self) -> str:
        """Make sure that flows can run, saying so while that takes its time; answers the address
        of the engine's UI. Raises `EngineFailed`."""
        from slipway.cli.output import waiting

        try:
            with waiting("starting the engine (10 to 20 s the first time)"):
                return self.engine.ready()
        except (SlipwayError, OSError) as error:
            raise EngineFailed(f"the engine is not ready, nothing was started: {error}") from error


def session(context: typer.Context) -> Session:
    """The session of this run of the command line."""
    root = context.find_root()
    kept: dict[str, Any] = root.meta
    found = kept.get("slipway.session")
    if not isinstance(found, Session):
        wiring = root.obj
        assert isinstance(wiring, Wiring), "the application is called with obj=Wiring(…)"
        found = kept["slipway.session"] = Session(wiring)
    return found


def actor() -> str:
    """Who acts, for the audit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # An account without a name has none in the record either.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
