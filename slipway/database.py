"""Engine, transactions and migrations: SQLite by default, PostgreSQL for many machines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from slipway.errors import (
    Conflict,
    DatabaseUnavailable,
    NotCommitted,
    SchemaMismatch,
    SlipwayError,
)

#: The newest migration. A process compares it with the database before it loads Alembic, which
#: costs ten times the comparison; a test holds it equal to the newest file.
SCHEMA_VERSION = "0006"

_MIGRATION_LOCK_ID = 0x51_1D_3A

_AT_END = "slipway.at_end"

#: Primary result codes of SQLite that may be otherwise soon: somebody else writes, the disk is full
#: or has an error, the file cannot be opened. https://www.sqlite.org/rescode.html
_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)

#: The same of PostgreSQL, by the first two characters: connection trouble, too many connections or
#: too little memory, a deadlock that was broken, being shut down or started, errors of its system.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_OUTAGES = frozenset({"08", "40", "53", "57", "58"})


def at_end(
    connection: sa.Connection, act: Callable[[sa.Connection, list[Any]], None], value: Any
) -> None:
    """Have ``act`` called once with all its values, as the last thing of the running transaction.
    Whatever takes a lock that every transaction wants then holds it for a moment only, and cannot
    be part of a deadlock."""
    connection.info[_AT_END].setdefault(act, []).append(value)


_IF_LOST = "slipway.if_lost"


def if_lost(connection: sa.Connection, act: Callable[[], None]) -> None:
    """Have ``act`` called when the running transaction does not come to be, or nobody knows."""
    connection.info[_IF_LOST].append(act)


@dataclass(frozen=True)
class Outcome:
    """What came of a unit of work: its answer, or its error."""

    value: Any = None
    error: BaseException | None = None


class Database:
    """Where the records are.

    `transaction` is for writing: it takes SQLite's write lock at the start, so two writers queue
    instead of failing half-way. `reading` never blocks a writer. `together` makes one commit do
    for many transactions. All raise `DatabaseUnavailable` when the database cannot be used now.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.url = parsed
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {
            "pool_size": 8,
            "max_overflow": 24,
            # A database error reaches records and run pages: it must not carry the values along.
            "hide_parameters": True,
            # A server that was restarted has forgotten our connections.
            "pool_pre_ping": not self.is_sqlite,
        }
        self._engine = sa.create_engine(parsed, **options)
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _configure_sqlite)
        self._reading = self._engine
        if not self.is_sqlite:
            # SQLite reads from a snapshot by itself; PostgreSQL has to be told.
            self._reading = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        # SQLite has one writer at a time and its lock is polled: inside one process a mutex is
        # fairer and cheaper.
        self._write_lock: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        )
        self._this_thread = _ThisThread()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One durable, all-or-nothing change. Inside `together` it is durable a little later."""
        group = self._this_thread.group
        if group is None:
            with self._committed() as connection, _closing_acts(connection):
                yield connection
        else:
            connection = group.begun()
            with _savepoint(connection), _closing_acts(connection):
                yield connection

    @contextlib.contextmanager
    def _committed(self) -> Iterator[sa.Connection]:
        acts: list[Callable[[], None]] = []
        try:
            with self._write_lock, _telling_outages(), self._engine.begin() as connection:
                # Begun here and not by an event: with one listener on the engine, SQLAlchemy goes
                # the long way round for every statement.
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.info[_IF_LOST] = acts
                yield connection
        except BaseException:
            for act in acts:
                act()
            raise

    @property
    def commits_together(self) -> bool:
        """Whether `together` makes one commit of many. On PostgreSQL it does not: committing is
        cheap for us there, and a transaction that holds the rows of many subjects could be part of
        a deadlock."""
        return self.is_sqlite

    def together(self, units: Sequence[Callable[[], Any]]) -> list[Outcome]:
        """Run units of work one after the other, in this thread, and commit once for all of them.

        Each transaction that a unit opens is still all-or-nothing by itself, and a unit that
        raises takes nothing with it but the transaction it was in: what it finished before stays,
        as it would alone. Nothing is durable before this returns. If the commit fails, every unit
        has failed, with `NotCommitted`.

        While one unit runs, what the others have written holds SQLite's write lock. A unit must
        therefore not wait for another thread: that may be waiting to write.
        """
        if not self.commits_together:
            return [_outcome(unit) for unit in units]
        outcomes: list[Outcome] = []
        try:
            with contextlib.ExitStack() as stack:
                group = self._this_thread.group = _Group(self._committed, stack)
                try:
                    for unit in units:
                        outcomes.append(_outcome(unit))
                        group.check()
                finally:
                    self._this_thread.group = None
        except Exception as error:  # noqa: BLE001  (each unit is told)
            lost = [Outcome(error=each.error or _not_committed(error)) for each in outcomes]
            # Those that had not begun have lost nothing.
            return lost + self.together(units[len(lost) :])
        return outcomes

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent look. Inside `together` it shows what was written there before."""
        group = self._this_thread.group
        if group is not None and group.connection is not None:
            yield group.connection
            return
        with _telling_outages(), self._reading.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection

    def migrate(self) -> None:
        """Bring the tables to `SCHEMA_VERSION`. Safe to call from many processes at once. Raises
        `SchemaMismatch` for a database that a newer Slipway has migrated."""
        if self._is_current():
            return
        with self._migration_lock():
            if self._is_current():
                return
            from slipway.migrations import upgrade

            with self.transaction() as connection:
                upgrade(connection, "head")

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def backup(self, path: Path) -> None:
        """Write a copy of an SQLite database as it is at one moment, while others go on writing.
        Complete or not at all. Raises `Conflict` when there is a file already."""
        if not self.is_sqlite or not self.url.database:
            raise SlipwayError("only SQLite is copied here; use pg_dump for PostgreSQL")
        if path.exists():
            raise Conflict(f"{path} exists already; name another file")
        draft = path.with_name(f"{path.name}.draft-{os.getpid()}")
        # Nobody else may read it: the records name hosts, accounts and inputs.
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with (
                contextlib.closing(sqlite3.connect(self.url.database)) as source,
                contextlib.closing(sqlite3.connect(draft)) as copy,
            ):
                source.backup(copy)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            # Unlike a rename, a link does not replace what came meanwhile.
            try:
                path.hardlink_to(draft)
            except FileExistsError:
                raise Conflict(f"{path} exists already; name another file") from None
        finally:
            draft.unlink()

    def _is_current(self) -> bool:
        found = self.schema_version()
        # Migrations are numbered, so a higher number is one we do not know.
        if found is not None and found > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"the database is at schema {found}, this Slipway knows schema {SCHEMA_VERSION}: "
                "it was upgraded by a newer Slipway; upgrade this one too"
            )
        return found == SCHEMA_VERSION

    def schema_version(self) -> str | None:
        """The newest migration the database has seen; None for an empty database."""
        if self.is_sqlite and self.url.database and not Path(self.url.database).exists():
            # A look makes no file.
            return None
        with self.reading() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return str(found) if found is not None else None

    @contextlib.contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if self.is_sqlite:
            if not self.url.database:
                yield
                return
            with Path(f"{self.url.database}.migrate.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        with _telling_outages(), self._engine.connect() as connection:
            lock_id = {"id": _MIGRATION_LOCK_ID}
            connection.execute(sa.text("SELECT pg_advisory_lock(:id)"), lock_id)
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:id)"), lock_id)


