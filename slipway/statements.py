"""Statements that run all the time: put into SQL once, then run by the driver's own connection.

SQLAlchemy takes 40 to 100 µs to run a statement it has run before, SQLite takes 4 of them. What
a launch does some hundred times is therefore written in Core as everything else, and compiled
here: with the dialect's own SQL, and the conversions of the columns' own types.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa

_Processor = Callable[[Any], Any]


class Statement:
    """A Core statement whose values are named by `sa.bindparam` (an insert's by its columns).

    It runs in the transaction of the `sa.Connection` it is given, and raises what that would raise.
    """

    def __init__(self, statement: sa.Select[Any] | sa.Insert | sa.Update) -> None:
        self._statement = statement
        #: By name of the dialect; all engines are made by `slipway.database`, and alike.
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: sa.Connection, **values: Any) -> int:
        """Run it for its effect; answers how many rows it found."""
        compiled = self._for(connection)
        return int(compiled.execute(connection, compiled.parameters(values)).rowcount)

    def run_many(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each of these sets of values."""
        compiled = self._for(connection)
        compiled.execute_many(connection, [compiled.parameters(values) for values in rows])

    def first(self, connection: sa.Connection, **values: Any) -> Any:
        """The first row, as a named tuple, or None."""
        compiled = self._for(connection)
        row = compiled.execute(connection, compiled.parameters(values)).fetchone()
        return None if row is None else compiled.row(row)

    def all(self, connection: sa.Connection, **values: Any) -> list[Any]:
        """All rows, as named tuples."""
        compiled = self._for(connection)
        cursor = compiled.execute(connection, compiled.parameters(values))
        return [compiled.row(row) for row in cursor.fetchall()]

    def scalar(self, connection: sa.Connection, **values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.first(connection, **values)
        return None if row is None else row[0]

    def _for(self, connection: sa.Connection) -> _Compiled:
        found = self._compiled.get(connection.dialect.name)
        if found is None:
            found = _Compiled(self._statement, connection.dialect)
            self._compiled[connection.dialect.name] = found
        return found


class _Compiled:
    """A statement in one dialect."""

    def __init__(self, statement: Any, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._dialect = dialect
        self._sql = str(compiled)
        #: In the order of their places, for drivers that count instead of naming them.
        self._places: list[str] | None = compiled.positiontup if compiled.positional else None
        self._processors: dict[str, _Processor | None] = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in compiled.binds.items()
        }
        self._wanted = frozenset(name for name, bind in compiled.binds.items() if bind.required)
        self._constants = {
            name: self._process(name, value)
            for name, value in compiled.params.items()
            if name not in self._wanted
        }
        self._row: Callable[..., Any] = tuple
        self._columns: list[tuple[int, _Processor]] = []
        if isinstance(statement, sa.Select):
            columns = statement.selected_columns
            self._row = namedtuple("Row", list(columns.keys()))._make  # type: ignore[attr-defined]
            for place, column in enumerate(columns):
                process = column.type.dialect_impl(dialect).result_processor(dialect, None)
                if process is not None:
                    self._columns.append((place, process))

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """What the driver is handed for these values."""
        if values.keys() != self._wanted:
            raise TypeError(f"{self._sql}: takes {sorted(self._wanted)}, not {sorted(values)}")
        bound = {**self._constants, **{name: self._process(name, values[name]) for name in values}}
        return bound if self._places is None else [bound[name] for name in self._places]

    def row(self, found: Sequence[Any]) -> Any:
        """A row as the columns' types say."""
        if self._columns:
            found = list(found)
            for place, process in self._columns:
                found[place] = process(found[place])
        return self._row(found)

    def execute(self, connection: sa.Connection, parameters: Any) -> Any:
        try:
            return _driver(connection).execute(self._sql, parameters)
        except self._dialect.loaded_dbapi.Error as error:
            self._raise(error)

    def execute_many(self, connection: sa.Connection, parameters: Any) -> None:
        try:
            _driver(connection).cursor().executemany(self._sql, parameters)
        except self._dialect.loaded_dbapi.Error as error:
            self._raise(error)

    def _process(self, name: str, value: Any) -> Any:
        process = self._processors[name]
        return value if process is None else process(value)

    def _raise(self, error: Exception) -> NoReturn:
        """The error that SQLAlchemy makes of the driver's, without the values."""
        raise sa.exc.DBAPIError.instance(
            self._sql,
            None,
            error,
            self._dialect.loaded_dbapi.Error,
            hide_parameters=True,
            dialect=self._dialect,
        ) from error


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.dbapi_connection
