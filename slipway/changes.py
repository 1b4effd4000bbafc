"""The change log: what happened, in one order, for streams that lose nothing.

A change is written in the transaction that makes it. Its number is given as the last thing of that
transaction, under a lock that is held until the commit: whoever sees number N sees every lower one,
now and for ever. That is what lets a reader go on behind the last number it has seen. (A sequence
alone does not: transactions commit in another order than they draw their numbers in.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from slipway.database import at_end
from slipway.errors import NotFound
from slipway.records import Change, ChangeHorizon
from slipway.statements import Statement

_CHANGES = Change.__table__  # type: ignore[attr-defined]
_COLUMNS = ("at", "kind", "subject", "actor", "detail")
_HORIZON = ChangeHorizon.__table__  # type: ignore[attr-defined]

#: PostgreSQL's lock that numbers are drawn under. SQLite has one writer at a time anyway.
_ORDER_LOCK_ID = 0x51_1D_3B

#: How many changes one clearing away removes at most: it holds up everybody who writes.
_CLEAR_AT_ONCE = 5000

_ORDER_LOCK = sa.text(f"SELECT pg_advisory_xact_lock({_ORDER_LOCK_ID})")
_ADD = Statement(
    sa.insert(_CHANGES)
    .values({name: sa.bindparam(f"new_{name}") for name in _COLUMNS})
    # Nobody asks for the number.
    .inline()
)
_NEWEST = sa.select(
    sa.func.coalesce(
        sa.select(sa.func.max(_CHANGES.c.seq)).scalar_subquery(),
        sa.select(_HORIZON.c.seq).scalar_subquery(),
        0,
    )
)


class ChangesGone(NotFound):
    """The change log does not reach back that far."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which changes somebody wants to see; empty means all."""

    #: ``launch.operational``, or ``launch`` for everything that happens to launches.
    kinds: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


def note_change(
    connection: sa.Connection,
    kind: str,
    subject: str,
    *,
    actor: str,
    at: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Record a change with the running transaction. The detail holds no secrets."""
    row = {
        "new_at": at,
        "new_kind": kind,
        "new_subject": subject,
        "new_actor": actor,
        "new_detail": dict(detail or {}),
    }
    at_end(connection, _write, row)


def newest(connection: sa.Connection) -> int:
    """The number of the newest change; 0 before the first."""
    return int(connection.execute(_NEWEST).scalar_one())


def check_reach(connection: sa.Connection, after: int) -> None:
    """Raises `ChangesGone` unless everything behind this number is still on record."""
    horizon = connection.execute(sa.select(_HORIZON.c.seq)).scalar() or 0
    if after < horizon:
        raise ChangesGone(
            f"change {after} is too old: changes up to {horizon} were cleared away; "
            "read the lists anew and go on from their as_of"
        )
    if after > (last := newest(connection)):
        raise ChangesGone(
            f"there is no change {after} yet, the newest is {last}: this is another database, or "
            "one that was restored; read the lists anew and go on from their as_of"
        )


def since(
    connection: sa.Connection, after: int, *, limit: int, wanted: Wanted | None = None
) -> list[Change]:
    """The changes behind a number, in order."""
    query = sa.select(_CHANGES).where(_CHANGES.c.seq > after).order_by(_CHANGES.c.seq).limit(limit)
    if wanted is not None and wanted.kinds:
        query = query.where(
            sa.or_(
                *(
                    _CHANGES.c.kind == kind
                    if "." in kind
                    else _CHANGES.c.kind.startswith(f"{kind}.", autoescape=True)
                    for kind in wanted.kinds
                )
            )
        )
    if wanted is not None and wanted.subjects:
        query = query.where(_CHANGES.c.subject.in_(wanted.subjects))
    return [Change(**row) for row in connection.execute(query).mappings()]


def changed_since(after: int, prefix: str, key: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """A condition: the thing with this key has changed behind that number."""
    subject = sa.literal(prefix) + key
    return subject.in_(sa.select(_CHANGES.c.subject).where(_CHANGES.c.seq > after))


def clear_away(connection: sa.Connection, before: datetime) -> int:
    """Remove changes that are older than this, some thousands at most; answers how many."""
    oldest = connection.execute(sa.select(sa.func.min(_CHANGES.c.seq))).scalar()
    if oldest is None:
        return 0
    upto = connection.execute(
        sa.select(sa.func.max(_CHANGES.c.seq)).where(
            _CHANGES.c.at < before, _CHANGES.c.seq < oldest + _CLEAR_AT_ONCE
        )
    ).scalar()
    if upto is None:
        return 0
    gone = connection.execute(sa.delete(_CHANGES).where(_CHANGES.c.seq <= upto))
    moved = connection.execute(sa.update(_HORIZON).values(seq=upto))
    if moved.rowcount == 0:
        connection.execute(sa.insert(_HORIZON).values(id=1, seq=upto))
    return gone.rowcount


def _write(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_ORDER_LOCK)
    _ADD.run_many(connection, rows)
