"""`Remote` over instructions: the other side is a script, run whenever the driver looks away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.database import Database
from slipway.errors import (
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    NotFound,
    RemoteError,
)
from slipway.phonehome.instructions import Instruction, Instructions, Kind, Piece, Stream
from slipway.remote.agent import (
    FETCHED_WITHIN_S,
    PRESENT_S,
    SILENT_S,
    AgentRemote,
    connect_agent,
)
from slipway.remote.base import Command
from slipway.testing.fake_clock import FakeClock
from tests.phonehome.test_identity import Office

OUT, ERR = Stream.OUT, Stream.ERR


class Stage(FakeClock):
    """Each pause of the driver is a turn for the agent."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.turn()


class Play:
    """One server, its agent as a test wants it, and our end of the line."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.office = Office(database, folder)
        self.clock = Stage()
        # The same time for everybody.
        self.office.clock = self.clock
        self.office.identities._clock = self.clock
        self.box = Instructions(database, self.office.vault, self.clock)
        self.seen: list[Instruction] = []
        self.clock.turn = self.turn
        self.answer: Callable[[Instruction], None] = lambda _instruction: None

    def turn(self) -> None:
        after = self.seen[-1].seq if self.seen else 0
        found = self.box.next("launch-1", 1, after=after)
        if found is not None:
            self.seen.append(found)
            self.answer(found)

    def report(self, seq: int, out: bytes = b"", *, at: int = 0, **more: object) -> None:
        output = {OUT: Piece(offset=at, data=out)}
        self.box.report("launch-1", 1, seq, output=output, **more)  # type: ignore[arg-type]

    def connect(self) -> AgentRemote:
        return connect_agent(
            self.office.identities,
            self.box,
            self.clock,
            launch_id="launch-1",
            generation=1,
            server="web-1",
        )


@pytest.fixture
def play(database: Database, tmp_path: Path) -> Play:
    made = Play(database, tmp_path)
    made.office.hello()
    return made


def run(remote: AgentRemote, text: str = "true", timeout_s: float = 100.0) -> int:
    return remote.run(Command(text=text, timeout_s=timeout_s)).exit_code


def test_an_agent_that_has_not_called_is_no_connection(database: Database, tmp_path: Path) -> None:
    """There is nothing to wait for yet, and nobody waits."""
    play = Play(database, tmp_path)
    with pytest.raises(ConnectionFailed, match="the agent of web-1 has not called yet"):
        play.connect()
    assert play.clock.slept == []


def test_an_agent_that_went_silent_is_no_connection(play: Play) -> None:
    """It has not called for longer than an idle agent keeps quiet."""
    play.clock.advance(PRESENT_S + 1)
    with pytest.raises(ConnectionFailed, match="has not called for 41 s"):
        play.connect()


def test_a_command_comes_back_with_all_it_printed(play: Play) -> None:
    """Output is handed over as it comes, and the result says the rest."""

    def answer(instruction: Instruction) -> None:
        play.report(instruction.seq, b"one ")
        play.report(instruction.seq, b"two", at=4, ended={"exit_code": 7})
        assert instruction.body["command"] == "the command"
        assert instruction.body["timeout_s"] == 100.0

    play.answer = answer
    pieces: list[bytes] = []
    command = Command(text="the command", timeout_s=100, stdin=b"hidden")
    result = play.connect().run(command, on_stdout=pieces.append)
    assert (result.exit_code, b"".join(pieces), result.stdout) == (7, b"one two", "one two")
    assert play.box.waiting() == {}


def test_standard_error_comes_apart(play: Play) -> None:
    """The wrapper of scripts speaks there."""

    def answer(instruction: Instruction) -> None:
        output = {OUT: Piece(offset=0, data=b"out"), ERR: Piece(offset=0, data=b"err")}
        play.box.report("launch-1", 1, instruction.seq, output=output, ended={"exit_code": 0})

    play.answer = answer
    result = play.connect().run(Command(text="x", timeout_s=10))
    assert (result.stdout, result.stderr) == ("out", "err")


def test_what_nobody_fetches_is_taken_back(play: Play) -> None:
    """The agent is away: after a while the instruction is removed, so it cannot be begun later."""
    remote = play.connect()
    play.clock.turn = lambda: None
    with pytest.raises(ConnectionLost, match="does not fetch what it is to do"):
        run(remote)
    assert FETCHED_WITHIN_S <= sum(play.clock.slept) < FETCHED_WITHIN_S + 1
    assert play.box.next("launch-1", 1, after=0) is None


def test_an_agent_that_falls_silent_is_a_lost_connection(play: Play) -> None:
    """It began and then said nothing any more."""
    play.answer = lambda instruction: play.report(instruction.seq, b"begun")
    with pytest.raises(ConnectionLost, match="the agent of web-1 has gone silent"):
        run(play.connect())
    assert SILENT_S <= sum(play.clock.slept) < SILENT_S + 2


def test_a_command_that_is_only_quiet_is_waited_for(play: Play) -> None:
    """As long as the agent says that it is still there."""

    def turn() -> None:
        if not play.seen:
            Play.turn(play)
        elif play.clock.monotonic() >= 3 * SILENT_S:
            play.report(play.seen[-1].seq, ended={"exit_code": 0})
        elif play.clock.monotonic() % 5 < 0.5:
            play.report(play.seen[-1].seq)

    play.clock.turn = turn
    assert run(play.connect()) == 0
    assert play.clock.monotonic() >= 3 * SILENT_S


@pytest.mark.parametrize(
    ("ended", "error", "words"),
    [
        ({"lost": True}, ConnectionLost, "was restarted in the middle"),
        ({"timed_out": True}, CommandTimedOut, "did not end within 100 s"),
        ({"unknown": True}, RemoteError, "too old for this"),
    ],
)
def test_other_ends_are_errors(
    play: Play, ended: dict[str, bool], error: type[RemoteError], words: str
) -> None:
    """An agent that was restarted is a lost connection: the outcome is unknown."""
    play.answer = lambda instruction: play.report(instruction.seq, ended=ended)
    with pytest.raises(error, match=words):
        run(play.connect())


def test_a_command_without_an_end_times_out_here_too(play: Play) -> None:
    """An agent that keeps saying that it is there, and no more."""

    def turn() -> None:
        Play.turn(play)
        if play.seen:
            play.report(play.seen[-1].seq)

    play.clock.turn = turn
    with pytest.raises(CommandTimedOut):
        run(play.connect(), timeout_s=5)


def test_closing_ends_the_wait(play: Play) -> None:
    """Another thread closes the connection: whoever waits is told within a moment."""
    remote = play.connect()
    play.clock.turn = remote.close
    with pytest.raises(ConnectionLost, match="no longer followed"):
        run(remote)
    assert play.box.waiting() == {}


def test_what_a_dead_driver_left_is_nobodys(play: Play) -> None:
    """Whoever connects next holds the lease: earlier instructions are gone before it begins."""
    play.box.put("launch-1", 1, Kind.RUN, {"command": "old"})
    play.answer = lambda instruction: play.report(instruction.seq, ended={"exit_code": 0})
    remote = play.connect()
    assert play.box.waiting() == {}
    assert run(remote, "new") == 0
    assert [each.body["command"] for each in play.seen] == ["new"]


def test_a_conversation_is_a_command_with_all_that_was_said(play: Play) -> None:
    """Lines are sent when an answer is wanted, and answers read one by one."""

    def answer(instruction: Instruction) -> None:
        said = instruction.body["stdin"]
        play.report(instruction.seq, f"<{said}>\nsecond\n".encode(), ended={"exit_code": 0})

    play.answer = answer
    with play.connect().converse("the loop") as talk:
        talk.send_line("s")
        assert talk.read_line(timeout_s=5) == "<cwo=>"
        assert talk.read_line(timeout_s=5) == "second"
        with pytest.raises(ConnectionLost):
            talk.read_line(timeout_s=5)
    assert len(play.seen) == 1


def test_round_trips_are_timed_where_the_agent_calls(play: Play) -> None:
    """What was timed there is what the gate gets, not how long we waited for it."""
    trips = [{"sent_at": "2026-01-01T00:00:00+00:00", "rtt_s": 0.002, "answer": "1.5"}] * 2
    play.answer = lambda instruction: play.report(instruction.seq, ended={"trips": trips})
    with play.connect().converse("the loop") as talk:
        found = talk.round_trips("t", 2, clock=play.clock, timeout_s=5)
    assert [(trip.rtt_s, trip.answer) for trip in found] == [(0.002, "1.5")] * 2
    assert play.seen[0].kind is Kind.TIME
    assert play.seen[0].body["line"] == "t"


def test_files_go_through_commands(play: Play) -> None:
    """What is missing is not found; what cannot be written says why."""
    play.answer = lambda instruction: play.report(instruction.seq, ended={"exit_code": 44})
    with pytest.raises(NotFound, match="web-1: there is no file /etc/x"):
        play.connect().get("/etc/x")
    play.answer = lambda instruction: play.report(instruction.seq, b"text", ended={"exit_code": 0})
    assert play.connect().get("/etc/x") == b"text"
    play.connect().put(b"text", "/etc/x")
    play.answer = lambda instruction: play.report(instruction.seq, ended={"exit_code": 1})
    with pytest.raises(RemoteError, match="could not be written: no reason given"):
        play.connect().put(b"text", "/etc/x")
