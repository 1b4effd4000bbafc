"""The audit chain: what was written stays, and whatever is done to it later shows."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from slipway import audit
from slipway.audit import Masker, Note, OutputRecorder
from slipway.database import Database
from slipway.errors import AuditBroken, NotFound
from slipway.records import AuditEntry, AuditHead, AuditKind
from slipway.testing.fake_clock import FakeClock
from tests.records.rows import AT

SUBJECT = "launch/one"
_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]
_HEADS = AuditHead.__table__  # type: ignore[attr-defined]


def write(database: Database, count: int, subject: str = SUBJECT) -> None:
    """Entries of every kind and shape, one transaction each."""
    for number in range(count):
        note = Note(
            kind=AuditKind.OUTPUT if number % 3 == 2 else AuditKind.INFO,
            summary=f"entry {number} of ünïcode",
            step="run-script:10-one",
            detail={"number": number, "nested": {"list": [1, None, "x"]}},
            stream="run" if number % 3 == 2 else None,
            offset=number * 10 if number % 3 == 2 else None,
            raw_bytes=10 if number % 3 == 2 else None,
            data=bytes([0, 255, number]) * 3 if number % 3 == 2 else None,
        )
        at = AT + timedelta(microseconds=number)
        with database.transaction() as connection:
            audit.append(connection, subject, [note], actor="tests", at=at)


def broken(database: Database) -> str:
    with pytest.raises(AuditBroken) as caught:
        audit.verify(database, SUBJECT)
    return str(caught.value)


def change(database: Database, statement: Any) -> None:
    with database.transaction() as connection:
        connection.execute(statement)


def at(seq: int) -> Any:
    return (_ENTRIES.c.subject == SUBJECT) & (_ENTRIES.c.seq == seq)


def test_a_chain_that_nobody_touched_verifies(any_database: Database) -> None:
    """All entries count, and the head is the hash of the last."""
    write(any_database, 7)
    found = audit.verify(any_database, SUBJECT)
    assert found.entries == 7
    assert found.head == audit.entries(any_database, SUBJECT)[-1].hash
    assert audit.subjects(any_database) == [SUBJECT]


def test_a_subject_without_a_record_is_not_found(any_database: Database) -> None:
    """No record is not a record that holds."""
    with pytest.raises(NotFound, match="launch/none"):
        audit.verify(any_database, "launch/none")


CHANGES: dict[str, Any] = {
    "at": AT + timedelta(days=1),
    "actor": "somebody else",
    "kind": "error",
    "step": "another",
    "summary": "nothing happened",
    "detail": "{}",
    "stream": "other",
    "offset": 999,
    "raw_bytes": 1,
    "data": b"other output",
}


def test_every_column_is_tried() -> None:
    """A new column of the entry table needs a row in `CHANGES`, or to be part of the chain."""
    chain = {"subject", "seq", "previous", "hash"}
    assert set(CHANGES) == {column.name for column in _ENTRIES.c} - chain


@pytest.mark.parametrize("column", sorted(CHANGES))
def test_a_changed_entry_is_named(any_database: Database, column: str) -> None:
    """Whatever column of whatever entry is changed, verify names that very entry."""
    write(any_database, 7)
    change(any_database, sa.update(_ENTRIES).where(at(3)).values({column: CHANGES[column]}))
    assert broken(any_database) == f"{SUBJECT}: entry 3 was changed after it was written"


def test_a_changed_entry_with_its_hash_made_right_is_named(any_database: Database) -> None:
    """Recomputing the hash of a changed entry moves the break to the entry behind it."""
    write(any_database, 7)
    with any_database.reading() as connection:
        row = dict(connection.execute(sa.select(_ENTRIES).where(at(3))).mappings().one())
    row["summary"] = "nothing happened"
    row["hash"] = audit.entry_hash(row)
    change(any_database, sa.update(_ENTRIES).where(at(3)).values(**row))
    assert "entry 4 was inserted or replaced: it does not follow on entry 3" in broken(any_database)


def test_a_removed_entry_is_named(any_database: Database) -> None:
    """A gap shows at the number that is missing."""
    write(any_database, 7)
    change(any_database, sa.delete(_ENTRIES).where(at(4)))
    assert "entry 4 was removed: entry 5 follows on 3" in broken(any_database)


def test_a_removed_entry_with_the_rest_moved_up_is_named(any_database: Database) -> None:
    """Closing the gap by renumbering does not help."""
    write(any_database, 7)
    change(any_database, sa.delete(_ENTRIES).where(at(4)))
    for seq in (5, 6, 7):
        change(any_database, sa.update(_ENTRIES).where(at(seq)).values(seq=seq - 1))
    assert "entry 4 was inserted or replaced" in broken(any_database)


@pytest.mark.parametrize("left", [0, 3, 6])
def test_a_cut_off_tail_is_named(any_database: Database, left: int) -> None:
    """The head tells how many entries there were."""
    write(any_database, 7)
    change(any_database, sa.delete(_ENTRIES).where(_ENTRIES.c.seq > left))
    assert f"entry {left + 1} was removed: the record ends at {left}, but 7" in broken(any_database)


def test_an_inserted_entry_is_named(any_database: Database) -> None:
    """An entry appended past the head, with a right hash, was not written by us."""
    write(any_database, 7)
    with any_database.reading() as connection:
        row = dict(connection.execute(sa.select(_ENTRIES).where(at(7))).mappings().one())
    row |= {"seq": 8, "previous": row["hash"]}
    row["hash"] = audit.entry_hash(row)
    change(any_database, sa.insert(_ENTRIES).values(**row))
    assert "entry 8 was inserted: only 7 entries were written" in broken(any_database)


def test_a_head_that_was_removed_or_changed_shows(any_database: Database) -> None:
    """The head is part of the record."""
    write(any_database, 3)
    change(any_database, sa.update(_HEADS).values(hash="f" * 64))
    assert broken(any_database) == f"{SUBJECT}: the record of its newest entry was changed"
    change(any_database, sa.delete(_HEADS))
    assert broken(any_database) == f"{SUBJECT}: the record of its newest entry was removed"


def test_an_entry_of_another_subject_breaks_nothing(any_database: Database) -> None:
    """Chains are one per subject: breaking one leaves the others whole."""
    write(any_database, 3)
    write(any_database, 3, "launch/two")
    change(any_database, sa.delete(_ENTRIES).where(at(1)))
    assert audit.verify(any_database, "launch/two").entries == 3


def test_entries_are_rolled_back_with_what_they_tell(any_database: Database) -> None:
    """A transaction that breaks leaves neither entry nor head."""
    write(any_database, 2)
    note = Note(kind=AuditKind.INFO, summary="never happened")
    with contextlib.suppress(ZeroDivisionError), any_database.transaction() as connection:
        audit.append(connection, SUBJECT, [note], actor="tests", at=AT)
        raise ZeroDivisionError
    assert audit.verify(any_database, SUBJECT).entries == 2


def test_the_same_piece_of_output_cannot_be_recorded_twice(any_database: Database) -> None:
    """The database itself refuses a second entry for the same offset of a stream."""
    note = Note(kind=AuditKind.OUTPUT, summary="", stream="run", offset=0, raw_bytes=2, data=b"ab")
    with any_database.transaction() as connection:
        audit.append(connection, SUBJECT, [note], actor="tests", at=AT)
    with pytest.raises(sa.exc.IntegrityError), any_database.transaction() as connection:
        audit.append(connection, SUBJECT, [note], actor="tests", at=AT)
    assert audit.verify(any_database, SUBJECT).entries == 1


def test_recorded_bytes_go_on_where_the_record_ends(any_database: Database) -> None:
    """The next offset is the end of the last piece; raw bytes count, not what was masked."""
    with any_database.transaction() as connection:
        assert audit.recorded_bytes(connection, SUBJECT, "run") == 0
        for offset in (0, 10):
            note = Note(
                kind=AuditKind.OUTPUT,
                summary="",
                stream="run",
                offset=offset,
                raw_bytes=10,
                data=b"<hidden input SECRET>",
            )
            audit.append(connection, SUBJECT, [note], actor="tests", at=AT)
        assert audit.recorded_bytes(connection, SUBJECT, "run") == 20
        assert audit.recorded_bytes(connection, SUBJECT, "other") == 0


def test_an_export_can_be_verified_elsewhere(any_database: Database) -> None:
    """The JSON alone is enough to recompute every hash, by the documented rule."""
    write(any_database, 7)
    previous = audit.GENESIS
    lines = [json.dumps(row) for row in audit.export(any_database, SUBJECT)]
    for line in lines:
        row = json.loads(line)
        data = None if row["data"] is None else base64.b64decode(row["data"])
        row["data"] = None if data is None else hashlib.sha256(data).hexdigest()
        row["detail"] = compact(row["detail"])
        found = row.pop("hash")
        assert row["previous"] == previous
        assert hashlib.sha256(compact(row).encode()).hexdigest() == found
        previous = found
    assert previous == audit.verify(any_database, SUBJECT).head


def compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.fixture(scope="module")
def dozen(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a chain of twelve entries, to be copied."""
    path = tmp_path_factory.mktemp("dozen") / "dozen.db"
    shutil.copyfile(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    write(database, 12)
    database.close()
    return path


@given(
    kind=st.sampled_from(["change", "remove", "truncate", "swap"]),
    position=st.integers(1, 12),
    text=st.text(max_size=8),
)
def test_the_first_broken_entry_is_the_one_named(
    dozen: Path, kind: str, position: int, text: str
) -> None:
    """Whatever is done to one entry, verify names the first place where the chain differs."""
    work = dozen.with_name("work.db")
    shutil.copyfile(dozen, work)
    database = Database(f"sqlite:///{work}")
    try:
        if kind == "change":
            change(database, sa.update(_ENTRIES).where(at(position)).values(summary=text))
            first = position
        elif kind == "remove":
            change(database, sa.delete(_ENTRIES).where(at(position)))
            first = position
        elif kind == "truncate":
            change(database, sa.delete(_ENTRIES).where(_ENTRIES.c.seq >= position))
            first = position
        else:
            other = position % 12 + 1
            for seq, new in ((position, 100), (other, position), (100, other)):
                change(database, sa.update(_ENTRIES).where(at(seq)).values(seq=new))
            first = min(position, other)
        assert re.search(rf"entry {first} ", broken(database))
    finally:
        database.close()


# --- Masking --------------------------------------------------------------------------------------

SECRET = "correct horse \"battery\" 'staple'\nsecond line of the key\nend"


def masker(*values: str) -> Masker:
    return Masker({f"S{number}": SecretStr(value) for number, value in enumerate(values)})


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": lambda value: json.dumps({"token": value}),
    "in a repr": repr,
    "line by line": lambda value: "\n".join(f"> {line}" for line in value.splitlines()),
    "twice": lambda value: value + value,
    "in another value": lambda value: f"xx{value}yy",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_every_form(form: str) -> None:
    """Neither the value nor a long line of it survives, whatever wraps it."""
    masked = masker(SECRET).text(FORMS[form](SECRET))
    assert "<hidden input S0>" in masked
    for line in SECRET.splitlines()[:2]:
        assert line not in masked
        assert json.dumps(line)[1:-1] not in masked


def test_secrets_in_nested_values_are_hidden() -> None:
    """Details of an entry are masked at any depth."""
    hide = masker("hunter2hunter2")
    found = hide.value({"a": ["hunter2hunter2", {"b": "x hunter2hunter2"}], "n": 3, "o": None})
    assert found == {
        "a": ["<hidden input S0>", {"b": "x <hidden input S0>"}],
        "n": 3,
        "o": None,
    }


def test_a_secret_inside_another_is_hidden_as_the_longer_one() -> None:
    """The longer of two overlapping secrets is hidden first, so no end of it is left."""
    assert masker("pass", "pass-and-more").text("pass-and-more") == "<hidden input S1>"


def test_an_empty_secret_hides_nothing() -> None:
    """An empty value must not turn every text into marks."""
    assert masker("").text("hello") == "hello"


# --- Output ---------------------------------------------------------------------------------------


def record(chunks: Sequence[bytes], hide: Masker) -> list[Note]:
    recorder = OutputRecorder(stream="run", step="s", offset=0, masker=hide, clock=FakeClock())
    notes: list[Note] = []
    position = 0
    for chunk in chunks:
        notes += recorder.feed(position, chunk)
        position += len(chunk)
    return [*notes, *recorder.finish()]


def cut(output: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(output) + 1) for place in places), len(output)]
    return [output[start:end] for start, end in itertools.pairwise(edges)]


