"""Handing work over to the engine: recorded first, so that nothing is lost while it is away.

Whoever asks for a launch writes a row in the same transaction. A dispatcher, of which there may be
any number at once, starts a flow run for each row and notes its id. The row's id is the engine's
idempotency key, so a dispatcher that dies between the two, and another that goes on, start one run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.errors import EngineUnavailable, SlipwayError
from slipway.ids import new_id
from slipway.launches.engine import FlowName, FlowStarter
from slipway.launches.operations import OperationRequest
from slipway.launches.requests import LaunchRequest
from slipway.launches.services import Services
from slipway.launches.work import operation_key
from slipway.lifecycle import subject_of
from slipway.records import AuditKind, HandOver, Launch, Step

_HAND_OVERS = HandOver.__table__  # type: ignore[attr-defined]
_STEPS = Step.__table__  # type: ignore[attr-defined]
_WAITING = _HAND_OVERS.c.handed_at.is_(None)

#: How long one attempt has before another dispatcher may try. One whose engine takes longer to
#: answer may be overtaken: both ask under the same key, and it is one run.
ATTEMPT_S = 20.0

#: An engine that is away is asked again after 1, 2, 4, … seconds, at most after this.
MAX_PAUSE_S = 15.0
#: One that has refused a run will do so until somebody mends something.
MAX_REFUSED_PAUSE_S = 300.0

#: How soon a dispatcher looks again when nothing is due: others record too.
LOOK_S = 1.0

_AT_ONCE = 50

_log = logging.getLogger("slipway.handover")


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What waits to be handed over."""

    waiting: int
    #: How long the oldest has waited; 0 when nothing waits.
    oldest_s: float


def hand_over_launch(
    connection: sa.Connection, launch: Launch, request: LaunchRequest, *, actor: str, now: datetime
) -> HandOver:
    """Have a recorded launch driven. The flow finds it by its key."""
    # What the launch is made of is on record: no need to carry it through the engine.
    known = request.model_copy(update={"key": launch.idempotency_key, "user_data": ""})
    parameters = {"request": known.model_dump(mode="json")}
    return _record(connection, launch.id, "launch_server", parameters, actor=actor, now=now)


def hand_over_resume(
    connection: sa.Connection, launch_id: str, *, actor: str, now: datetime
) -> HandOver:
    """Have a launch taken up again."""
    parameters = {"launch": launch_id}
    return _record(connection, launch_id, "resume_launch", parameters, actor=actor, now=now)


def hand_over_decommission(
    connection: sa.Connection, launch_id: str, reason: str, *, actor: str, now: datetime
) -> HandOver:
    """Have a server taken down."""
    parameters = {"server": launch_id, "reason": reason}
    return _record(connection, launch_id, "decommission_server", parameters, actor=actor, now=now)


def hand_over_script(
    connection: sa.Connection,
    launch_id: str,
    script: str,
    inputs: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
) -> HandOver:
    """Have an operational script run, once; the hand-over's id is the run's key."""
    key = _new_id(now)
    request = OperationRequest(server=launch_id, script=script, inputs=dict(inputs), key=key)
    parameters = {"request": request.model_dump(mode="json")}
    return _record(
        connection, launch_id, "run_operational_script", parameters, actor=actor, now=now, id_=key
    )


def script_not_begun(services: Services, key: str, why: str, *, actor: str) -> bool:
    """Put on record that nobody goes on with a run of an operational script whose step has not
    begun: without a step nothing else would tell. The first reason stays. Answers whether it is on
    record now."""
    now = services.clock.now()
    with services.database.transaction() as connection:
        query = sa.select(_HAND_OVERS).where(
            _HAND_OVERS.c.id == key, _HAND_OVERS.c.flow == "run_operational_script"
        )
        row = connection.execute(query.with_for_update()).mappings().first()
        if row is None or (row["handed_at"] and row["error"]):
            return False
        subject, script = subject_of(row["launch_id"]), row["parameters"]["request"]["script"]
        step = sa.select(_STEPS.c.key).where(
            _STEPS.c.subject == subject, _STEPS.c.key == operation_key(script, key)
        )
        if connection.execute(step).first() is not None:
            return False
        # The flow may be quicker than the dispatcher that started it.
        values = {"error": why.replace("\0", ""), "handed_at": row["handed_at"] or now}
        connection.execute(sa.update(_HAND_OVERS).where(_HAND_OVERS.c.id == key).values(**values))
        note = Note(kind=AuditKind.INFO, summary=f"script {script} was not begun: {why}")
        audit.append(connection, subject, [note], actor=actor, at=now)
        note_change(connection, "launch.script-not-begun", subject, actor=actor, at=now)
    return True


def backlog(connection: sa.Connection, now: datetime) -> Backlog:
    """What waits to be handed over."""
    query = sa.select(sa.func.count(), sa.func.min(_HAND_OVERS.c.created_at)).where(_WAITING)
    count, oldest = connection.execute(query).one()
    return Backlog(
        waiting=count, oldest_s=0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    )


