"""The database goes away in the middle of a launch: the launch waits, and goes on."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

import flows.driving
from flows.driving import driving
from slipway.database import Database
from slipway.errors import DatabaseUnavailable
from slipway.lifecycle import subject_of
from slipway.records import AuditKind
from slipway.steps import Driver, is_driven
from tasks import outages
from tests.launches.killing import _place
from tests.launches.world import World, counted, until


class Outages:
    """Every commit fails the first two times: at the first it does not come to be, at the second
    nobody hears that it did. Commits are told apart by where in the code they are, and for which
    step."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times: Counter[str] = Counter()
        here = threading.local()
        transaction = Database.transaction
        commit = database._engine.dialect.do_commit

        @contextlib.contextmanager
        def labelled(database: Database) -> Iterator[sa.Connection]:
            with transaction(database) as connection:
                yield connection
                here.place = _place(sys._getframe(1))

        def failing(connection: Any) -> None:
            self.times[here.place] += 1
            if self.times[here.place] == 1:
                raise broken("before")
            commit(connection)
            if self.times[here.place] == 2:
                raise broken("after")

        monkeypatch.setattr(Database, "transaction", labelled)
        monkeypatch.setattr(database._engine.dialect, "do_commit", failing)
        monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.001)


def broken(when: str) -> sqlite3.OperationalError:
    """What SQLite's driver raises when the disk does not answer."""
    error = sqlite3.OperationalError(f"disk I/O error {when} the commit")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


def test_an_outage_at_every_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether what was written is there or not, the launch comes up, with one instance, every
    script run once and the record whole; and nobody holds it any more."""
    world.template({"one": counted("one", "echo 1"), "two": counted("two", "seq 1000")})
    launch = world.record()
    failing = Outages(world.services.database, monkeypatch)
    [outcome] = world.drive(launch)
    assert outcome.status == "operational", outcome.reason
    # Each place at which a commit failed was come to again; letting go is left for later.
    once = [place for place, times in failing.times.items() if times == 1]
    assert [place.partition("<")[0] for place in once] == ["release"]
    assert len(failing.times) > 20
    assert world.runs(launch) == ["one", "two"]
    assert {step.status for step in world.steps(launch).values()} == {"succeeded"}
    assert not [entry for entry in world.entries(launch) if entry.kind == AuditKind.ERROR]
    world.check_invariants(launch)
    services = world.services
    assert not is_driven(services.database, services.clock, subject_of(launch.id))


def test_a_launch_that_could_not_be_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease is given back as soon as the database is there to take it: whoever waits for it in
    another process does not wait for the lease to run out."""
    world.template({"one": counted("one")})
    launch = world.record()
    release, tries = Driver.release, []

    def fails_at_first(driver: Driver) -> None:
        tries.append(driver)
        if len(tries) < 3:
            raise DatabaseUnavailable("away")
        release(driver)

    async def hold() -> None:
        async with driving(launch.id):
            monkeypatch.setattr(Driver, "release", fails_at_first)
        await until(lambda: holder() == "", "the lease is given back")

    def holder() -> str:
        with world.services.database.reading() as connection:
            return str(connection.execute(sa.text("SELECT holder FROM lease")).scalar())

    monkeypatch.setattr(flows.driving, "LOOK_S", 0.01)
    world.run(hold())
    assert len(tries) == 3
