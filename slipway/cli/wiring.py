"""What the command line is given from outside: this package knows no engine.

Whoever starts the command line passes a `Wiring` as the context's object: ``app(obj=Wiring(…))``.
Its factories are called when a command needs them, so that the others start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from pydantic import SecretStr

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


#: What `slipway up` can run, in the order of starting.
Part = Literal["prefect", "deploy", "api", "worker"]


@dataclass(frozen=True, kw_only=True)
class StackRequest:
    """What `slipway up` is to run here."""

    #: Empty means everything there is.
    only: frozenset[Part] = frozenset()
    #: Where the API listens; port 0 means any that is free.
    host: str = "127.0.0.1"
    port: int = 4280
    #: Where Prefect's server listens; no port means that of last time, or 4200, or any.
    prefect_host: str = "127.0.0.1"
    prefect_port: int | None = None
    workers: int = 1
    #: Flow runs of one worker at a time; None leaves it to the settings.
    worker_limit: int | None = None
    #: Database server for Slipway and Prefect; None means SQLite in the state directory.
    postgres: SecretStr | None = None
    #: What several Prefect servers talk through.
    redis: SecretStr | None = None
    log_format: Literal["text", "json"] = "text"
    #: Where the log goes instead of standard output.
    log_file: Path | None = None
    #: Go on in the background once everything is ready.
    detach: bool = False


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """How one service of `slipway up` is."""

    name: str
    state: str
    pid: int | None
    url: str
    restarts: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """How what `slipway up` runs is."""

    pid: int
    #: When it was started, as ISO 8601.
    since: str
    #: Empty when it writes to its terminal.
    log_file: str
    services: tuple[ServiceStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether all of it serves."""
        return all(each.state in ("ready", "done") for each in self.services)


class Stack(Protocol):
    """Everything that runs on one machine, for one state directory."""

    def up(self, request: StackRequest) -> int:
        """Run it until told to stop, or leave it in the background; answers the exit code."""

    def down(self) -> bool:
        """Stop what runs, wherever it was started; answers whether anything did."""

    def status(self) -> StackStatus | None:
        """How it is; None when nothing runs."""


class Action(StrEnum):
    """What became of one thing that was to be in the engine."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    #: It needs something that is not configured.
    LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """One value that was another before; secrets are not shown."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that was to be in the engine, and what became of it."""

    kind: str
    name: str
    action: Action
    fields: tuple[FieldChange, ...] = ()
    #: Why it was left out.
    note: str = ""


class Deploy(Protocol):
    """Brings the engine's server to what a file says."""

    def __call__(
        self, settings: Settings, *, file: Path | None, pool: str | None, dry_run: bool
    ) -> Iterator[Change]:
        """Each thing as it is done; with ``dry_run``, as it would be. Without a file, the one that
        comes with Slipway. ``pool`` takes the place of the file's work pools."""


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
    stack: Callable[[Settings], Stack]
    demo: Demo
    deploy: Deploy
