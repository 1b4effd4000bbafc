"""What the command line is given from outside: this package knows no engine.

Whoever starts the command line passes a `Wiring` as the context's object: ``app(obj=Wiring(…))``.
Its factories are called when a command needs them, so that the others start quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from slipway.launches.engine import Engine
    from slipway.launches.services import Services
    from slipway.settings import Settings


class EngineFailed(SlipwayError):
    """The engine could not be reached, or ended before the work did."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """How the engine's server is, without starting it."""

    #: Whether it answers now.
    reachable: bool
    #: Where a person looks; empty when there is no server.
    ui_url: str
    #: Where clients talk to; empty when there is no server.
    api_url: str
    #: Whether it is the server of the state directory, which we may start and stop.
    ours: bool
    #: Its process, when it is ours and runs.
    pid: int | None = None
    log_file: str = ""
    #: Why it does not answer.
    problem: str = ""


class EngineServer(Protocol):
    """The server behind the engine."""

    def up(self) -> str:
        """Find it or start it; answers the address of its UI."""

    def down(self) -> bool:
        """Stop it if it is ours; answers whether one ran."""

    def status(self) -> EngineStatus:
        """How it is. Starts nothing."""


class Demo(Protocol):
    """The guided tour."""

    def __call__(self, settings: Settings, *, faults: bool, keep: bool) -> int:
        """Run it; answers the exit code."""


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """The parts that live above this package, each made at first use."""

    engine: Callable[[Settings], Engine]
    services: Callable[[Settings], Services]
    server: Callable[[Settings], EngineServer]
    demo: Demo
