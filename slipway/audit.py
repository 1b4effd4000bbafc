"""The audit record: appended inside the transaction of what it tells, chained by hashes.

Every entry carries the hash of the one before, so a changed, removed or inserted row breaks the
chain at that row; a row of its own holds the newest hash, so a cut-off tail shows too. The chain
proves that nobody edited single rows. Whoever can rewrite the whole table can rewrite the chain:
keep an exported head hash elsewhere to notice that.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import AuditBroken, NotFound
from slipway.records import AuditEntry, AuditHead, AuditKind
from slipway.statements import Statement

_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]
_HEADS = AuditHead.__table__  # type: ignore[attr-defined]

_HEAD = Statement(
    sa.select(_HEADS.c.seq, _HEADS.c.hash)
    .where(_HEADS.c.subject == sa.bindparam("of"))
    .with_for_update()
)
_ADD_ENTRY = Statement(sa.insert(_ENTRIES))
_FIRST_HEAD = Statement(
    sa.insert(_HEADS).values(
        subject=sa.bindparam("of"), seq=sa.bindparam("newest"), hash=sa.bindparam("newest_hash")
    )
)
_MOVE_HEAD = Statement(
    sa.update(_HEADS)
    .where(_HEADS.c.subject == sa.bindparam("of"))
    .values(seq=sa.bindparam("newest"), hash=sa.bindparam("newest_hash"))
)

#: The hash before the first entry.
GENESIS = "0" * 64

#: Output is written when this much has come together (RightScale's figure, in bytes) …
FLUSH_BYTES = 5 * 1024
#: … or when its oldest byte has waited this long.
FLUSH_AFTER_S = 2.0

_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Note:
    """What an entry says, before it has a place in the chain. Text is masked by the caller."""

    kind: AuditKind
    summary: str
    step: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    stream: str | None = None
    offset: int | None = None
    raw_bytes: int | None = None
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A chain that holds."""

    subject: str
    entries: int
    head: str


def append(
    connection: sa.Connection, subject: str, notes: Sequence[Note], *, actor: str, at: datetime
) -> None:
    """Add entries to a subject's chain, in the caller's transaction."""
    seq, previous = _head(connection, subject)
    rows = []
    for note in notes:
        seq += 1
        row = {
            "subject": subject,
            "seq": seq,
            "at": at,
            "actor": actor,
            "kind": note.kind.value,
            "step": note.step,
            "summary": note.summary,
            "detail": _canonical(note.detail),
            "stream": note.stream,
            "offset": note.offset,
            "raw_bytes": note.raw_bytes,
            "data": note.data,
            "previous": previous,
        }
        previous = row["hash"] = entry_hash(row)
        rows.append(row)
    if not rows:
        return
    _ADD_ENTRY.run_many(connection, rows)
    move = _FIRST_HEAD if seq == len(rows) else _MOVE_HEAD
    move.run(connection, of=subject, newest=seq, newest_hash=previous)


def entry_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of everything in the row but its own hash."""
    data = row["data"]
    content = {
        "subject": row["subject"],
        "seq": row["seq"],
        "at": row["at"].isoformat(timespec="microseconds"),
        "actor": row["actor"],
        "kind": row["kind"],
        "step": row["step"],
        "summary": row["summary"],
        "detail": row["detail"],
        "stream": row["stream"],
        "offset": row["offset"],
        "raw_bytes": row["raw_bytes"],
        "data": None if data is None else hashlib.sha256(data).hexdigest(),
        "previous": row["previous"],
    }
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def entries(
    database: Database, subject: str, *, after: int = 0, limit: int | None = None
) -> list[AuditEntry]:
    """The entries of a subject in order, from the one behind ``after``."""
    query = (
        sa.select(_ENTRIES)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.seq > after)
        .order_by(_ENTRIES.c.seq)
        .limit(limit)
    )
    with database.reading() as connection:
        return [AuditEntry(**row) for row in connection.execute(query).mappings()]


def recorded_bytes(connection: sa.Connection, subject: str, stream: str) -> int:
    """How much of a stream is on record: where reading goes on after a crash."""
    end = sa.func.max(_ENTRIES.c.offset + _ENTRIES.c.raw_bytes)
    query = sa.select(end).where(_ENTRIES.c.subject == subject, _ENTRIES.c.stream == stream)
    return int(connection.execute(query).scalar() or 0)


def verify(database: Database, subject: str) -> Verified:
    """Recompute the chain. Raises `AuditBroken` naming the first entry that was changed, removed
    or inserted, and `NotFound` for a subject without a record."""
    with database.reading() as connection:
        head = connection.execute(sa.select(_HEADS).where(_HEADS.c.subject == subject)).first()
        query = (
            sa.select(_ENTRIES)
            .where(_ENTRIES.c.subject == subject)
            .order_by(_ENTRIES.c.seq)
            .execution_options(yield_per=_PAGE)
        )
        # Closed also when the chain breaks half-way: PostgreSQL keeps a cursor for it.
        with connection.execute(query) as result:
            count, last = _verify_rows(subject, result.mappings())
    if head is None and count == 0:
        raise NotFound(f"{subject}: there is no audit record of it")
    if head is None:
        raise AuditBroken(f"{subject}: the record of its newest entry was removed")
    if count < head.seq:
        raise AuditBroken(
            f"{subject}: entry {count + 1} was removed: the record ends at {count}, "
            f"but {head.seq} entries were written"
        )
    if count > head.seq:
        raise AuditBroken(
            f"{subject}: entry {head.seq + 1} was inserted: only {head.seq} entries were written"
        )
    if last != head.hash:
        raise AuditBroken(f"{subject}: the record of its newest entry was changed")
    return Verified(subject=subject, entries=count, head=last)


def export(database: Database, subject: str) -> Iterator[dict[str, Any]]:
    """The entries as plain JSON values, complete enough to verify elsewhere."""
    after = 0
    while page := entries(database, subject, after=after, limit=_PAGE):
        for entry in page:
            yield as_json(entry)
        after = page[-1].seq


def as_json(entry: AuditEntry) -> dict[str, Any]:
    """One entry as JSON values; output is base64, as it may be any bytes."""
    found = entry.model_dump()
    found["at"] = entry.at.isoformat(timespec="microseconds")
    found["detail"] = json.loads(entry.detail)
    found["data"] = None if entry.data is None else base64.b64encode(entry.data).decode()
    return found


def subjects(database: Database) -> list[str]:
    """Everything that has a record."""
    with database.reading() as connection:
        query = sa.select(_HEADS.c.subject).order_by(_HEADS.c.subject)
        return list(connection.execute(query).scalars())


class Masker:
    """Replaces secret values by ``<hidden input NAME>``.

    It knows its secrets by value, so it catches them in anything: a script's output, a command,
    an exception from deep below. A value of several lines is also hidden line by line, since
    tools print such values line by line.
    """

    #: Lines of a multi-line secret shorter than this are too common to hide.
    MIN_LINE_BYTES = 8

    def __init__(self, secrets: Mapping[str, SecretStr] | None = None) -> None:
        pairs: dict[bytes, bytes] = {}
        for name, secret in (secrets or {}).items():
            value = secret.get_secret_value()
            mark = f"<hidden input {name}>".encode()
            lines = [
                line for line in value.splitlines() if len(line.encode()) >= self.MIN_LINE_BYTES
            ]
            for form in (value, json.dumps(value)[1:-1], repr(value)[1:-1], *lines):
                if form:
                    pairs.setdefault(form.encode(), mark)
        # Longest first: a secret may contain another.
        self._pairs = sorted(pairs.items(), key=lambda pair: -len(pair[0]))
        self._longest = len(self._pairs[0][0]) if self._pairs else 0

    def text(self, text: str) -> str:
        """The text with every secret hidden."""
        if not self._pairs:
            return text
        return self.data(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def data(self, data: bytes) -> bytes:
        """The bytes with every secret hidden."""
        for secret, mark in self._pairs:
            data = data.replace(secret, mark)
        return data

    def value(self, value: Any) -> Any:
        """A JSON value with every secret in its strings hidden."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def safe_cut(self, data: bytes) -> int:
        """How many leading bytes can be written without cutting a secret in two."""
        if not self._pairs:
            return len(data)
        cut = max(len(data) - (self._longest - 1), 0)
        moved = True
        while moved:
            moved = False
            for secret, _ in self._pairs:
                start = data.find(secret, max(cut - len(secret) + 1, 0))
                if 0 <= start < cut < start + len(secret):
                    cut, moved = start + len(secret), True
        return cut


