"""Launches whose driver died: their lease has a holder who is no more."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import sqlalchemy as sa

from slipway import processes
from slipway.launches.services import Services
from slipway.lifecycle import PHASES, subject_of
from slipway.records import Launch, LaunchStatus, Lease
from slipway.steps import left_behind

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]
_LEASES = Lease.__table__  # type: ignore[attr-defined]

#: Built once. A lease that was given back has no holder: whoever had it meant to stop there.
_HELD = (
    sa.select(
        _LAUNCHES.c.id,
        _LAUNCHES.c.server_name,
        _LAUNCHES.c.status,
        _LAUNCHES.c.flow_run_id,
        _LEASES.c.holder,
        _LEASES.c.epoch,
        _LEASES.c.until,
    )
    .join(_LEASES, _LEASES.c.subject == sa.literal(subject_of("")) + _LAUNCHES.c.id)
    .where(
        _LAUNCHES.c.status.in_([*PHASES[:-1], LaunchStatus.DECOMMISSIONING]),
        _LEASES.c.holder != "",
    )
    .order_by(_LAUNCHES.c.id)
)


@dataclass(frozen=True, kw_only=True)
class Unattended:
    """A launch that is under way, or being taken down, and nobody does it."""

    launch_id: str
    server: str
    status: LaunchStatus
    flow_run_id: str | None
    #: Of the lease that its driver died with: another for each driver there ever was.
    epoch: int
    #: Its driver is seen to be gone; else it has only been silent for too long.
    certain: bool


def unattended(services: Services) -> list[Unattended]:
    """All of them, the oldest first."""
    with services.database.reading() as connection:
        rows = connection.execute(_HELD).all()
    now = services.clock.now()
    # One process may drive a thousand.
    is_dead = functools.cache(processes.is_dead)
    gone = {row.id: left_behind(row.holder, is_dead) for row in rows}
    return [
        Unattended(
            launch_id=row.id,
            server=row.server_name,
            status=LaunchStatus(row.status),
            flow_run_id=row.flow_run_id,
            epoch=row.epoch,
            certain=gone[row.id],
        )
        for row in rows
        if gone[row.id] or row.until <= now
    ]
