"""Which state a repository was in when: rows that are added and never changed.

A *time* resolves to the newest state at or before it. A *date* resolves to the first state taken on
it (UTC) or, when none was, to the newest before: once there is one, later ones do not move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa

from slipway.database import Database
from slipway.records import MirrorDay
from slipway.statements import Statement

_DAYS = MirrorDay.__table__  # type: ignore[attr-defined]
_C = _DAYS.c
_COLUMNS = (_C.suite, _C.taken_at, _C.manifest, _C.changes, _C.removed_at)

_NEWEST = (
    sa.select(_C.suite, sa.func.max(_C.taken_at).label("taken_at"))
    .where(_C.repository == sa.bindparam("of"), _C.taken_at <= sa.bindparam("until"))
    .group_by(_C.suite)
    .subquery()
)
_AT = Statement(
    sa.select(*_COLUMNS)
    .join(_NEWEST, (_C.suite == _NEWEST.c.suite) & (_C.taken_at == _NEWEST.c.taken_at))
    .where(_C.repository == sa.bindparam("of"))
    .order_by(_C.suite)
)
_FIRST_IN = Statement(
    sa.select(_C.taken_at)
    .where(
        _C.repository == sa.bindparam("of"),
        _C.taken_at >= sa.bindparam("since"),
        _C.taken_at < sa.bindparam("until"),
    )
    .order_by(_C.taken_at)
    .limit(1)
)
_KEPT = Statement(
    sa.select(_C.id)
    .where(
        _C.repository == sa.bindparam("of"),
        _C.manifest == sa.bindparam("name"),
        _C.removed_at.is_(None),
    )
    .limit(1)
)
_REMOVE = Statement(
    sa.update(_DAYS)
    .where(
        _C.repository == sa.bindparam("of"),
        _C.suite == sa.bindparam("which"),
        _C.taken_at == sa.bindparam("when"),
    )
    .values(removed_at=sa.bindparam("now", type_=_C.removed_at.type))
)


@dataclass(frozen=True, kw_only=True)
class Day:
    """A suite at a moment."""

    suite: str
    taken_at: datetime
    manifest: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    #: When the retention let it go; what it names may be gone since.
    removed_at: datetime | None = None


class Days:
    """The days of all repositories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, connection: sa.Connection, repository: str, days: Sequence[Day]) -> None:
        """Add days, in a running transaction."""
        connection.execute(
            sa.insert(_DAYS),
            [
                {
                    "repository": repository,
                    "suite": day.suite,
                    "taken_at": day.taken_at,
                    "manifest": day.manifest,
                    "changes": dict(day.changes),
                }
                for day in days
            ],
        )

    def at(self, repository: str, moment: datetime) -> list[Day]:
        """Each suite's newest day at or before a moment, by name of the suite."""
        with self._database.reading() as connection:
            rows = _AT.all(connection, of=repository, until=moment)
        return [Day(**row._asdict()) for row in rows]

    def newest(self, repository: str) -> list[Day]:
        """Each suite's newest day."""
        return self.at(repository, datetime.max.replace(tzinfo=UTC))

    def on(self, repository: str, day: date) -> list[Day]:
        """What a date stands for."""
        since = datetime.combine(day, time(), UTC)
        with self._database.reading() as connection:
            first = _FIRST_IN.scalar(
                connection, of=repository, since=since, until=since + timedelta(days=1)
            )
        return self.at(repository, since if first is None else first)

    def history(self, repository: str) -> list[Day]:
        """Every day of every suite that was not removed, the newest first."""
        query = (
            sa.select(*_COLUMNS)
            .where(_C.repository == repository, _C.removed_at.is_(None))
            .order_by(_C.taken_at.desc(), _C.suite)
        )
        with self._database.reading() as connection:
            return [Day(**row._asdict()) for row in connection.execute(query)]

    def is_kept(self, repository: str, manifest: str) -> bool:
        """Whether a state is that of some day that was not removed."""
        with self._database.reading() as connection:
            return _KEPT.first(connection, of=repository, name=manifest) is not None

    def remove(
        self, connection: sa.Connection, repository: str, days: Iterable[Day], now: datetime
    ) -> None:
        """Let days go, in a running transaction."""
        for day in days:
            _REMOVE.run(connection, of=repository, which=day.suite, when=day.taken_at, now=now)

    def repositories(self) -> list[str]:
        """The names of the repositories that have days."""
        query = sa.select(_C.repository).distinct().order_by(_C.repository)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())


def next_moment(now: datetime, before: datetime | None) -> datetime:
    """The full second that a state taken now is of: never one that is over, because somebody may
    have asked for it, and later than the one before."""
    moment = now.replace(microsecond=0)
    if moment < now:
        moment += timedelta(seconds=1)
    if before is not None and moment <= before:
        moment = before + timedelta(seconds=1)
    return moment
