"""The board of one cloud's region: who waits there, and what they are told.

Rows in our database, so that one poller serves every process: whoever waits puts a row up, whoever
lists takes it down when the wait is over, and what was seen can be read by both. Two counters in
one row say that there is something new. PostgreSQL rings a bell as well (`BELL`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway.clock import Clock
from slipway.clouds.base import Instance, InstanceState
from slipway.database import Database
from slipway.records import Launch, LaunchStatus, SeenInstance, WaitingFor, WatchedRegion
from slipway.statements import Statement
from slipway.watch.waiting import (
    BOOTS,
    Answer,
    Known,
    Seen,
    Sighting,
    Wish,
    first_look_s,
)

_REGIONS = WatchedRegion.__table__  # type: ignore[attr-defined]
_WAITING = WaitingFor.__table__  # type: ignore[attr-defined]
_SEEN = SeenInstance.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

#: PostgreSQL's channel; the payload is `Board.place`.
BELL = "slipway_watch"

#: How many values go into one question: SQLite takes some thousands.
_CHUNK = 500

_THIS = (_REGIONS.c.cloud == sa.bindparam("of"), _REGIONS.c.region == sa.bindparam("at"))
_COUNTERS = Statement(
    sa.select(_REGIONS.c.asked, _REGIONS.c.told, _REGIONS.c.problem).where(*_THIS)
)
_ASK = Statement(sa.update(_REGIONS).where(*_THIS).values(asked=_REGIONS.c.asked + 1))
_TELL = Statement(sa.update(_REGIONS).where(*_THIS).values(told=_REGIONS.c.told + 1))
_PUT_UP = Statement(sa.insert(_WAITING))
_WISHES = Statement(
    sa.select(_WAITING).where(
        _WAITING.c.cloud == sa.bindparam("of"), _WAITING.c.region == sa.bindparam("at")
    )
)
_ADD = Statement(sa.insert(_SEEN))
_CHANGE = Statement(
    sa.update(_SEEN)
    .where(*(column == sa.bindparam(f"new_{column.name}") for column in _SEEN.primary_key))
    .values(
        {each.name: sa.bindparam(f"new_{each.name}") for each in _SEEN.c if not each.primary_key}
    )
)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """How much has happened at a board; 0 before anything did."""

    asked: int = 0
    told: int = 0
    #: Why the newest listing failed; empty when it did not.
    problem: str = ""


class Board:
    """One region's board. Every method is a piece of work on our own database."""

    def __init__(self, database: Database, clock: Clock, cloud: str, region: str) -> None:
        self.database = database
        self.clock = clock
        self.cloud = cloud
        self.region = region
        self._key = {"of": cloud, "at": region}

    @property
    def place(self) -> str:
        """Where it is, for people and for the bell."""
        return f"{self.cloud}/{self.region}"

    def ask(self, wish: Wish) -> None:
        """Begin to wait."""
        row = {
            "id": wish.id,
            "cloud": self.cloud,
            "region": self.region,
            "instance_id": wish.instance_id,
            "wanted": sorted(wish.wanted),
            "hopeless": sorted(wish.hopeless),
            "gone": wish.gone,
            "begun_at": wish.begun_at,
            "look_from": wish.look_from,
            "until": wish.until,
        }
        self.set_up()
        with self.database.transaction() as connection:
            _PUT_UP.run(connection, **row)
            _ASK.run(connection, **self._key)
            self._ring(connection)

    def withdraw(self, wish_id: str) -> None:
        """Wait no more; harmless when the wait is over."""
        with self.database.transaction() as connection:
            connection.execute(sa.delete(_WAITING).where(_WAITING.c.id == wish_id))

    def counters(self) -> Counters:
        """A look at the one row."""
        with self.database.reading() as connection:
            found = _COUNTERS.first(connection, **self._key)
        return Counters() if found is None else Counters(**found._asdict())

    def wishes(self) -> list[Wish]:
        """Everybody who waits."""
        with self.database.reading() as connection:
            return [_wish(row) for row in _WISHES.all(connection, **self._key)]

    def settled(self, wishes: Mapping[str, str]) -> dict[str, Answer]:
        """The answers to those of these wishes, given as instances by id, whose wait is over."""
        with self.database.reading() as connection:
            waiting = set()
            for some in chunks(list(wishes)):
                query = sa.select(_WAITING.c.id).where(_WAITING.c.id.in_(some))
                waiting |= set(connection.execute(query).scalars())
            over = {wish: instance for wish, instance in wishes.items() if wish not in waiting}
            known = self.known(connection, set(over.values()))
            problem = self._problem(connection)
        now = self.clock.now()
        return {wish: _answer(each, known, now, problem) for wish, each in over.items()}

    def answer(self, instance_id: str) -> Answer:
        """What is known of an instance now."""
        with self.database.reading() as connection:
            known = self.known(connection, [instance_id])
            return _answer(instance_id, known, self.clock.now(), self._problem(connection))

    def first_look(self, begun_at: datetime, *, image_id: str, instance_type: str) -> datetime:
        """When to look first for an instance that was asked for at this time: it was never seen to
        run earlier."""
        query = (
            sa.select(_SEEN.c.boot_s)
            .where(
                _SEEN.c.cloud == self.cloud,
                _SEEN.c.region == self.region,
                _SEEN.c.image_id == image_id,
                _SEEN.c.instance_type == instance_type,
                _SEEN.c.boot_s.is_not(None),
            )
            .order_by(_SEEN.c.created_at.desc())
            .limit(BOOTS)
        )
        with self.database.reading() as connection:
            boots_s = connection.execute(query).scalars().all()
        return begun_at + timedelta(seconds=first_look_s(boots_s))

    # -- for whoever lists -------------------------------------------------------------------------

    def known(
        self, connection: sa.Connection, instance_ids: Collection[str] | None = None
    ) -> dict[str, Known]:
        """These instances, as far as they were ever looked for; all that have not ended, by
        default."""
        here = (_SEEN.c.cloud == self.cloud, _SEEN.c.region == self.region)
        if instance_ids is None:
            queries = [sa.select(_SEEN).where(*here, _SEEN.c.ended_at.is_(None))]
        else:
            queries = [
                sa.select(_SEEN).where(*here, _SEEN.c.instance_id.in_(some))
                for some in chunks(list(instance_ids))
            ]
        rows = [row for query in queries for row in connection.execute(query).mappings()]
        return {row["instance_id"]: _known(row, self.region) for row in rows}

    def keep(
        self, connection: sa.Connection, known: Sequence[Known], *, new: Collection[str]
    ) -> None:
        """Put what is known on record; ``new`` are those that are not there yet."""
        rows = [self._row(each) for each in known]
        _ADD.run_many(connection, [row for row in rows if row["instance_id"] in new])
        changed = [row for row in rows if row["instance_id"] not in new]
        _CHANGE.run_many(connection, [{f"new_{k}": v for k, v in row.items()} for row in changed])

    def tell(self, connection: sa.Connection, wish_ids: Collection[str]) -> None:
        """Take rows down and let everybody know."""
        for some in chunks(list(wish_ids)):
            connection.execute(sa.delete(_WAITING).where(_WAITING.c.id.in_(some)))
        _TELL.run(connection, **self._key)
        self._ring(connection)

    def listed(self, connection: sa.Connection, *, at: datetime | None, problem: str = "") -> None:
        """Say how the newest listing went; without ``at``, it failed."""
        values: dict[str, Any] = {"problem": problem}
        if at is not None:
            values["listed_at"] = at
        here = (_REGIONS.c.cloud == self.cloud, _REGIONS.c.region == self.region)
        connection.execute(sa.update(_REGIONS).where(*here).values(**values))

    def set_up(self) -> None:
        """Have the row that everybody looks at."""
        with self.database.reading() as connection:
            if _COUNTERS.first(connection, **self._key) is not None:
                return
        row = WatchedRegion(cloud=self.cloud, region=self.region)
        with contextlib.suppress(IntegrityError), self.database.transaction() as connection:
            connection.execute(sa.insert(_REGIONS).values(**row.model_dump()))

    def _problem(self, connection: sa.Connection) -> str:
        found = _COUNTERS.first(connection, **self._key)
        return "" if found is None else str(found.problem)

    def _ring(self, connection: sa.Connection) -> None:
        if not self.database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_notify(BELL, self.place)))

    def _row(self, known: Known) -> dict[str, Any]:
        last = known.last
        row = SeenInstance(
            cloud=self.cloud,
            region=self.region,
            instance_id=known.instance_id,
            launch_id=known.launch_id,
            seen=known.seen.value,
            sightings=[
                {"state": each.state.value, "at": each.at.isoformat(), "reason": each.reason}
                for each in known.sightings
            ],
            boot_s=known.boot_s,
            missed=known.missed,
            missing_since=known.missing_since,
            ended_at=known.ended_at,
        )
        if last is not None:
            row.state, row.state_reason = last.state.value, last.state_reason
            row.image_id, row.instance_type = last.image_id, last.instance_type
            row.token, row.tags, row.created_at = last.token, dict(last.tags), last.created_at
            row.private_ip, row.public_ip = last.private_ip, last.public_ip
            row.ssh_port = last.ssh_port
        return row.model_dump()


