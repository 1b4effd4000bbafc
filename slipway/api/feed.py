"""The change log and the audit as they grow, for any number of listeners of this process.

One look at the database a moment serves them all. Nothing is pushed from the writers' side: most of
them are other processes, and a look at the end of an index costs less than telling everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from slipway import audit, changes
from slipway.changes import Wanted
from slipway.database import Database
from slipway.records import AuditEntry, AuditHead, Change

_HEADS = AuditHead.__table__  # type: ignore[attr-defined]

#: How soon a change is seen.
LOOK_S = 0.3
#: After the database did not answer.
PAUSE_S = 2.0
#: How many changes are kept at hand: a listener that is further behind reads the database.
AT_HAND = 2000
#: The most a listener is given at once.
AT_ONCE = 500

_log = logging.getLogger("slipway.api")


class Feed:
    """What is new. All methods belong to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.listeners = 0
        #: Changes behind ``_start``, all of them up to ``_position``.
        self._recent: deque[Change] = deque()
        self._start = 0
        self._position = 0
        #: The newest entry of each audit that somebody follows.
        self._followed: Counter[str] = Counter()
        self._heads: dict[str, int] = {}
        self._moved = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """Let all listeners come to their end: the process is about to stop."""
        self._closed = True
        self._moved.set()

    async def changes(
        self, after: int, wanted: Wanted, *, quiet_s: float
    ) -> AsyncIterator[tuple[int, list[Change]]]:
        """The changes behind a number, until this is closed: how far we are, and what is wanted of
        it; at least every ``quiet_s``, then with nothing."""
        with self._listening():
            position = after
            while not self._closed:
                moved = self._moved
                found, position = await self._behind(position, wanted)
                if found:
                    yield position, found
                    continue
                if self._position > position:
                    continue
                if not await _wait(moved, quiet_s):
                    yield position, []

    async def entries(
        self, subject: str, after: int, *, quiet_s: float
    ) -> AsyncIterator[list[AuditEntry]]:
        """The audit entries of a subject behind a number, until this is closed; at least every
        ``quiet_s``, then none."""
        self._followed[subject] += 1
        try:
            with self._listening():
                position = after
                while not self._closed:
                    moved = self._moved
                    found = await asyncio.to_thread(
                        audit.entries, self._database, subject, after=position, limit=AT_ONCE
                    )
                    if found:
                        position = found[-1].seq
                        yield found
                        continue
                    while self._heads.get(subject, 0) <= position and not self._closed:
                        if not await _wait(moved, quiet_s):
                            yield []
                        moved = self._moved
        finally:
            self._followed[subject] -= 1
            if not self._followed[subject]:
                del self._followed[subject]
                self._heads.pop(subject, None)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self.listeners += 1
        if self._looking is None or self._looking.done():
            # Whoever comes first begins where the log ends now; older changes are in the database.
            self._recent.clear()
            self._start = self._position = -1
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self.listeners -= 1

    async def _behind(self, position: int, wanted: Wanted) -> tuple[list[Change], int]:
        """What is wanted of the changes behind a number, and how far that goes."""
        if 0 <= self._start <= position:
            behind = (change for change in self._recent if (change.seq or 0) > position)
            found = [change for change in behind if matches(change, wanted)]
            return found, max(self._position, position)
        return await asyncio.to_thread(self._page, position, wanted)

    def _page(self, position: int, wanted: Wanted) -> tuple[list[Change], int]:
        with self._database.reading() as connection:
            found = changes.since(connection, position, limit=AT_ONCE, wanted=wanted)
            if len(found) == AT_ONCE:
                return found, found[-1].seq or position
            return found, max(changes.newest(connection), position)

    async def _look(self) -> None:
        while self.listeners:
            try:
                found, position, heads = await asyncio.to_thread(
                    self._read, self._position, list(self._followed)
                )
            except Exception:  # noqa: BLE001  (logged, and tried again)
                # Listeners stay: nothing is lost, it only comes later.
                _log.exception("the change log cannot be read now; trying again")
                await asyncio.sleep(PAUSE_S)
                continue
            if position > self._position or heads != self._heads:
                self._take(found, position)
                self._heads = heads
                moved, self._moved = self._moved, asyncio.Event()
                moved.set()
            if len(found) < AT_ONCE:
                await asyncio.sleep(LOOK_S)

    def _read(self, position: int, followed: list[str]) -> tuple[list[Change], int, dict[str, int]]:
        with self._database.reading() as connection:
            query = sa.select(_HEADS.c.subject, _HEADS.c.seq).where(_HEADS.c.subject.in_(followed))
            heads = {row.subject: row.seq for row in connection.execute(query)} if followed else {}
            if position < 0:
                return [], changes.newest(connection), heads
            found = changes.since(connection, position, limit=AT_ONCE)
            return found, (found[-1].seq or position) if found else position, heads

    def _take(self, found: list[Change], position: int) -> None:
        if self._position < 0:
            self._start = position
        self._recent.extend(found)
        while len(self._recent) > AT_HAND:
            self._start = self._recent.popleft().seq or self._start
        self._position = position


def matches(change: Change, wanted: Wanted) -> bool:
    """Whether somebody wants to see a change."""
    noun = change.kind.partition(".")[0]
    if wanted.kinds and change.kind not in wanted.kinds and noun not in wanted.kinds:
        return False
    return not wanted.subjects or change.subject in wanted.subjects


async def _wait(moved: asyncio.Event, seconds: float) -> bool:
    """Whether something moved before the time was over."""
    try:
        await asyncio.wait_for(moved.wait(), seconds)
    except TimeoutError:
        return False
    return True
