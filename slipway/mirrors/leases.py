"""Who may work on a mirror: one sync of a repository at a time, and no file is removed meanwhile.

Whoever takes days and whoever removes files each take their own lease first and then look for the
other's: of two that begin at once, at least one gives way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from slipway import steps
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import Conflict
from slipway.mirrors.progress import Progress
from slipway.records import Lease

_LEASES = Lease.__table__  # type: ignore[attr-defined]

_SYNC = "mirror/"
_REMOVING = "mirrors"
#: How long the work stays with a process that went silent.
LEASE_S = 60.0


def take_for_sync(database: Database, clock: Clock, repository: str, *, actor: str) -> steps.Driver:
    """The lease of whoever takes days of a repository. Raises `Conflict` saying who has it, or that
    files are being removed."""
    subject = f"{_SYNC}{repository}"
    driver = steps.acquire(database, clock, subject, actor=actor, lease_s=LEASE_S)
    if steps.is_driven(database, clock, _REMOVING):
        driver.release()
        raise Conflict(f"{repository}: files of mirrors are being removed; try again later")
    return driver


@contextlib.contextmanager
def removing(
    database: Database, clock: Clock, *, actor: str, progress: Progress
) -> Iterator[Callable[[], None]]:
    """Remove files inside the block; yields what is to be called now and then. Raises `Conflict`
    while a sync is under way."""
    driver = steps.acquire(database, clock, _REMOVING, actor=actor, lease_s=LEASE_S)
    try:
        for subject in _syncs(database):
            if steps.is_driven(database, clock, subject):
                name = subject.removeprefix(_SYNC)
                raise Conflict(
                    f"a sync of {name} is under way; files are removed when it has ended"
                )
        yield keeping(driver, progress)
    finally:
        driver.release()


def keeping(driver: steps.Driver, progress: Progress) -> Callable[[], None]:
    """What renews a lease when it is time, called every now and then. It raises `LeaseLost`, and
    `Stopped` when somebody has asked for it."""
    renewed = driver.clock.monotonic()

    def look() -> None:
        nonlocal renewed
        progress.check()
        now = driver.clock.monotonic()
        if now - renewed > LEASE_S / 4:
            driver.renew()
            renewed = now

    return look


def _syncs(database: Database) -> list[str]:
    # A range, because LIKE does not use the index everywhere; "0" comes after "/".
    query = sa.select(_LEASES.c.subject).where(
        _LEASES.c.subject >= _SYNC, _LEASES.c.subject < "mirror0"
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())