def places_in_use(database: Database) -> list[tuple[str, str]]:
    """The clouds and regions in which something of ours runs."""
    query = (
        sa.select(_LAUNCHES.c.cloud, _LAUNCHES.c.region)
        .where(
            _LAUNCHES.c.status != LaunchStatus.TERMINATED.value,
            _LAUNCHES.c.instance_id.is_not(None),
        )
        .distinct()
        .order_by(_LAUNCHES.c.cloud, _LAUNCHES.c.region)
    )
    with database.reading() as connection:
        return [(row.cloud, row.region) for row in connection.execute(query)]


def forget_ended(connection: sa.Connection, before: datetime) -> int:
    """Remove instances that ended before this; answers how many."""
    return connection.execute(sa.delete(_SEEN).where(_SEEN.c.ended_at < before)).rowcount


def _wish(row: Any) -> Wish:
    return Wish(
        id=row.id,
        instance_id=row.instance_id,
        wanted=frozenset(InstanceState(each) for each in row.wanted),
        hopeless=frozenset(InstanceState(each) for each in row.hopeless),
        gone=row.gone,
        begun_at=row.begun_at,
        look_from=row.look_from,
        until=row.until,
    )


def _answer(instance_id: str, known: Mapping[str, Known], now: datetime, problem: str) -> Answer:
    found = known.get(instance_id)
    if found is None:
        return Answer(instance_id=instance_id, problem=problem)
    return found.answer(now, problem=problem)


def _known(row: Mapping[Any, Any], region: str) -> Known:
    last = None
    if row["state"]:
        last = Instance(
            id=row["instance_id"],
            state=InstanceState(row["state"]),
            region=region,
            image_id=row["image_id"],
            instance_type=row["instance_type"],
            token=row["token"],
            tags=row["tags"],
            created_at=row["created_at"],
            private_ip=row["private_ip"],
            public_ip=row["public_ip"],
            ssh_port=row["ssh_port"],
            state_reason=row["state_reason"],
        )
    return Known(
        instance_id=row["instance_id"],
        seen=Seen(row["seen"]),
        last=last,
        sightings=tuple(
            Sighting(
                state=InstanceState(each["state"]),
                at=datetime.fromisoformat(each["at"]),
                reason=each["reason"],
            )
            for each in row["sightings"]
        ),
        boot_s=row["boot_s"],
        missed=row["missed"],
        missing_since=row["missing_since"],
        ended_at=row["ended_at"],
    )


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values in pieces that one question takes."""
    for at in range(0, len(values), _CHUNK):
        yield values[at : at + _CHUNK]
