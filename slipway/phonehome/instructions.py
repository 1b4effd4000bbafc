"""What waits for agents, and what came of it: the table between whoever drives a launch and the
process of ours that the server talks to.

An instruction has a number, one more than the one before. The agent writes the number down before
it begins, so it begins none twice; asking for the next one is a question that changes nothing, and
a lost answer costs nothing. What the instruction prints arrives in pieces with byte offsets, is
read by whoever asked and removed; so is the instruction itself, once it has ended.

Instructions and output may hold secrets, so both are encrypted for the seconds they are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import ConnectionLost
from slipway.records import Agent, AgentInstruction, AgentOutput
from slipway.vault import Vault

_AGENTS = Agent.__table__  # type: ignore[attr-defined]
_INSTRUCTIONS = AgentInstruction.__table__  # type: ignore[attr-defined]
_OUTPUT = AgentOutput.__table__  # type: ignore[attr-defined]

#: Output that nobody has read yet: more is not taken, so the agent waits, as a pipe would.
MOST_UNREAD_BYTES = 1024 * 1024


class Kind(StrEnum):
    """What an agent can be told to do."""

    #: A command line for the system's shell.
    RUN = "run"
    #: Start a command and time round trips between us and it.
    TIME = "time"
    #: Stop, and remove itself and its credential.
    LEAVE = "leave"


class Status(StrEnum):
    """How far an instruction is. One that nobody waits for any more is removed."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Stream(StrEnum):
    """The two things a command prints to."""

    OUT = "out"
    ERR = "err"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One thing to do."""

    seq: int
    kind: Kind
    #: What else there is to know; see `slipway.remote.agent`.
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Output, and where in its stream it starts."""

    offset: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of a report."""

    #: From which byte on the next piece of each stream is to come.
    expected: Mapping[Stream, int]
    #: Somebody still waits for it.
    wanted: bool
    #: Nothing was taken, because too much waits to be read; the same is to be sent again.
    full: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What has come since the last look."""

    status: Status
    pieces: Sequence[tuple[Stream, bytes]]
    #: How it ended, None before that.
    result: Mapping[str, Any] | None


class OutputGap(ConnectionLost):
    """Output goes on behind what has arrived."""

    def __init__(self, stream: Stream, offset: int, expected: Mapping[Stream, int]) -> None:
        super().__init__(f"{stream.value} goes on at byte {offset}, expected {expected[stream]}")
        self.expected = expected


