"""A server that calls us, behind the `Remote` port: each command is left for its agent to fetch.

We and the process that the agent talks to need not be one; the database is between us. So nothing
is held open while nothing happens: a "connection" is the knowledge that the agent has called a
moment ago, and a command is a row that is looked at a few times a second until it has ended.

What a lost connection is to SSH, an agent that has gone silent is here: it raises `ConnectionLost`,
the command's outcome is unknown, and `slipway.remote.once` attaches to the script as ever.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from slipway.clock import Clock
from slipway.errors import (
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    NotFound,
    RemoteError,
)
from slipway.phonehome.identity import Identities
from slipway.phonehome.instructions import Instructions, Kind, Status, Stream
from slipway.remote.base import (
    Command,
    Conversation,
    OnOutput,
    Remote,
    Result,
    RoundTrip,
)
from slipway.remote.files import NO_SUCH_FILE, reading, writing

#: An agent asks for something to do every 25 s when it has nothing; one that has not for longer
#: than this is not there. Its calls are timed by another process of ours, whose clock may differ.
PRESENT_S = 40.0

#: An agent that is there fetches an instruction at once, unless it still has one that nobody waits
#: for, which it notices within 5 s.
FETCHED_WITHIN_S = 15.0

#: An agent reports a command that prints nothing every 5 s.
SILENT_S = 30.0

#: Between two looks at a command: from the first to the longest, growing by half.
FIRST_LOOK_S = 0.03
LONGEST_LOOK_S = 0.5

#: The agent ends a command itself when its time is over; so much longer we wait to hear of it.
_SLACK_S = 10.0

#: Called with each piece of output, and whether it is standard output or error.
OnPiece = Callable[[Stream, bytes], None]

#: What is kept of output that was handed over already.
_TAIL_BYTES = 64 * 1024


def connect_agent(
    identities: Identities,
    instructions: Instructions,
    clock: Clock,
    *,
    launch_id: str,
    generation: int,
    server: str,
) -> AgentRemote:
    """A `Remote` to a server whose agent has called a moment ago. Raises `ConnectionFailed`."""
    agent = identities.find(launch_id, generation)
    if agent is None or agent.secret_hash is None or agent.last_seen_at is None:
        raise ConnectionFailed(f"the agent of {server} has not called yet")
    silent_s = (clock.now() - agent.last_seen_at).total_seconds()
    if silent_s > PRESENT_S:
        raise ConnectionFailed(
            f"the agent of {server} has not called for {silent_s:.0f} s "
            f"(since {agent.last_seen_at:%H:%M:%S} UTC)"
        )
    # Only who holds the launch's lease connects: what an earlier driver left is nobody's.
    instructions.remove(launch_id, generation)
    return AgentRemote(
        identities,
        instructions,
        clock,
        launch_id=launch_id,
        generation=generation,
        server=server,
        fingerprint=agent.secret_hash[:32],
    )


class AgentRemote:
    """The commands of one step; made by `connect_agent`."""

    def __init__(
        self,
        identities: Identities,
        instructions: Instructions,
        clock: Clock,
        *,
        launch_id: str,
        generation: int,
        server: str,
        fingerprint: str,
    ) -> None:
        self._identities = identities
        self._instructions = instructions
        self._clock = clock
        self._agent = (launch_id, generation)
        self._server = server
        self._fingerprint = fingerprint
        self._closed = False

    @property
    def host_key(self) -> str:
        """Who answers: the beginning of the hash of the secret that the agent calls with."""
        return f"slipway-agent SHA256:{self._fingerprint}"

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        body = {
            "command": command.text,
            "stdin": base64.b64encode(command.stdin).decode(),
            "timeout_s": command.timeout_s,
        }
        started = self._clock.monotonic()
        out, err = bytearray(), bytearray()

        def take(stream: Stream, data: bytes) -> None:
            if stream is Stream.ERR:
                err.extend(data)
                return
            out.extend(data)
            if on_stdout is not None:
                on_stdout(data)
                del out[:-_TAIL_BYTES]

        result = self._do(Kind.RUN, body, command.timeout_s, take)
        return Result(
            exit_code=int(result["exit_code"]),
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            duration_s=self._clock.monotonic() - started,
        )

    @contextlib.contextmanager
    def converse(self, command: str) -> Iterator[Conversation]:
        yield _AgentConversation(self, command)

    def round_trips(
        self, command: str, line: str, count: int, *, timeout_s: float
    ) -> list[RoundTrip]:
        """Start the command there and time questions to it, from the process of ours that the
        agent talks to."""
        body = {"command": command, "line": line, "count": count, "timeout_s": timeout_s}
        result = self._do(Kind.TIME, body, timeout_s)
        return [
            RoundTrip(
                sent_at=datetime.fromisoformat(trip["sent_at"]),
                rtt_s=float(trip["rtt_s"]),
                answer=str(trip["answer"]),
            )
            for trip in result["trips"]
        ]

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        result = self.run(writing(content, path, mode=mode))
        if result.exit_code != 0:
            why = result.stderr.strip() or "no reason given"
            raise RemoteError(f"{self._server}: {path} could not be written: {why}")

    def get(self, path: str) -> bytes:
        pieces: list[bytes] = []
        result = self.run(reading(path), on_stdout=pieces.append)
        if result.exit_code == NO_SUCH_FILE:
            raise NotFound(f"{self._server}: there is no file {path}")
        if result.exit_code != 0:
            why = result.stderr.strip() or "no reason given"
            raise RemoteError(f"{self._server}: {path} could not be read: {why}")
        return b"".join(pieces)

    def leave(self, *, timeout_s: float) -> None:
        """Let the agent remove itself. Raises `RemoteError` when it does not say that it will."""
        self._do(Kind.LEAVE, {}, timeout_s)

    def close(self) -> None:
        self._closed = True

    def _do(
        self,
        kind: Kind,
        body: Mapping[str, Any],
        timeout_s: float,
        take: OnPiece = lambda _stream, _data: None,
    ) -> Mapping[str, Any]:
        """Leave an instruction and wait for its end, taking what it prints on the way."""
        seq: int | None = None
        try:
            self._check_open()
            seq = self._instructions.put(*self._agent, kind, body)
            return self._wait(seq, timeout_s, take)
        finally:
            if seq is not None:
                self._instructions.remove(*self._agent, seq)

    def _wait(self, seq: int, timeout_s: float, take: OnPiece) -> Mapping[str, Any]:
        clock = self._clock
        began = heard = clock.monotonic()
        pause_s = FIRST_LOOK_S
        fetched = False
        while True:
            clock.sleep(pause_s)
            self._check_open()
            found = self._instructions.look(*self._agent, seq)
            if found is None:
                raise ConnectionLost(f"{self._server}: somebody else has taken over its agent")
            for stream, data in found.pieces:
                take(stream, data)
            if found.result is not None:
                return self._check(found.result, timeout_s)
            now = clock.monotonic()
            if found.status is Status.RUNNING and not fetched:
                fetched, heard = True, now
            if not fetched and now - began >= FETCHED_WITHIN_S:
                raise ConnectionLost(f"the agent of {self._server} does not fetch what it is to do")
            if found.pieces:
                heard, pause_s = now, FIRST_LOOK_S
            elif fetched and now - heard >= SILENT_S:
                heard = now - self._silent_s()
                if now - heard >= SILENT_S:
                    raise ConnectionLost(f"the agent of {self._server} has gone silent")
            if now - began >= timeout_s + _SLACK_S:
                raise CommandTimedOut(self._too_long(timeout_s))
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def _check(self, result: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        if result.get("timed_out"):
            raise CommandTimedOut(self._too_long(timeout_s))
        if result.get("unknown"):
            raise RemoteError(f"the agent of {self._server} is too old for this")
        if result.get("lost"):
            raise ConnectionLost(f"the agent of {self._server} was restarted in the middle")
        return result

    def _silent_s(self) -> float:
        agent = self._identities.find(*self._agent)
        if agent is None or agent.last_seen_at is None:
            return float("inf")
        ago = self._clock.now() - agent.last_seen_at
        return max(ago, timedelta(0)).total_seconds()

    def _too_long(self, timeout_s: float) -> str:
        return f"{self._server}: a command did not end within {timeout_s:g} s and was ended"

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionLost(f"{self._server}: no longer followed")


class _AgentConversation:
    """`Conversation` with a command that answers its input: what has been said so far is given to
    a new one each time an answer is wanted, so there is no process that could get lost."""

    def __init__(self, remote: AgentRemote, command: str) -> None:
        self._remote = remote
        self._command = command
        self._said: list[str] = []
        self._answers: list[str] = []

    def send_line(self, line: str) -> None:
        self._said.append(line)

    def read_line(self, *, timeout_s: float) -> str:
        if not self._answers and self._said:
            said = "".join(f"{line}\n" for line in self._said).encode()
            self._said.clear()
            result = self._remote.run(Command(text=self._command, timeout_s=timeout_s, stdin=said))
            self._answers = result.stdout.splitlines()
        if not self._answers:
            raise ConnectionLost(f"{self._command.split()[:1]} has said all it had to say")
        return self._answers.pop(0)

    def round_trips(
        self,
        line: str,
        count: int,
        *,
        clock: Clock,  # noqa: ARG002 - who talks to the agent does the timing
        timeout_s: float,
    ) -> Sequence[RoundTrip]:
        return self._remote.round_trips(self._command, line, count, timeout_s=timeout_s)


_remote: type[Remote] = AgentRemote
_talk: type[Conversation] = _AgentConversation
