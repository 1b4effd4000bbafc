"""The port for working on a server, and the nouns that cross it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


class Conversation(Protocol):
    """A running command that is talked to line by line."""

    def send_line(self, line: str) -> None:
        """Write one line to its standard input. Raises `ConnectionLost`."""

    def read_line(self, *, timeout_s: float) -> str:
        """The next line of its standard output, without the line end. Raises `CommandTimedOut`
        when none comes in time and `ConnectionLost` when the command or connection ended."""


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
