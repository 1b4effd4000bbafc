"""Which worker processes are at work, and which have died and left something behind.

A worker *signs on*: it holds a lease under an id of its own while it lives, as a driver holds that
of a launch. A lease that ran out, or whose holder is a process that is no more, is what is left of
a worker that died: whoever takes it over looks after what that worker was running, and removes it
when that is done. A worker that ends in good order removes its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from slipway import steps
from slipway.clock import Clock
from slipway.database import Database
from slipway.ids import new_id
from slipway.records import Lease

_LEASES = Lease.__table__  # type: ignore[attr-defined]

_PREFIX = "worker/"

#: How often a worker says that it is alive …
RENEW_EVERY_S = 5.0
#: … and how long after the last time it is taken for dead by those who cannot see its process. Six
#: renewals: a machine that is busy for half of that loses nothing.
LEASE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A worker that is at work no more and has not signed off."""

    id: str
    #: It is seen to be gone; else it has only been silent for too long.
    certain: bool


class Duty:
    """The lease of one worker, in our hands: our own, or that of one that died."""

    def __init__(self, worker_id: str, driver: steps.Driver) -> None:
        self.worker_id = worker_id
        self._driver = driver

    def renew(self) -> None:
        """Say that somebody is at work. Raises `LeaseLost`: we were taken for dead."""
        self._driver.renew()

    def remove(self) -> None:
        """Nothing is left to be looked after. Raises `LeaseLost`."""
        with self._driver.transaction() as connection:
            connection.execute(sa.delete(_LEASES).where(_LEASES.c.subject == self._driver.subject))

    def leave(self) -> None:
        """Let go of what is not looked after yet, for whoever comes next."""
        with self._driver.transaction() as connection:
            connection.execute(
                sa.update(_LEASES)
                .where(_LEASES.c.subject == self._driver.subject)
                .values(until=self._driver.clock.now())
            )


def sign_on(database: Database, clock: Clock) -> Duty:
    """Begin to work, under a new id."""
    return take_over(database, clock, new_id("worker", clock.now()))


def take_over(database: Database, clock: Clock, worker_id: str) -> Duty:
    """Take the lease of a worker that is gone. Raises `Conflict` when it is not, or when another
    was faster."""
    driver = steps.acquire(
        database, clock, f"{_PREFIX}{worker_id}", actor=worker_id, lease_s=LEASE_S
    )
    return Duty(worker_id, driver)


def gone(database: Database, clock: Clock) -> list[Gone]:
    """The workers that died and whose runs nobody looks after yet, the oldest first."""
    return list(_gone(database, clock))


def _gone(database: Database, clock: Clock) -> Iterator[Gone]:
    query = (
        sa.select(_LEASES.c.subject, _LEASES.c.holder, _LEASES.c.until)
        # A range, because LIKE does not use the index everywhere; "0" comes after "/".
        .where(_LEASES.c.subject >= _PREFIX, _LEASES.c.subject < "worker0")
        .order_by(_LEASES.c.subject)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    now = clock.now()
    for row in rows:
        dead = steps.left_behind(row.holder)
        if dead or row.until <= now:
            yield Gone(id=row.subject.removeprefix(_PREFIX), certain=dead)
