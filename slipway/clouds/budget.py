"""What a cloud lets an account call, shared by all processes of an installation.

Clouds count calls in token buckets, one for each account, region and family of calls, and refuse
what finds its bucket empty: also the calls of everybody else who uses the account. So we keep the
same buckets in our database and wait for our turn instead of being refused. Listings that only look
for news give way: they take none of the second half of a bucket, which is left to calls that
somebody waits for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import CloudThrottled
from slipway.records import CallBudget

_BUDGETS = CallBudget.__table__  # type: ignore[attr-defined]

#: How much of a bucket is left to calls that somebody waits for.
RESERVED = 0.5

#: Nobody waits for longer than this for his turn.
PATIENCE_S = 60.0

_giving_way: ContextVar[bool] = ContextVar("giving_way", default=False)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """So many calls at once, then so many a second."""

    at_once: float
    per_s: float


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Calls inside the block wait for nothing: they are refused while others may need the rest."""
    token = _giving_way.set(True)
    try:
        yield
    finally:
        _giving_way.reset(token)


class Budget:
    """The buckets of one account. A family without a bucket is not counted."""

    def __init__(
        self, database: Database, clock: Clock, account: str, buckets: Mapping[str, Bucket]
    ) -> None:
        self._database = database
        self._clock = clock
        self._account = account
        self._buckets = buckets
        #: Those whose rows are there.
        self._made: set[tuple[str, str]] = set()

    def take(self, region: str, family: str) -> None:
        """Wait for the turn of one call, in the order in which it was asked for. Raises
        `CloudThrottled` when that would take too long, or at once for a call that gives way."""
        bucket = self._buckets.get(family)
        if bucket is None:
            return
        reserved = bucket.at_once * RESERVED if _giving_way.get() else 0.0
        # Whoever waits has taken his call already: it is the next ones that wait for longer.
        patience = 0.0 if _giving_way.get() else PATIENCE_S
        wait_s = self._take(region, family, bucket, reserved=reserved, patience_s=patience)
        if wait_s > patience:
            raise CloudThrottled(
                f"the {family} calls of {self._account} in {region} are used up; there is one more "
                f"in {wait_s:.1f} s"
            )
        if wait_s > 0:
            self._clock.sleep(wait_s)

    def exhausted(self, region: str, family: str) -> None:
        """The cloud says that there are none left: somebody else has used them."""
        bucket = self._buckets.get(family)
        if bucket is None:
            return
        with self._locked(region, family, bucket) as (connection, remaining):
            self._put(connection, region, family, min(remaining, 0.0))

    def remaining(self, region: str, family: str) -> float:
        """How many calls are left now; below nothing while some wait for their turn."""
        with self._locked(region, family, self._buckets[family]) as (_, remaining):
            return remaining

    def _take(
        self, region: str, family: str, bucket: Bucket, *, reserved: float, patience_s: float
    ) -> float:
        """How long to wait for the call. It is taken unless that is longer than the patience."""
        with self._locked(region, family, bucket) as (connection, remaining):
            wait_s = max((reserved - (remaining - 1)) / bucket.per_s, 0.0)
            if wait_s <= patience_s:
                self._put(connection, region, family, remaining - 1)
        return wait_s

    @contextlib.contextmanager
    def _locked(
        self, region: str, family: str, bucket: Bucket
    ) -> Iterator[tuple[sa.Connection, float]]:
        """The bucket in our hands, and what is left in it now."""
        if (region, family) not in self._made:
            self._make(region, family, bucket)
        query = sa.select(_BUDGETS.c.remaining, _BUDGETS.c.at).where(*self._this(region, family))
        with self._database.transaction() as connection:
            found = connection.execute(query.with_for_update()).one()
            # Clocks of two machines differ: time that seems to go back has not passed.
            passed = max(self._clock.now() - found.at, timedelta(0))
            refilled = found.remaining + passed.total_seconds() * bucket.per_s
            yield connection, float(min(refilled, bucket.at_once))

    def _make(self, region: str, family: str, bucket: Bucket) -> None:
        row = CallBudget(
            account=self._account,
            region=region,
            family=family,
            remaining=bucket.at_once,
            at=self._clock.now(),
        )
        with self._database.reading() as connection:
            query = sa.select(_BUDGETS.c.at).where(*self._this(region, family))
            is_there = connection.execute(query).first() is not None
        if not is_there:
            # Another may be the first at the same moment.
            with contextlib.suppress(IntegrityError), self._database.transaction() as connection:
                connection.execute(sa.insert(_BUDGETS).values(**row.model_dump()))
        self._made.add((region, family))

    def _put(self, connection: sa.Connection, region: str, family: str, remaining: float) -> None:
        change = sa.update(_BUDGETS).where(*self._this(region, family))
        connection.execute(change.values(remaining=remaining, at=self._clock.now()))

    def _this(self, region: str, family: str) -> list[sa.ColumnElement[bool]]:
        return [
            _BUDGETS.c.account == self._account,
            _BUDGETS.c.region == region,
            _BUDGETS.c.family == family,
        ]
