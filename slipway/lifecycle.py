"""How a launch moves from state to state: written down once, walked by `advance` alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.errors import LifecycleError, NotFound
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.statements import Statement

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]


_FOR_UPDATE = Statement(
    sa.select(_LAUNCHES.c.status, _LAUNCHES.c.server_name)
    .where(_LAUNCHES.c.id == sa.bindparam("launch"))
    .with_for_update()
)


class Event(StrEnum):
    """What can happen to a launch."""

    PROVISION = "provision"
    BOOT = "boot"
    GATE = "gate"
    CONFIGURE = "configure"
    COMPLETE = "complete"
    STRAND = "strand"
    CANCEL = "cancel"
    RESUME = "resume"
    DECOMMISSION = "decommission"
    TERMINATE = "terminate"


_S, _E = LaunchStatus, Event

#: The way up, in order; a launch that is under way is in one of the first five.
PHASES = (_S.REQUESTED, _S.PROVISIONING, _S.BOOTING, _S.GATING, _S.CONFIGURING, _S.OPERATIONAL)

#: The event that enters a phase.
ENTER: Mapping[LaunchStatus, Event] = {
    _S.PROVISIONING: _E.PROVISION,
    _S.BOOTING: _E.BOOT,
    _S.GATING: _E.GATE,
    _S.CONFIGURING: _E.CONFIGURE,
    _S.OPERATIONAL: _E.COMPLETE,
}

TRANSITIONS: Mapping[tuple[LaunchStatus, Event], LaunchStatus] = {
    (_S.REQUESTED, _E.PROVISION): _S.PROVISIONING,
    (_S.PROVISIONING, _E.BOOT): _S.BOOTING,
    (_S.BOOTING, _E.GATE): _S.GATING,
    (_S.GATING, _E.CONFIGURE): _S.CONFIGURING,
    (_S.CONFIGURING, _E.COMPLETE): _S.OPERATIONAL,
    **{(phase, _E.STRAND): _S.STRANDED for phase in PHASES[:-1]},
    **{(phase, _E.CANCEL): _S.CANCELLED for phase in PHASES[:-1]},
    # A stranded launch whose cause was mended walks the phases again; finished steps are skipped.
    (_S.STRANDED, _E.RESUME): _S.REQUESTED,
    (_S.CANCELLED, _E.RESUME): _S.REQUESTED,
    (_S.STRANDED, _E.CANCEL): _S.CANCELLED,
    (_S.OPERATIONAL, _E.DECOMMISSION): _S.DECOMMISSIONING,
    (_S.STRANDED, _E.DECOMMISSION): _S.DECOMMISSIONING,
    (_S.CANCELLED, _E.DECOMMISSION): _S.DECOMMISSIONING,
    (_S.DECOMMISSIONING, _E.TERMINATE): _S.TERMINATED,
}


def subject_of(launch_id: str) -> str:
    """The name a launch's steps, lease and audit entries are kept under."""
    return f"launch/{launch_id}"


def advance(
    connection: sa.Connection,
    launch_id: str,
    event: Event,
    *,
    actor: str,
    at: datetime,
    reason: str = "",
    changes: Mapping[str, Any] | None = None,
) -> LaunchStatus:
    """Move a launch and write the audit row, in the caller's transaction.

    The only writer of ``launch.status``. ``changes`` are other columns that change with it.
    Raises `LifecycleError` for a state and an event that do not go together.
    """
    row = _FOR_UPDATE.first(connection, launch=launch_id)
    if row is None:
        raise NotFound(f"launch {launch_id} does not exist")
    before = LaunchStatus(row.status)
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise LifecycleError(f"launch {launch_id} is {before}: it cannot {event}")
    values: dict[str, Any] = {"status": after.value, "reason": reason, "updated_at": at}
    if after is LaunchStatus.OPERATIONAL:
        values["operational_at"] = at
    if after is LaunchStatus.TERMINATED:
        values["ended_at"] = at
    if after is not LaunchStatus.STRANDED:
        values["failed_step"] = None
    values.update(changes or {})
    update_launch(connection, launch_id, values)
    note = Note(
        kind=AuditKind.STATUS,
        summary=f"{before} → {after}" + (f": {reason}" if reason else ""),
        detail={"from": before.value, "to": after.value, "event": event.value},
    )
    audit.append(connection, subject_of(launch_id), [note], actor=actor, at=at)
    note_change(
        connection,
        f"launch.{after}",
        subject_of(launch_id),
        actor=actor,
        at=at,
        detail={"server": row.server_name, "from": before.value, "to": after.value}
        | ({"reason": reason} if reason else {}),
    )
    return after


def update_launch(connection: sa.Connection, launch_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a launch, in the caller's transaction; its status is for `advance`."""
    named = {f"new_{name}": value for name, value in values.items()}
    _update_of(tuple(values)).run(connection, launch=launch_id, **named)


@functools.cache
def _update_of(columns: tuple[str, ...]) -> Statement:
    return Statement(
        sa.update(_LAUNCHES)
        .where(_LAUNCHES.c.id == sa.bindparam("launch"))
        .values({name: sa.bindparam(f"new_{name}") for name in columns})
    )