@contextlib.contextmanager
def _telling_outages() -> Iterator[None]:
    """Errors of the driver that say nothing about what was asked are `DatabaseUnavailable`."""
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable("no connection to the database became free in time") from error
    except sa.exc.DBAPIError as error:
        if not _is_outage(error):
            raise
        said = str(error.orig).strip().partition("\n")[0]
        raise DatabaseUnavailable(f"the database cannot be used now: {said}") from error


def _is_outage(error: sa.exc.DBAPIError) -> bool:
    """Whether the same may go well a little later."""
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        # The lowest byte; what is above it says more exactly what it was.
        return code & 0xFF in _SQLITE_OUTAGES
    if not isinstance(error, sa.exc.OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    # Without one there was no server to give it.
    return state is None or state[:2] in _POSTGRESQL_OUTAGES


class _Group:
    """The transaction that units of work share. It is begun by the first that wants to write: those
    that only read wait for no writer."""

    def __init__(
        self,
        begin: Callable[[], contextlib.AbstractContextManager[sa.Connection]],
        stack: contextlib.ExitStack,
    ) -> None:
        self.connection: sa.Connection | None = None
        self._begin = begin
        self._stack = stack

    def begun(self) -> sa.Connection:
        if self.connection is None:
            self.connection = self._stack.enter_context(self._begin())
        self.check()
        return self.connection

    def check(self) -> None:
        """Raises `NotCommitted` when SQLite has rolled everything back by itself, as it does when
        the disk is full."""
        if self.connection is not None and not _in_transaction(self.connection):
            raise NotCommitted("SQLite has given up the transaction")


class _ThisThread(threading.local):
    """What this thread's transactions are a part of."""

    group: _Group | None = None


def _outcome(unit: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(value=unit())
    except BaseException as error:  # noqa: BLE001  (handed to whoever waits for the unit)
        return Outcome(error=error)


def _not_committed(error: Exception) -> NotCommitted:
    """One for each who is told: an exception collects where it was raised."""
    told = NotCommitted(f"nothing was put on record: {getattr(error, 'orig', error)}")
    told.__cause__ = error
    return told


@contextlib.contextmanager
def _closing_acts(connection: sa.Connection) -> Iterator[None]:
    """What `at_end` was told inside the block is done at its end."""
    # One that broke does not tell its `info` any more.
    info = connection.info
    outer = info.get(_AT_END)
    acts: dict[Callable[[sa.Connection, list[Any]], None], list[Any]] = {}
    info[_AT_END] = acts
    try:
        yield
        for act, values in acts.items():
            act(connection, values)
    finally:
        info[_AT_END] = outer


@contextlib.contextmanager
def _savepoint(connection: sa.Connection) -> Iterator[None]:
    """An all-or-nothing part of SQLite's running transaction. Not `begin_nested`, which takes forty
    times as long."""
    run = _driver(connection).execute
    run("SAVEPOINT part")
    try:
        yield
    except BaseException:
        # Else SQLite has given up the whole transaction, and the part with it.
        if _in_transaction(connection):
            run("ROLLBACK TO part")
            run("RELEASE part")
        raise
    run("RELEASE part")


def _in_transaction(connection: sa.Connection) -> bool:
    return bool(_driver(connection).in_transaction)


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.dbapi_connection


def _configure_sqlite(connection: Any, _record: object) -> None:
    # Transactions are begun by `Database`, not by the driver's guesses.
    connection.isolation_level = None
    for pragma in ("busy_timeout=60000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    if not path or connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    # SQLite refuses one of two processes that switch at once, whatever the busy timeout.
    with Path(f"{path}.wal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection.execute("PRAGMA journal_mode=WAL")