class Instructions:
    """The instructions of every agent of this installation."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    # -- whoever drives the launch -------------------------------------------------------------

    def put(self, launch_id: str, generation: int, kind: Kind, body: Mapping[str, Any]) -> int:
        """Leave an instruction for the agent; answers its number."""
        encrypted = self._seal({"kind": kind.value, **body})
        with self._database.transaction() as connection:
            mine = (_AGENTS.c.launch_id == launch_id, _AGENTS.c.generation == generation)
            connection.execute(
                sa.update(_AGENTS).where(*mine).values(last_seq=_AGENTS.c.last_seq + 1)
            )
            seq = int(connection.execute(sa.select(_AGENTS.c.last_seq).where(*mine)).scalar_one())
            instruction = AgentInstruction(
                launch_id=launch_id,
                generation=generation,
                seq=seq,
                status=Status.WAITING.value,
                body=encrypted,
                created_at=self._clock.now(),
            )
            connection.execute(sa.insert(_INSTRUCTIONS).values(**instruction.model_dump()))
        return seq

    def look(self, launch_id: str, generation: int, seq: int) -> Progress | None:
        """What has come; output is handed out once. None when the instruction was removed."""
        this = _this(launch_id, generation, seq)
        query = sa.select(_INSTRUCTIONS.c.status, _INSTRUCTIONS.c.result).where(*this)
        mine = _output_of(launch_id, generation, seq)
        pieces = sa.select(_OUTPUT).where(*mine).order_by(_OUTPUT.c.stream, _OUTPUT.c.offset)
        with self._database.reading() as connection:
            found = connection.execute(query).first()
            rows = connection.execute(pieces).mappings().all()
        if found is None:
            return None
        if rows:
            with self._database.transaction() as connection:
                # Only what was read: more may have come meanwhile.
                for row in rows:
                    connection.execute(
                        sa.delete(_OUTPUT).where(
                            *mine,
                            _OUTPUT.c.stream == row["stream"],
                            _OUTPUT.c.offset == row["offset"],
                        )
                    )
        return Progress(
            status=Status(found.status),
            pieces=[(Stream(row["stream"]), self._vault.decrypt(row["data"])) for row in rows],
            result=None if found.result is None else self._open(found.result),
        )

    def remove(self, launch_id: str, generation: int, seq: int | None = None) -> None:
        """Nobody waits for it any more, or for any of them; the agent is told at its next word."""
        mine = [_INSTRUCTIONS.c.launch_id == launch_id, _INSTRUCTIONS.c.generation == generation]
        if seq is not None:
            mine.append(_INSTRUCTIONS.c.seq == seq)
        with self._database.reading() as connection:
            if connection.execute(sa.select(_INSTRUCTIONS.c.seq).where(*mine)).first() is None:
                return
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_INSTRUCTIONS).where(*mine))

    # -- the agent -----------------------------------------------------------------------------

    def waiting(self) -> dict[tuple[str, int], int]:
        """The newest number that waits, for every agent that something waits for."""
        query = (
            sa.select(
                _INSTRUCTIONS.c.launch_id,
                _INSTRUCTIONS.c.generation,
                sa.func.max(_INSTRUCTIONS.c.seq).label("newest"),
            )
            .where(_INSTRUCTIONS.c.status == Status.WAITING.value)
            .group_by(_INSTRUCTIONS.c.launch_id, _INSTRUCTIONS.c.generation)
        )
        with self._database.reading() as connection:
            return {
                (row.launch_id, row.generation): row.newest for row in connection.execute(query)
            }

    def next(self, launch_id: str, generation: int, *, after: int) -> Instruction | None:
        """The first instruction behind the number the agent began last."""
        query = (
            sa.select(_INSTRUCTIONS.c.seq, _INSTRUCTIONS.c.body)
            .where(
                _INSTRUCTIONS.c.launch_id == launch_id,
                _INSTRUCTIONS.c.generation == generation,
                _INSTRUCTIONS.c.status == Status.WAITING.value,
                _INSTRUCTIONS.c.seq > after,
            )
            .order_by(_INSTRUCTIONS.c.seq)
        )
        with self._database.reading() as connection:
            found = connection.execute(query).first()
        if found is None:
            return None
        body = self._open(found.body)
        return Instruction(seq=found.seq, kind=Kind(body.pop("kind")), body=body)

    def report(
        self,
        launch_id: str,
        generation: int,
        seq: int,
        *,
        output: Mapping[Stream, Piece],
        ended: Mapping[str, Any] | None = None,
    ) -> Taken:
        """Take what an instruction has printed, and how it ended. The same again changes nothing,
        and of a piece that overlaps what is known only the rest counts. Raises `OutputGap` with
        the offsets expected, and then nothing was taken."""
        this = _this(launch_id, generation, seq)
        encrypted = {
            stream: (piece, self._vault.encrypt(piece.data)) for stream, piece in output.items()
        }
        result = None if ended is None else self._seal(ended)
        with self._database.transaction() as connection:
            row = connection.execute(
                sa.select(
                    _INSTRUCTIONS.c.status, _INSTRUCTIONS.c.out_bytes, _INSTRUCTIONS.c.err_bytes
                )
                .where(*this)
                .with_for_update()
            ).first()
            self._touch(connection, launch_id, generation)
            if row is None:
                ends = {stream: piece.offset + len(piece.data) for stream, piece in output.items()}
                return Taken(expected=ends, wanted=False)
            expected = {Stream.OUT: row.out_bytes, Stream.ERR: row.err_bytes}
            if row.status == Status.ENDED:
                return Taken(expected=expected, wanted=True)
            for stream, piece in output.items():
                if piece.offset > expected[stream]:
                    raise OutputGap(stream, piece.offset, expected)
            fresh = {
                stream: piece.data[expected[stream] - piece.offset :]
                for stream, piece in output.items()
            }
            fresh = {stream: data for stream, data in fresh.items() if data}
            if fresh and _unread_bytes(connection, launch_id, generation, seq) > MOST_UNREAD_BYTES:
                return Taken(expected=expected, wanted=True, full=True)
            for stream, data in fresh.items():
                piece, ciphertext = encrypted[stream]
                whole = len(data) == len(piece.data)
                connection.execute(
                    sa.insert(_OUTPUT).values(
                        launch_id=launch_id,
                        generation=generation,
                        seq=seq,
                        stream=stream.value,
                        offset=expected[stream],
                        raw_bytes=len(data),
                        data=ciphertext if whole else self._vault.encrypt(data),
                    )
                )
                expected[stream] += len(data)
            values: dict[str, Any] = {
                "status": Status.RUNNING.value if ended is None else Status.ENDED.value,
                "out_bytes": expected[Stream.OUT],
                "err_bytes": expected[Stream.ERR],
            }
            if result is not None:
                values["result"] = result
            connection.execute(sa.update(_INSTRUCTIONS).where(*this).values(**values))
        return Taken(expected=expected, wanted=True)

    def _touch(self, connection: sa.Connection, launch_id: str, generation: int) -> None:
        connection.execute(
            sa.update(_AGENTS)
            .where(_AGENTS.c.launch_id == launch_id, _AGENTS.c.generation == generation)
            .values(last_seen_at=self._clock.now())
        )

    def _seal(self, value: Mapping[str, Any]) -> bytes:
        return self._vault.encrypt(json.dumps(value).encode())

    def _open(self, ciphertext: bytes) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._vault.decrypt(ciphertext))
        return value


def _unread_bytes(connection: sa.Connection, launch_id: str, generation: int, seq: int) -> int:
    query = sa.select(sa.func.sum(_OUTPUT.c.raw_bytes)).where(
        *_output_of(launch_id, generation, seq)
    )
    return int(connection.execute(query).scalar() or 0)


def _this(launch_id: str, generation: int, seq: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _INSTRUCTIONS.c.launch_id == launch_id,
        _INSTRUCTIONS.c.generation == generation,
        _INSTRUCTIONS.c.seq == seq,
    )


def _output_of(launch_id: str, generation: int, seq: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _OUTPUT.c.launch_id == launch_id,
        _OUTPUT.c.generation == generation,
        _OUTPUT.c.seq == seq,
    )