_ALPHABET = st.sampled_from(list(b"ab\n"))
_SECRETS = st.lists(st.text(alphabet="ab", min_size=3, max_size=9), min_size=1, max_size=3)


@given(
    body=st.lists(_ALPHABET, max_size=400).map(bytes),
    secrets=_SECRETS,
    places=st.lists(st.integers(0, 400), max_size=30),
    flush=st.integers(1, 64),
)
def test_no_secret_survives_a_border(
    body: bytes, secrets: list[str], places: list[int], flush: int
) -> None:
    """Wherever output is cut and flushed, no secret is left in what is stored, and the pieces
    stand for all raw bytes without gap or overlap."""
    hide = masker(*secrets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "FLUSH_BYTES", flush)
        notes = record(cut(body, places), hide)
    offset = 0
    for note in notes:
        assert note.offset == offset
        offset += note.raw_bytes or 0
        for secret in secrets:
            visible = re.sub(rb"<hidden input S\d>", b"|", note.data or b"")
            assert secret.encode() not in visible
    assert offset == len(body)
    # Nor does one come together from the end of one piece and the beginning of the next: where a
    # secret stood in the raw output, no border lies inside it unless a mark stands there.
    borders = {note.offset for note in notes}
    for secret in secrets:
        raw = secret.encode()
        start = body.find(raw)
        while start >= 0:
            inside = {b for b in borders if b is not None and start < b < start + len(raw)}
            assert not inside or covered_by_another(body, start, raw, secrets, inside)
            start = body.find(raw, start + 1)


