"""Days that are kept whatever their age, each for a reason."""

from __future__ import annotations

from datetime import date, datetime

import sqlalchemy as sa

from slipway.database import Database
from slipway.records import MirrorPin

_PINS = MirrorPin.__table__  # type: ignore[attr-defined]


class Pins:
    """The pinned days of all repositories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, repository: str) -> dict[date, str]:
        """The pinned days of a repository, with the reasons."""
        query = sa.select(_PINS.c.day, _PINS.c.reason).where(_PINS.c.repository == repository)
        with self._database.reading() as connection:
            return {row.day: row.reason for row in connection.execute(query)}

    def add(self, repository: str, day: date, reason: str, now: datetime) -> None:
        """Pin a day; a reason given before is replaced."""
        with self._database.transaction() as connection:
            connection.execute(_this(repository, day))
            connection.execute(
                sa.insert(_PINS).values(
                    repository=repository, day=day, reason=reason, pinned_at=now
                )
            )

    def remove(self, repository: str, day: date) -> None:
        """Let a day go again; harmless when it was not pinned."""
        with self._database.transaction() as connection:
            connection.execute(_this(repository, day))


def _this(repository: str, day: date) -> sa.Delete:
    return sa.delete(_PINS).where(_PINS.c.repository == repository, _PINS.c.day == day)