class OutputRecorder:
    """Collects the output of one script run and hands it on in pieces worth a row each.

    Offsets count raw bytes, so appending is idempotent and a resumed run knows where to go on;
    what is stored is masked.
    """

    def __init__(
        self, *, stream: str, step: str, offset: int, masker: Masker, clock: Clock
    ) -> None:
        self._stream = stream
        self._step = step
        self._offset = offset
        self._masker = masker
        self._clock = clock
        self._buffer = b""
        self._oldest = 0.0

    @property
    def expected_offset(self) -> int:
        """The offset of the next byte to come."""
        return self._offset + len(self._buffer)

    def feed(self, offset: int, data: bytes) -> list[Note]:
        """Take output that starts at this raw offset; answers the entries that are due. Bytes that
        were seen before are dropped. Raises `ValueError` for a gap."""
        if offset > self.expected_offset:
            raise ValueError(f"output goes on at byte {offset}, expected {self.expected_offset}")
        fresh = data[self.expected_offset - offset :]
        if fresh and not self._buffer:
            self._oldest = self._clock.monotonic()
        self._buffer += fresh
        waited_s = self._clock.monotonic() - self._oldest
        if len(self._buffer) < FLUSH_BYTES and not (self._buffer and waited_s >= FLUSH_AFTER_S):
            return []
        return self._take(self._masker.safe_cut(self._buffer))

    def finish(self) -> list[Note]:
        """Everything that is left."""
        return self._take(len(self._buffer))

    def _take(self, raw_bytes: int) -> list[Note]:
        if raw_bytes == 0:
            return []
        piece, self._buffer = self._buffer[:raw_bytes], self._buffer[raw_bytes:]
        note = Note(
            kind=AuditKind.OUTPUT,
            summary=f"{raw_bytes} bytes of output",
            step=self._step,
            stream=self._stream,
            offset=self._offset,
            raw_bytes=raw_bytes,
            data=self._masker.data(piece),
        )
        self._offset += raw_bytes
        self._oldest = self._clock.monotonic()
        return [note]


def _head(connection: sa.Connection, subject: str) -> tuple[int, str]:
    found = _HEAD.first(connection, of=subject)
    return (found.seq, found.hash) if found else (0, GENESIS)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _verify_rows(subject: str, rows: Iterable[Mapping[Any, Any]]) -> tuple[int, str]:
    count, previous = 0, GENESIS
    for row in rows:
        if row["seq"] != count + 1:
            raise AuditBroken(
                f"{subject}: entry {count + 1} was removed: entry {row['seq']} follows on {count}"
            )
        if row["previous"] != previous:
            raise AuditBroken(
                f"{subject}: entry {row['seq']} was inserted or replaced: it does not follow on "
                f"entry {count}"
            )
        if entry_hash(row) != row["hash"]:
            raise AuditBroken(f"{subject}: entry {row['seq']} was changed after it was written")
        count, previous = count + 1, row["hash"]
    return count, previous
