"""Units of work that are committed together: each as if it were alone, none before the commit."""

from __future__ import annotations

import contextlib
import functools
import sqlite3

import pytest
import sqlalchemy as sa

from slipway import audit, changes
from slipway.audit import Note
from slipway.database import Database
from slipway.errors import LeaseLost, NotCommitted
from slipway.records import AuditKind, Credential, Server
from slipway.steps import acquire
from slipway.testing.fake_clock import FakeClock
from tests.records.rows import AT

_CREDENTIALS = Credential.__table__  # type: ignore[attr-defined]
_SERVERS = Server.__table__  # type: ignore[attr-defined]


def put(database: Database, *names: str) -> str:
    """Credentials, as rows that need no others, in one transaction."""
    with database.transaction() as connection:
        for name in names:
            insert(connection, name)
    return names[0]


def insert(connection: sa.Connection, name: str) -> None:
    row = {"name": name, "ciphertext": b"", "launch_id": None, "created_at": AT}
    connection.execute(sa.insert(_CREDENTIALS).values(**row))


def kept(database: Database) -> set[str]:
    """The names of the credentials."""
    with database.reading() as connection:
        return set(connection.execute(sa.select(_CREDENTIALS.c.name)).scalars())


def owe(database: Database) -> None:
    """Write a row whose foreign key holds for no commit of SQLite."""
    with database.transaction() as connection:
        # Looked at when it is committed, not before.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        row = {"name": "s", "environment": "none", "inputs": {}, "created_at": AT}
        connection.execute(sa.insert(_SERVERS).values(**row))


# --- Each as if it were alone ---------------------------------------------------------------------


def test_a_unit_that_fails_takes_no_other_with_it(any_database: Database) -> None:
    """What it wrote is undone, what came before and after it stays, and each hears of its own."""

    def breaks() -> None:
        with any_database.transaction() as connection:
            insert(connection, "b")
            raise ZeroDivisionError

    found = any_database.together(
        [
            functools.partial(put, any_database, "a"),
            breaks,
            functools.partial(put, any_database, "c", "a"),
            functools.partial(put, any_database, "d"),
        ]
    )
    assert [outcome.value for outcome in found] == ["a", None, None, "d"]
    errors = [type(outcome.error) for outcome in found]
    assert errors == [type(None), ZeroDivisionError, sa.exc.IntegrityError, type(None)]
    assert kept(any_database) == {"a", "d"}


def test_what_a_unit_has_finished_stays_when_it_fails_later(any_database: Database) -> None:
    """Each transaction stands for itself: what a gate has seen is on record, though it raises."""

    def two_steps() -> None:
        put(any_database, "first")
        put(any_database, "second", "first")

    found = any_database.together([two_steps, functools.partial(put, any_database, "other")])
    assert isinstance(found[0].error, sa.exc.IntegrityError)
    assert kept(any_database) == {"first", "other"}


def test_a_failure_that_a_unit_catches_is_none(any_database: Database) -> None:
    """As alone, it may go on in another transaction."""

    def tries_again() -> str:
        with contextlib.suppress(sa.exc.IntegrityError):
            put(any_database, "b", "a")
        return put(any_database, "c")

    found = any_database.together([functools.partial(put, any_database, "a"), tries_again])
    assert [outcome.value for outcome in found] == ["a", "c"]
    assert kept(any_database) == {"a", "c"}


def test_a_unit_sees_what_was_written_before_it(any_database: Database) -> None:
    """Its own transactions, and those of the units before it."""

    def write_and_look() -> set[str]:
        put(any_database, "b")
        return kept(any_database)

    found = any_database.together([functools.partial(put, any_database, "a"), write_and_look])
    assert found[1].value == {"a", "b"}


def test_changes_are_numbered_in_the_order_of_the_units(any_database: Database) -> None:
    """Those of a unit that failed are not among them."""

    def changes_something(name: str, *, fails: bool = False) -> None:
        with any_database.transaction() as connection:
            changes.note_change(connection, "test.changed", name, actor="tests", at=AT)
            if fails:
                raise ZeroDivisionError

    any_database.together(
        [
            functools.partial(changes_something, "a"),
            functools.partial(changes_something, "b", fails=True),
            functools.partial(changes_something, "c"),
        ]
    )
    with any_database.reading() as connection:
        found = changes.since(connection, 0, limit=9)
        assert [change.subject for change in found] == ["a", "c"]
        assert changes.newest(connection) == found[-1].seq


def test_a_driver_that_lost_its_lease_writes_nothing(any_database: Database) -> None:
    """Not even when it is lost to a unit it is committed with; and the audit has no gap."""
    clock = FakeClock()
    take = functools.partial(acquire, any_database, clock, "launch/1", actor="t", lease_s=30)
    old = take()

    def take_over() -> None:
        old.release()
        take().note(Note(kind=AuditKind.INFO, summary="taken over"))

    def note(summary: str) -> None:
        old.note(Note(kind=AuditKind.INFO, summary=summary))

    found = any_database.together(
        [functools.partial(note, "one"), take_over, functools.partial(note, "late")]
    )
    assert isinstance(found[2].error, LeaseLost)
    entries = audit.entries(any_database, "launch/1")
    assert [entry.summary for entry in entries] == ["one", "taken over"]
    assert audit.verify(any_database, "launch/1").entries == 2


# --- One commit -----------------------------------------------------------------------------------


def test_nothing_is_there_for_others_before_the_commit(database: Database) -> None:
    """Who looks from outside sees all of them or none."""
    other = Database(database.url.render_as_string(hide_password=False))
    found = database.together(
        [functools.partial(put, database, "a"), functools.partial(kept, other)]
    )
    assert found[1].value == set()
    assert kept(other) == {"a"}
    other.close()


def test_a_commit_that_fails_fails_them_all(database: Database) -> None:
    """Nobody is told of a success that did not last; each may try again."""

    def breaks() -> None:
        raise ZeroDivisionError

    units = [functools.partial(put, database, "a"), breaks, functools.partial(owe, database)]
    found = database.together(units)
    errors = [outcome.error for outcome in found]
    assert [type(error) for error in errors] == [NotCommitted, ZeroDivisionError, NotCommitted]
    assert errors[0] is not errors[2]
    assert str(errors[0]) == "nothing was put on record: FOREIGN KEY constraint failed"
    assert isinstance(errors[0], NotCommitted)
    assert errors[0].retryable
    assert kept(database) == set()
    assert database.together(units[:1])[0].value == "a"


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_transaction_that_sqlite_gives_up_fails_those_in_it(
    database: Database, goes_on: bool
) -> None:
    """As it does when the disk is full: what was written is gone and its writers are told, even if
    the unit that met it takes no notice; those that had not begun have a transaction of theirs."""

    def full() -> None:
        try:
            with database.transaction() as connection:
                connection.exec_driver_sql("ROLLBACK")
                raise OSError("disk full")
        except OSError:
            if not goes_on:
                raise
        put(database, "b")

    found = database.together(
        [functools.partial(put, database, "a"), full, functools.partial(put, database, "c")]
    )
    assert isinstance(found[0].error, NotCommitted)
    assert str(found[0].error) == "nothing was put on record: SQLite has given up the transaction"
    assert isinstance(found[1].error, NotCommitted if goes_on else OSError)
    assert found[2].value == "c"
    assert kept(database) == {"c"}


def test_units_that_only_read_wait_for_no_writer(database: Database) -> None:
    """They are answered while another process writes."""
    with contextlib.closing(sqlite3.connect(database.url.database or "")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        found = database.together([functools.partial(kept, database)] * 2)
    assert [outcome.value for outcome in found] == [set(), set()]
