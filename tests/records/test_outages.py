"""What counts as an outage of the database, on each kind of database."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from slipway.database import Database, if_lost
from slipway.errors import DatabaseUnavailable
from slipway.statements import Statement
from tests.postgres import Postgres
from tests.records.test_together import insert, kept, put


def without_patience(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA busy_timeout=0")


@pytest.fixture
def impatient(database: Database) -> Database:
    """An SQLite database that waits for no other writer."""
    sa.event.listen(database._engine, "connect", without_patience)
    return database


def test_sqlite_that_somebody_else_writes_to(impatient: Database) -> None:
    """Who does not get the write lock is told so, and reads all the same; later it goes well."""
    with contextlib.closing(sqlite3.connect(impatient.url.database or "")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match=r"^the database cannot be used now: "):
            put(impatient, "a")
        [outcome] = impatient.together([functools.partial(put, impatient, "a")])
        assert isinstance(outcome.error, DatabaseUnavailable)
        with impatient.reading() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar() == 1
    assert put(impatient, "a") == "a"


def test_sqlite_whose_directory_is_gone(tmp_path: Path) -> None:
    """A file that cannot be opened may be there later: a disk that is not mounted yet."""
    (tmp_path / "disk").mkdir()
    database = Database(f"sqlite:///{tmp_path / 'disk' / 'slipway.db'}")
    (tmp_path / "disk").rmdir()
    with pytest.raises(DatabaseUnavailable, match="unable to open database file"):
        kept(database)
    database.close()


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELEKT 1"])
def test_a_wrong_statement_is_no_outage(any_database: Database, statement: str) -> None:
    """It would be wrong again."""
    with pytest.raises(sa.exc.DBAPIError), any_database.reading() as connection:
        connection.execute(sa.text(statement))


@pytest.fixture
def on_postgres(postgres: Postgres) -> Iterator[Database]:
    """A PostgreSQL database."""
    with postgres.database(f"outages_{uuid.uuid4().hex[:8]}") as url:
        database = Database(url)
        yield database
        database.close()


def end_connections(database: Database) -> None:
    """As PostgreSQL does when it is shut down."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(end)


#: In the middle of a transaction: by SQLAlchemy, and by the way that goes past it.
STATEMENTS = {
    "core": lambda connection: connection.execute(sa.text("SELECT 1")),
    "compiled": lambda connection: Statement(sa.select(sa.literal(1).label("one"))).run(connection),
}


@pytest.mark.parametrize("way", STATEMENTS)
def test_postgres_ends_our_connection(on_postgres: Database, way: str) -> None:
    """In the middle of a transaction it is an outage, whichever way the statement went; the next
    transaction has a new connection, and a pooled one that is dead is not noticed at all."""
    run = STATEMENTS[way]

    def broken() -> None:
        with on_postgres.transaction() as connection:
            run(connection)
            end_connections(on_postgres)
            run(connection)

    with pytest.raises(DatabaseUnavailable):
        broken()
    with on_postgres.transaction() as connection:
        run(connection)
    end_connections(on_postgres)
    with on_postgres.reading() as connection:
        run(connection)


def test_postgres_ends_our_connection_before_the_commit(on_postgres: Database) -> None:
    """What is to be done when the outcome is not known is done once."""
    lost: list[str] = []

    def broken() -> None:
        with on_postgres.transaction() as connection:
            insert(connection, "a")
            if_lost(connection, lambda: lost.append("lost"))
            end_connections(on_postgres)

    with pytest.raises(DatabaseUnavailable):
        broken()
    with on_postgres.transaction() as connection:
        if_lost(connection, lambda: lost.append("kept"))
    assert lost == ["lost"]


def test_postgres_that_is_not_there(tmp_path: Path) -> None:
    """Nobody listens: it may be starting."""
    database = Database(f"postgresql://postgres@/postgres?host={tmp_path}&port=5432")
    with pytest.raises(DatabaseUnavailable, match=r"^the database cannot be used now: "):
        kept(database)
    database.close()
