"""What may be asked of launches from afar: recorded with its hand-over to the engine, or refused.

Nothing here waits for the engine or for a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.errors import CloudError, Conflict, InvalidInput
from slipway.launches import ending, handover
from slipway.launches.callbacks import check_call_back, record_call_back
from slipway.launches.operations import OperationRequest, check
from slipway.launches.requests import LaunchRequest, plan_launch, record_launch
from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.lifecycle import PHASES, subject_of
from slipway.records import AuditKind, HandOver, Launch, LaunchStatus
from slipway.steps import is_driven

#: Something to do in the transaction that records what was asked, with what was recorded.
AlsoLaunch = Callable[[sa.Connection, Launch], None]
AlsoRun = Callable[[sa.Connection, HandOver], None]


@dataclass(frozen=True, kw_only=True)
class CallBackRequest:
    """Where somebody wants to be told, and what to sign that with."""

    url: str
    secret: SecretStr | None = None


def ask_launch(
    services: Services,
    request: LaunchRequest,
    *,
    actor: str,
    secrets: Mapping[str, SecretStr] | None = None,
    callback: CallBackRequest | None = None,
    also: AlsoLaunch | None = None,
) -> Launch:
    """Record a launch and have it driven. Raises `InvalidInput` with every problem, a retryable
    `CloudError` when the cloud cannot be asked now, and `Conflict` when the server's name was taken
    meanwhile."""
    problems = []
    if callback is not None:
        allow_private = services.settings.callback_allow_private
        problems = check_call_back(callback.url, callback.secret, allow_private=allow_private)
    try:
        plan = plan_launch(services, request, secrets=secrets)
    except InvalidInput as error:
        raise InvalidInput([*error.problems, *problems]) from error
    except CloudError as error:
        if problems:
            raise InvalidInput(problems) from error
        raise
    if problems:
        raise InvalidInput(problems)

    def record(connection: sa.Connection, launch: Launch) -> None:
        now = services.clock.now()
        handover.hand_over_launch(connection, launch, request, actor=actor, now=now)
        if callback is not None:
            record_call_back(connection, services, launch.id, callback.url, callback.secret)
        if also is not None:
            also(connection, launch)

    return record_launch(services, plan, actor=actor, also=record)


def ask_resume(
    services: Services, launch_id: str, *, actor: str, also: AlsoLaunch | None = None
) -> None:
    """Have a launch taken up again. Raises `Conflict` when it is over, or somebody brings it up.

    One that has just stranded may still be in its driver's hands; the flow waits for those few
    seconds.
    """
    launch = get_launch(services, launch_id)
    if launch.status in (
        LaunchStatus.OPERATIONAL,
        LaunchStatus.DECOMMISSIONING,
        LaunchStatus.TERMINATED,
    ):
        raise Conflict(f"launch {launch_id} is {launch.status}: there is nothing to resume")
    under_way = launch.status in PHASES[:-1]
    if under_way and is_driven(services.database, services.clock, subject_of(launch_id)):
        raise Conflict(f"launch {launch_id} is under way already")
    with services.database.transaction() as connection:
        _tell(connection, services, launch_id, "resume", "asked to resume the launch", actor)
        now = services.clock.now()
        handover.hand_over_resume(connection, launch_id, actor=actor, now=now)
        if also is not None:
            also(connection, launch)


def ask_cancel(
    services: Services, launch_id: str, *, actor: str, also: AlsoLaunch | None = None
) -> None:
    """Have a launch stopped; at once where nobody drives it, else within seconds. Raises
    `Conflict` when none is under way."""
    launch = get_launch(services, launch_id)
    ending.check_cancellable(launch)

    def told(connection: sa.Connection) -> None:
        if also is not None:
            also(connection, launch)

    ending.request_cancel(services, launch_id, actor=actor, also=told)
    ending.cancel_undriven(services, launch_id, actor=actor)


def ask_decommission(
    services: Services,
    launch_id: str,
    *,
    actor: str,
    reason: str = "",
    also: AlsoLaunch | None = None,
) -> None:
    """Have a server taken down; one that is still coming up is cancelled first. Raises `Conflict`
    when it is terminated."""
    launch = get_launch(services, launch_id)
    if launch.status == LaunchStatus.TERMINATED:
        raise Conflict(f"launch {launch_id} of server {launch.server_name} is terminated already")
    reason = reason or f"decommissioned by {actor}"
    with services.database.transaction() as connection:
        summary = f"asked to decommission the server: {reason}"
        _tell(connection, services, launch_id, "decommission", summary, actor)
        now = services.clock.now()
        handover.hand_over_decommission(connection, launch_id, reason, actor=actor, now=now)
        if also is not None:
            also(connection, launch)


def ask_script(
    services: Services,
    launch_id: str,
    script: str,
    inputs: Mapping[str, Any],
    *,
    actor: str,
    also: AlsoRun | None = None,
) -> HandOver:
    """Have an operational script run, once; the answer's id names the run. Raises `Conflict` when
    the server is not operational, and `InvalidInput` for an unknown script or input."""
    launch = get_launch(services, launch_id)
    request = OperationRequest(server=launch_id, script=script, inputs=dict(inputs))
    check(services, launch, request)
    with services.database.transaction() as connection:
        _tell(connection, services, launch_id, "script", f"asked to run script {script}", actor)
        row = handover.hand_over_script(
            connection, launch_id, script, inputs, actor=actor, now=services.clock.now()
        )
        if also is not None:
            also(connection, row)
    return row


def _tell(
    connection: sa.Connection,
    services: Services,
    launch_id: str,
    what: str,
    summary: str,
    actor: str,
) -> None:
    subject, now = subject_of(launch_id), services.clock.now()
    note = Note(kind=AuditKind.INFO, summary=summary)
    audit.append(connection, subject, [note], actor=actor, at=now)
    note_change(connection, f"launch.{what}-requested", subject, actor=actor, at=now)
