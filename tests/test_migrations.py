"""The migrations build exactly the tables that the records declare."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

import slipway.records  # noqa: F401  (fills the metadata)
from slipway import migrations
from slipway.database import SCHEMA_VERSION, Database


def test_the_schema_version_is_the_newest_migration() -> None:
    """Database.migrate() skips Alembic when the version matches: the constant must be the head."""
    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [SCHEMA_VERSION]


def test_the_migrations_form_one_line() -> None:
    """No migration has two successors, so there is one order to apply them in."""
    script = ScriptDirectory.from_config(migrations.config())
    revisions = list(script.walk_revisions())
    assert [revision for revision in revisions if revision.is_branch_point] == []
    assert len(script.get_bases()) == 1


def test_tables_and_migrations_agree(any_database: Database) -> None:
    """Autogenerate finds nothing to do after all migrations ran."""
    with any_database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        difference = compare_metadata(context, SQLModel.metadata)
    assert difference == []


def test_a_missing_column_is_noticed(database: Database) -> None:
    """The comparison above can fail: a column the migrations lack is reported."""
    with database.transaction() as connection:
        connection.execute(sa.text("ALTER TABLE lease DROP COLUMN until"))
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        difference = compare_metadata(context, SQLModel.metadata)
    added = [(change[2], change[3].name) for change in difference if change[0] == "add_column"]
    assert ("lease", "until") in added


def test_migrating_again_changes_nothing(any_database: Database) -> None:
    """migrate() on an up-to-date database is a no-op."""
    with any_database.reading() as connection:
        before = sorted(sa.inspect(connection).get_table_names())
    any_database.migrate()
    with any_database.reading() as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == before
        versions = connection.execute(sa.text("SELECT version_num FROM alembic_version")).all()
    assert [tuple(row) for row in versions] == [(SCHEMA_VERSION,)]


def _migrate(url: str, start: multiprocessing.synchronize.Barrier) -> None:
    database = Database(url)
    start.wait(60)
    database.migrate()
    database.close()


def test_many_processes_may_migrate_at_once(empty_database_url: str) -> None:
    """Processes that find an empty database together all succeed and leave one schema."""
    # Not fork: SQLAlchemy's and pytest's state of this process must not be shared.
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(4)
    processes = [spawn.Process(target=_migrate, args=(empty_database_url, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    database = Database(empty_database_url)
    try:
        with database.reading() as connection:
            found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).all()
            assert sa.inspect(connection).has_table("launch")
        assert [tuple(row) for row in found] == [(SCHEMA_VERSION,)]
    finally:
        database.close()


def test_a_failed_migration_leaves_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of an upgrade or nothing: an error half-way leaves no table behind."""
    real = migrations.upgrade

    def upgrade_then_fail(connection: sa.Connection, revision: str) -> None:
        real(connection, revision)
        raise RuntimeError("the machine went down here")

    monkeypatch.setattr(migrations, "upgrade", upgrade_then_fail)
    database = Database(empty_database_url)
    try:
        with pytest.raises(RuntimeError, match="went down"):
            database.migrate()
        with database.reading() as connection:
            assert sa.inspect(connection).get_table_names() == []
        monkeypatch.undo()
        database.migrate()
        with database.reading() as connection:
            assert sa.inspect(connection).has_table("launch")
    finally:
        database.close()


def test_sqlite_is_durable_and_checks_foreign_keys(database: Database) -> None:
    """Every connection runs with the write-ahead log, full sync and foreign keys."""
    with database.reading() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
