"""The port for working on a server, and the nouns that cross it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from slipway.clock import Clock

#: Called with each piece of output as it arrives.
OnOutput = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a server is reached and who we are there."""

    host: str
    port: int
    user: str
    #: The private key file; the key itself never travels through our records.
    key_file: Path
    #: ``ssh-ed25519 AAAA…``: the only host key accepted. None trusts the first one shown.
    host_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command line for the server's shell.

    ``text`` is printable: whatever must not be seen goes into ``stdin``, which is never logged
    and never part of the ``repr``.
    """

    text: str
    timeout_s: float
    stdin: bytes = b""

    def __repr__(self) -> str:
        hidden = f", stdin=<{len(self.stdin)} bytes>" if self.stdin else ""
        return f"Command({self.text!r}, timeout_s={self.timeout_s}{hidden})"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a command ended."""

    #: -1 when a signal ended it.
    exit_code: int
    #: The whole output; with ``on_stdout`` only the last 64 KiB, the rest has been handed over.
    stdout: str
    stderr: str
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """A question, its answer, and what it took by our clock."""

    sent_at: datetime
    rtt_s: float
    answer: str


class Conversation(Protocol):
    """A running command that is talked to line by line."""

    def send_line(self, line: str) -> None:
        """Write one line to its standard input. Raises `ConnectionLost`."""

    def read_line(self, *, timeout_s: float) -> str:
        """The next line of its standard output, without the line end. Raises `CommandTimedOut`
        when none comes in time and `ConnectionLost` when the command or connection ended."""

    def round_trips(
        self, line: str, count: int, *, clock: Clock, timeout_s: float
    ) -> Sequence[RoundTrip]:
        """Send the line so often, each time after the answer to the one before, and time each.
        Whoever is nearest to the server does the timing: us, by ``clock``, or the process of ours
        that the server talks to, by its own. Raises as `read_line` does."""


class Remote(Protocol):
    """An open connection to one server. Errors are `slipway.errors.RemoteError` subclasses."""

    @property
    def host_key(self) -> str:
        """The host key the server showed, ``ssh-ed25519 AAAA…``."""

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        """Run a command to its end. Raises `CommandTimedOut` after ``timeout_s`` and
        `ConnectionLost` when the connection breaks: the outcome is then unknown."""

    def converse(self, command: str) -> AbstractContextManager[Conversation]:
        """Start a command and talk to it over one channel; leaving the block ends it."""

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write a file: complete or not at all."""

    def get(self, path: str) -> bytes:
        """Read a file. Raises `NotFound`."""

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""


class Connector(Protocol):
    """Opens connections; the one place that knows the protocol behind `Remote`."""

    def connect(self, endpoint: Endpoint, *, timeout_s: float) -> Remote:
        """Connect, log in, check the host key."""


def time_round_trips(
    talk: Conversation, line: str, count: int, *, clock: Clock, timeout_s: float
) -> list[RoundTrip]:
    """`Conversation.round_trips` for a conversation that we hold ourselves."""
    trips = []
    for _ in range(count):
        sent_at, before = clock.now(), clock.monotonic()
        talk.send_line(line)
        answer = talk.read_line(timeout_s=timeout_s)
        trips.append(RoundTrip(sent_at=sent_at, rtt_s=clock.monotonic() - before, answer=answer))
    return trips