def covered_by_another(
    body: bytes, start: int, raw: bytes, secrets: list[str], inside: set[int]
) -> bool:
    """Whether an overlapping secret, hidden as a whole, ends at each of these borders: then the
    part that is left over is not the whole of this one."""
    del raw, start
    return all(
        any(body[:border].endswith(secret.encode()) for secret in secrets) for border in inside
    )


@given(
    words=st.lists(
        st.sampled_from(["hello ", "SECRET-VALUE", "\n", "SECRET", "-VAL"]), max_size=60
    ),
    places=st.lists(st.integers(0, 700), max_size=30),
    flush=st.integers(1, 64),
)
def test_any_chunking_gives_the_same_masked_total(
    words: list[str], places: list[int], flush: int
) -> None:
    """What is stored does not depend on how the output arrived."""
    body = "".join(words).encode()
    hide = masker("SECRET-VALUE")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "FLUSH_BYTES", flush)
        notes = record(cut(body, places), hide)
    assert b"".join(note.data or b"" for note in notes) == hide.data(body)


def test_feeding_again_what_was_fed_changes_nothing() -> None:
    """A follower that comes back hands in bytes a second time; they are dropped."""
    recorder = OutputRecorder(stream="run", step="s", offset=0, masker=Masker(), clock=FakeClock())
    assert recorder.feed(0, b"hello ") == []
    assert recorder.feed(0, b"hello wor") == []
    assert recorder.feed(2, b"llo world") == []
    [note] = recorder.finish()
    assert (note.offset, note.raw_bytes, note.data) == (0, 11, b"hello world")
    assert recorder.finish() == []


