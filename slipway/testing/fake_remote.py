"""A server that answers from a script, and a connector to it."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from slipway.clock import Clock
from slipway.errors import CommandTimedOut, ConnectionLost, NotFound
from slipway.remote.base import (
    Command,
    Connector,
    Conversation,
    Endpoint,
    OnOutput,
    Remote,
    Result,
    RoundTrip,
    time_round_trips,
)

#: What a command does: its result, or an error to raise, or a function of the command.
Scripted = Result | Exception | Callable[[Command], Result]

#: Answers one line of a conversation with any number of lines.
Reply = Callable[[str], Iterable[str]]


def result(stdout: str = "", *, exit_code: int = 0, stderr: str = "") -> Result:
    """A `Result` with the uninteresting fields filled in."""
    return Result(exit_code=exit_code, stdout=stdout, stderr=stderr, duration_s=0.0)


@dataclass
class _Rule:
    pattern: re.Pattern[str]
    answers: list[Scripted]

    def next(self) -> Scripted:
        """The next answer; the last one stays."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class FakeRemote:
    """A `Remote` that knows what it was told and fails loudly on anything else.

    ``commands`` remembers every command, ``files`` what was put.
    """

    def __init__(self, *, host_key: str = "ssh-ed25519 AAAAfake") -> None:
        self._host_key = host_key
        self._rules: list[_Rule] = []
        self._conversations: list[tuple[re.Pattern[str], Reply]] = []
        self.commands: list[Command] = []
        self.said: list[str] = []
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.closed = False

    def on(self, pattern: str, *answers: Scripted) -> FakeRemote:
        """Answer commands whose text matches (`re.search`): the answers in turn, then the last."""
        if not answers:
            raise ValueError(f"no answer given for {pattern!r}")
        self._rules.append(_Rule(re.compile(pattern, re.DOTALL), list(answers)))
        return self

    def on_conversation(self, pattern: str, reply: Reply) -> FakeRemote:
        """Answer conversations whose command matches, line by line."""
        self._conversations.append((re.compile(pattern, re.DOTALL), reply))
        return self

    @property
    def host_key(self) -> str:
        return self._host_key

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        self._check_open()
        self.commands.append(command)
        for rule in self._rules:
            if rule.pattern.search(command.text):
                answer = rule.next()
                break
        else:
            known = ", ".join(repr(rule.pattern.pattern) for rule in self._rules) or "none"
            raise AssertionError(f"no answer for {shlex.quote(command.text)}; known: {known}")
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Result):
            answer = answer(command)
        if on_stdout is not None and answer.stdout:
            on_stdout(answer.stdout.encode())
        return answer

    @contextlib.contextmanager
    def converse(self, command: str) -> Iterator[Conversation]:
        self._check_open()
        self.commands.append(Command(text=command, timeout_s=0))
        for pattern, reply in self._conversations:
            if pattern.search(command):
                yield _FakeConversation(self.said, reply)
                return
        raise AssertionError(f"no conversation known for {shlex.quote(command)}")

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        self._check_open()
        self.files[path] = content
        self.modes[path] = mode

    def get(self, path: str) -> bytes:
        self._check_open()
        if path not in self.files:
            raise NotFound(f"there is no file {path}")
        return self.files[path]

    def close(self) -> None:
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionLost("the connection is closed")


class _FakeConversation:
    def __init__(self, said: list[str], reply: Reply) -> None:
        self._said = said
        self._reply = reply
        self._lines: list[str] = []

    def send_line(self, line: str) -> None:
        self._said.append(line)
        self._lines.extend(self._reply(line))

    def read_line(self, *, timeout_s: float) -> str:
        if not self._lines:
            raise CommandTimedOut(f"no answer within {timeout_s:g} s")
        return self._lines.pop(0)

    def round_trips(
        self, line: str, count: int, *, clock: Clock, timeout_s: float
    ) -> list[RoundTrip]:
        return time_round_trips(self, line, count, clock=clock, timeout_s=timeout_s)


class FakeConnector:
    """A `Connector` to scripted servers: each connection takes the next of ``remotes`` (or raises
    it), the last one stays. ``endpoints`` remembers where it was asked to go."""

    def __init__(self, *remotes: FakeRemote | Exception) -> None:
        if not remotes:
            raise ValueError("no remote given")
        self._remotes = list(remotes)
        self.endpoints: list[Endpoint] = []

    def connect(self, endpoint: Endpoint, *, timeout_s: float) -> Remote:  # noqa: ARG002 (the port's)
        self.endpoints.append(endpoint)
        remote = self._remotes.pop(0) if len(self._remotes) > 1 else self._remotes[0]
        if isinstance(remote, Exception):
            raise remote
        remote.closed = False
        return remote


_: type[Connector] = FakeConnector
_remote: type[Remote] = FakeRemote
