"""What waits for agents: numbers, pieces with offsets, and nothing in clear text."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.database import Database
from slipway.phonehome import instructions
from slipway.phonehome.instructions import (
    Instructions,
    Kind,
    OutputGap,
    Piece,
    Status,
    Stream,
    Taken,
)
from slipway.testing.fake_clock import FakeClock
from slipway.vault import Vault
from tests.phonehome.test_identity import Office

AGENT = ("launch-1", 1)
OUT, ERR = Stream.OUT, Stream.ERR


@pytest.fixture
def box(any_database: Database, tmp_path: Path) -> Instructions:
    office = Office(any_database, tmp_path)
    return Instructions(any_database, office.vault, office.clock)


def put(box: Instructions) -> int:
    return box.put(*AGENT, Kind.RUN, {"command": "true", "stdin": "", "timeout_s": 1})


def report(box: Instructions, seq: int, offset: int, data: bytes, **more: object) -> Taken:
    return box.report(*AGENT, seq, output={OUT: Piece(offset=offset, data=data)}, **more)  # type: ignore[arg-type]


def read(box: Instructions, seq: int) -> bytes:
    found = box.look(*AGENT, seq)
    assert found is not None
    return b"".join(data for stream, data in found.pieces if stream is OUT)


def test_numbers_never_come_again(box: Instructions) -> None:
    """Each instruction has a number of its own, also after the one before was removed."""
    first = put(box)
    box.remove(*AGENT, first)
    assert put(box) == first + 1


def test_the_next_is_the_first_behind_what_was_begun(box: Instructions) -> None:
    """Asking changes nothing: the same question has the same answer until it is reported on."""
    one, two = put(box), put(box)
    assert box.waiting() == {AGENT: two}
    for _ in range(2):
        found = box.next(*AGENT, after=0)
        assert found is not None
        assert (found.seq, found.kind, found.body["command"]) == (one, Kind.RUN, "true")
    found = box.next(*AGENT, after=one)
    assert found is not None
    assert found.seq == two
    assert box.next(*AGENT, after=two) is None
    report(box, two, 0, b"")
    assert box.next(*AGENT, after=one) is None


def test_a_piece_that_comes_twice_counts_once(box: Instructions) -> None:
    """A duplicate, and a piece that overlaps what is known: only what is new is taken."""
    seq = put(box)
    assert report(box, seq, 0, b"hello ").expected[OUT] == 6
    assert report(box, seq, 0, b"hello ").expected[OUT] == 6
    assert report(box, seq, 3, b"lo world").expected[OUT] == 11
    assert read(box, seq) == b"hello world"
    assert report(box, seq, 0, b"hello world").expected[OUT] == 11
    assert read(box, seq) == b"", "it is handed out once"


def test_a_gap_is_told_where_to_go_on(box: Instructions) -> None:
    """Nothing of the report is taken, not even the other stream or the end."""
    seq = put(box)
    report(box, seq, 0, b"abc")
    with pytest.raises(OutputGap, match="out goes on at byte 5, expected 3") as error:
        box.report(
            *AGENT,
            seq,
            output={OUT: Piece(offset=5, data=b"f"), ERR: Piece(offset=0, data=b"e")},
            ended={"exit_code": 0},
        )
    assert error.value.expected == {OUT: 3, ERR: 0}
    found = box.look(*AGENT, seq)
    assert found is not None
    assert found.status is Status.RUNNING
    assert found.pieces == [(OUT, b"abc")]


def test_the_end_comes_once_and_with_all_output(box: Instructions) -> None:
    """The result arrives with the last piece; a report after that changes nothing."""
    seq = put(box)
    report(box, seq, 0, b"done", ended={"exit_code": 3})
    report(box, seq, 4, b" again", ended={"exit_code": 4})
    found = box.look(*AGENT, seq)
    assert found is not None
    assert (found.status, found.result, found.pieces) == (
        Status.ENDED,
        {"exit_code": 3},
        [(OUT, b"done")],
    )


def test_what_nobody_wants_is_said(box: Instructions) -> None:
    """A report on an instruction that was removed is taken for read, so that the agent lets go."""
    seq = put(box)
    box.remove(*AGENT)
    taken = report(box, seq, 7, b"abc")
    assert (taken.wanted, taken.expected[OUT]) == (False, 10)
    assert box.look(*AGENT, seq) is None


def test_an_unread_heap_is_not_added_to(box: Instructions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is taken until somebody has read, so an agent cannot fill the database."""
    monkeypatch.setattr(instructions, "MOST_UNREAD_BYTES", 10)
    seq = put(box)
    report(box, seq, 0, b"x" * 11)
    taken = report(box, seq, 11, b"more", ended={"exit_code": 0})
    assert (taken.full, taken.expected[OUT]) == (True, 11)
    assert read(box, seq) == b"x" * 11
    assert not report(box, seq, 11, b"more", ended={"exit_code": 0}).full
    assert read(box, seq) == b"more"


def test_nothing_is_in_clear_text(box: Instructions, any_database: Database) -> None:
    """Commands, their input, output and results may hold secrets, and none of them shows."""
    secret = "correct-horse"
    seq = box.put(*AGENT, Kind.RUN, {"command": f"echo {secret}", "stdin": secret, "timeout_s": 1})
    report(box, seq, 0, secret.encode(), ended={"exit_code": 0, "said": secret})
    with any_database.reading() as connection:
        rows = [
            repr([bytes(each) if isinstance(each, memoryview) else each for each in row])
            for table in ("agent_instruction", "agent_output")
            for row in connection.execute(sa.text(f"SELECT * FROM {table}"))
        ]
    assert len(rows) == 2
    assert not any(secret in row for row in rows)


_REPORTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=12)


@given(reports=_REPORTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_reports_yields_a_prefix(
    database: Database, tmp_path: Path, reports: list[tuple[int, int]]
) -> None:
    """Pieces in any order, doubled and overlapping: what is read is the beginning of what was
    printed, without a gap and without a repetition."""
    with database.reading() as connection:
        known = connection.execute(sa.text("SELECT count(*) FROM agent")).scalar()
    if not known:
        Office(database, tmp_path)
    clock = FakeClock()
    box = Instructions(database, Vault(database, tmp_path / "vault.key", clock), clock)
    printed = bytes(range(65, 65 + 60))
    seq = put(box)
    read_so_far, expected = b"", 0
    for offset, length in reports:
        piece = printed[offset : offset + length]
        if offset > expected:
            with pytest.raises(OutputGap):
                report(box, seq, offset, piece)
            continue
        expected = report(box, seq, offset, piece).expected[OUT]
        assert expected == max(expected, offset + len(piece))
        read_so_far += read(box, seq)
    assert read_so_far == printed[:expected]