class Dispatcher:
    """Hands over what waits. One thread calls `tick`; other processes may have one as well."""

    def __init__(self, services: Services, starter: FlowStarter) -> None:
        self._services = services
        self._starter = starter
        self._failures = 0

    def tick(self) -> float:
        """Hand over everything that is due; answers after how many seconds to look again."""
        while True:
            due = self._due()
            for row in due:
                if not self._claim(row):
                    continue
                try:
                    self._start(row)
                except EngineUnavailable as error:
                    return self._away(error)
            if len(due) < _AT_ONCE:
                return LOOK_S

    def _due(self) -> list[HandOver]:
        # Of one launch only the oldest: a decommission does not overtake the launch.
        oldest = sa.select(sa.func.min(_HAND_OVERS.c.id)).where(_WAITING)
        query = (
            sa.select(_HAND_OVERS)
            .where(
                _WAITING,
                _HAND_OVERS.c.due_at <= self._services.clock.now(),
                _HAND_OVERS.c.id.in_(oldest.group_by(_HAND_OVERS.c.launch_id)),
            )
            .order_by(_HAND_OVERS.c.id)
            .limit(_AT_ONCE)
        )
        with self._services.database.reading() as connection:
            return [HandOver(**row) for row in connection.execute(query).mappings()]

    def _claim(self, row: HandOver) -> bool:
        """Whether the row is ours for this attempt."""
        until = self._services.clock.now() + timedelta(seconds=ATTEMPT_S)
        with self._services.database.transaction() as connection:
            moved = connection.execute(
                sa.update(_HAND_OVERS)
                .where(_HAND_OVERS.c.id == row.id, _WAITING, _HAND_OVERS.c.due_at == row.due_at)
                .values(due_at=until, attempts=_HAND_OVERS.c.attempts + 1)
            )
        row.attempts += 1
        return moved.rowcount == 1

    def _start(self, row: HandOver) -> None:
        try:
            run_id = self._starter.start(
                cast("FlowName", row.flow),
                row.parameters,
                idempotency_key=row.id,
                tags=["slipway", row.launch_id],
            )
        except EngineUnavailable as error:
            self._postpone(row, str(error), self._pause(row.attempts, MAX_PAUSE_S))
            raise
        except Exception as error:  # noqa: BLE001  (on record, and tried again)
            # Nothing that was asked for is dropped, and the others are not held up.
            if not isinstance(error, SlipwayError):
                _log.exception("hand-over %s of launch %s", row.id, row.launch_id)
            text = str(error) or type(error).__name__
            self._postpone(row, text, self._pause(row.attempts, MAX_REFUSED_PAUSE_S))
            return
        self._failures = 0
        self._done(row, run_id)

    def _done(self, row: HandOver, run_id: str) -> None:
        now, subject = self._services.clock.now(), subject_of(row.launch_id)
        with self._services.database.transaction() as connection:
            handed = connection.execute(
                sa.update(_HAND_OVERS)
                .where(_HAND_OVERS.c.id == row.id, _WAITING)
                .values(handed_at=now, flow_run_id=run_id, error="")
            )
            if handed.rowcount == 0:
                # Another has gone on where we took too long; it was the same run.
                return
            note = Note(
                kind=AuditKind.INFO,
                summary=f"handed over to the engine as flow run {run_id}",
                detail={"flow": row.flow, "flow_run_id": run_id, "attempts": row.attempts},
            )
            audit.append(connection, subject, [note], actor=row.requested_by, at=now)
            detail = {"flow": row.flow, "flow_run_id": run_id}
            note_change(
                connection,
                "launch.handed-over",
                subject,
                actor=row.requested_by,
                at=now,
                detail=detail,
            )

    def _postpone(self, row: HandOver, error: str, pause_s: float) -> None:
        due = self._services.clock.now() + timedelta(seconds=pause_s)
        # PostgreSQL takes no NUL in text.
        values = {"error": error.replace("\0", ""), "due_at": due}
        with self._services.database.transaction() as connection:
            connection.execute(
                sa.update(_HAND_OVERS).where(_HAND_OVERS.c.id == row.id, _WAITING).values(**values)
            )

    def _away(self, error: EngineUnavailable) -> float:
        """The others wait for the same; each of them says so."""
        with self._services.database.transaction() as connection:
            connection.execute(
                sa.update(_HAND_OVERS).where(_WAITING).values(error=str(error).replace("\0", ""))
            )
        self._failures += 1
        return self._pause(self._failures, MAX_PAUSE_S)

    def _pause(self, failures: int, most_s: float) -> float:
        return float(min(2.0 ** min(failures - 1, 16), most_s))


def _record(
    connection: sa.Connection,
    launch_id: str,
    flow: FlowName,
    parameters: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
    id_: str | None = None,
) -> HandOver:
    row = HandOver(
        id=id_ or _new_id(now),
        launch_id=launch_id,
        flow=flow,
        parameters=dict(parameters),
        requested_by=actor,
        created_at=now,
        due_at=now,
    )
    connection.execute(sa.insert(_HAND_OVERS).values(**row.model_dump()))
    return row


def _new_id(now: datetime) -> str:
    return new_id("run", now)