def test_a_gap_in_the_output_is_refused() -> None:
    """Bytes that never came cannot be skipped silently."""
    recorder = OutputRecorder(stream="run", step="s", offset=5, masker=Masker(), clock=FakeClock())
    with pytest.raises(ValueError, match="output goes on at byte 6, expected 5"):
        recorder.feed(6, b"x")


def test_output_waits_for_size_or_age() -> None:
    """A piece is due when it is big enough, or when its oldest byte has waited long enough."""
    clock = FakeClock()
    recorder = OutputRecorder(stream="run", step="s", offset=0, masker=Masker(), clock=clock)
    assert recorder.feed(0, b"a") == []
    clock.advance(audit.FLUSH_AFTER_S / 2)
    assert recorder.feed(1, b"b") == []
    clock.advance(audit.FLUSH_AFTER_S / 2)
    assert [note.data for note in recorder.feed(2, b"c")] == [b"abc"]
    big = b"x" * audit.FLUSH_BYTES
    assert [note.data for note in recorder.feed(3, big)] == [big]


def test_the_wal_is_where_secrets_would_be_looked_for(database: Database, tmp_path: Path) -> None:
    """What is committed can be found in the database's files: the search that other tests make
    for secrets would find one."""
    write(database, 1)
    files = b"".join(path.read_bytes() for path in tmp_path.glob("slipway.db*"))
    assert "entry 0 of ünïcode".encode() in files
