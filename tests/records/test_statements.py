"""Statements that are compiled once: the same answers, conversions and errors as by SQLAlchemy."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from slipway.database import Database
from slipway.records import Launch, Step
from slipway.statements import Statement
from tests.records.rows import AT, add_launch

_STEPS = Step.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

ADD = Statement(sa.insert(_STEPS))
FIND = Statement(sa.select(_STEPS).where(_STEPS.c.subject == sa.bindparam("of")))
SET = Statement(
    sa.update(_STEPS)
    .where(_STEPS.c.subject == sa.bindparam("of"))
    .values(result=sa.bindparam("found"), attempt=_STEPS.c.attempt + 1, ended_at=None)
)


def row(key: str = "one", **columns: Any) -> dict[str, Any]:
    return {
        "subject": "launch/one",
        "key": key,
        "title": "One",
        "position": 1,
        "status": "running",
        "attempt": 1,
        "started_at": AT,
        "ended_at": AT,
        "result": {"list": [1, None, "ü"]},
        "error": "",
        **columns,
    }


def test_values_are_converted_as_by_sqlalchemy(any_database: Database) -> None:
    """What is written by one is read alike by the other: JSON, times of any zone, None."""
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=30))) + timedelta(microseconds=1)
    with any_database.transaction() as connection:
        ADD.run(connection, **row("ours", started_at=there, ended_at=None))
        connection.execute(sa.insert(_STEPS).values(**row("theirs", started_at=there)))
    with any_database.reading() as connection:
        ours = [found._asdict() for found in FIND.all(connection, of="launch/one")]
        theirs = [dict(found) for found in connection.execute(sa.select(_STEPS)).mappings()]
    assert ours == theirs
    first = {found["key"]: found for found in ours}["ours"]
    assert first == row("ours", started_at=there, ended_at=None)
    assert isinstance(first["started_at"], datetime)
    assert first["started_at"].utcoffset() == timedelta(0)


def test_every_column_of_a_launch_comes_back(any_database: Database) -> None:
    """A table with all our types, read by both."""
    add_launch(any_database, freeze=AT.date(), cancel_requested_at=AT, outputs={"a": [1]})
    find = Statement(sa.select(_LAUNCHES).where(_LAUNCHES.c.id == sa.bindparam("launch")))
    with any_database.reading() as connection:
        ours = find.first(connection, launch="launch-1")._asdict()
        theirs = dict(connection.execute(sa.select(_LAUNCHES)).mappings().one())
    assert ours == theirs
    assert list(ours) == list(theirs)


def test_rows_are_counted_and_fixed_values_stay(any_database: Database) -> None:
    """An update says how many rows it found; its own constants and expressions are kept."""
    with any_database.transaction() as connection:
        ADD.run_many(connection, [row("one"), row("two")])
        assert SET.run(connection, of="launch/one", found={}) == 2
        assert SET.run(connection, of="launch/none", found={}) == 0
        found = FIND.all(connection, of="launch/one")
    assert [(each.attempt, each.result, each.ended_at) for each in found] == [(2, {}, None)] * 2


def test_nothing_found_is_none(any_database: Database) -> None:
    """A first row that is not there, and its first column."""
    with any_database.reading() as connection:
        assert FIND.first(connection, of="launch/none") is None
        assert FIND.scalar(connection, of="launch/none") is None
        assert FIND.all(connection, of="launch/none") == []


@pytest.mark.parametrize("many", [False, True])
def test_errors_are_those_of_sqlalchemy(any_database: Database, *, many: bool) -> None:
    """A violated constraint is an `IntegrityError` that does not quote the values, and the
    transaction is rolled back."""
    secret = "hunter2"
    with any_database.transaction() as connection:
        ADD.run(connection, **row())
    rows = [row("two"), row(title=secret)]

    def write() -> None:
        with any_database.transaction() as connection:
            if many:
                ADD.run_many(connection, rows)
            else:
                for each in rows:
                    ADD.run(connection, **each)

    with pytest.raises(sa.exc.IntegrityError) as caught:
        write()
    assert secret not in str(caught.value)
    with any_database.reading() as connection:
        assert [found.key for found in FIND.all(connection, of="launch/one")] == ["one"]


@pytest.mark.parametrize("values", [{}, {"of": "launch/one", "other": 1}])
def test_a_value_too_many_or_too_few_is_refused(database: Database, values: dict[str, Any]) -> None:
    """A forgotten value must not become NULL."""
    with database.reading() as connection, pytest.raises(TypeError, match="takes \\['of'\\]"):
        FIND.first(connection, **values)


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    """The columns' own rules hold here, too."""
    naive = AT.replace(tzinfo=None)
    with pytest.raises(ValueError, match="no time zone"), database.transaction() as connection:
        ADD.run(connection, **row(started_at=naive))
