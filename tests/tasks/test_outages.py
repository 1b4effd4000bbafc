"""Waiting for a database that is away."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from prefect import Task

import tasks.ending
import tasks.launching
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.errors import DatabaseUnavailable, NotFound
from slipway.launches.services import Services
from tasks import outages
from tasks.outages import outlast
from tasks.services import use_services
from tasks.threads import records


class Away:
    """A database that does not answer the next so many questions."""

    def __init__(self, database: Database) -> None:
        self.clock = SystemClock()
        self.database = database
        self.left = 0
        self.asked = 0
        self._reading = database.reading

    def reading(self) -> Any:
        """See `Database`."""
        self.asked += 1
        if self.left:
            self.left -= 1
            raise DatabaseUnavailable("away")
        return self._reading()


@pytest.fixture
def away(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """The database of this process."""
    made = Away(database)
    monkeypatch.setattr(database, "reading", made.reading)
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_S", 0.001)
    with use_services(cast("Services", made)):
        yield made


def look(away: Away) -> str:
    """Something to be done on the database."""
    with away.reading():
        return "seen"


async def test_everybody_waits_for_one_who_asks(
    away: Away, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever met the outage goes on when it is over; one asks for all of them, and says so at
    both ends."""
    away.left = 30
    with caplog.at_level(logging.WARNING, "slipway.outages"):
        found = await asyncio.gather(*(outlast(records, look, away) for _ in range(10)))
    assert found == ["seen"] * 10
    # Ten at first, the one that asked, ten again.
    assert away.asked == 10 + 20 + 1 + 10
    first, last = caplog.messages
    assert first == "the database is away; waiting: away"
    assert last.startswith("the database is back after ")


async def test_what_a_database_refuses_for_ever(away: Away) -> None:
    """It answers, and yet the same thing fails time and again: that is no outage."""

    def refused() -> None:
        raise DatabaseUnavailable("the disk is full")

    with pytest.raises(DatabaseUnavailable, match="the disk is full"):
        await outlast(records, refused)
    assert away.asked == outages.MOST_REFUSALS


async def test_other_errors_are_not_waited_out(away: Away) -> None:
    """They are the caller's, at once."""

    def missing() -> None:
        raise NotFound("it is not there")

    with pytest.raises(NotFound):
        await outlast(records, missing)
    assert away.asked == 0


async def test_whoever_is_cancelled_waits_no_longer(away: Away) -> None:
    """The others do."""
    away.left = 10**9
    waiting = [asyncio.ensure_future(outlast(records, look, away)) for _ in range(2)]
    while away.asked < 4:  # noqa: ASYNC110  (it is counted by another thread)
        await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    away.left = 0
    assert await waiting[1] == "seen"


@pytest.mark.parametrize("module", [tasks.launching, tasks.ending])
def test_every_step_of_a_launch_outlasts(module: Any) -> None:
    """A new one that does not would strand its launches when the database is restarted."""
    steps = [each for each in vars(module).values() if isinstance(each, Task)]
    assert len(steps) > 3
    for each in steps:
        assert inspect.getsourcefile(each.fn.__code__) == outages.__file__, each.name
