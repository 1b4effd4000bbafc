"""Taking a server down: its scripts first, then the instance, for good."""

from __future__ import annotations

from collections.abc import Callable, Collection

import sqlalchemy as sa

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.clouds.base import InstanceState
from slipway.errors import (
    CapacityUnavailable,
    CloudRefused,
    Conflict,
    InstanceFailed,
    RemoteError,
    SlipwayError,
)
from slipway.launches.connecting import connect_to_agent
from slipway.launches.creating import (
    TAG_GENERATION,
    cloud_of,
    creation,
    generation_step,
    instances_of,
)
from slipway.launches.services import Services
from slipway.launches.work import Work, get_launch, recorded_result, saved_result, take_up
from slipway.lifecycle import PHASES, Event, subject_of
from slipway.phonehome.identity import forget as forget_agents
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.steps import StepRun, is_driven
from slipway.watch.waiting import Answer, Seen

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

#: An agent that is there answers at once.
LEAVE_TIMEOUT_S = 5.0


#: What can still be cancelled.
CANCELLABLE = (*PHASES[:-1], LaunchStatus.STRANDED)


def check_cancellable(launch: Launch) -> None:
    """Raises `Conflict` when there is no launch under way to cancel."""
    status, name = LaunchStatus(launch.status), launch.server_name
    if status not in CANCELLABLE:
        hint = f"; end it with 'slipway decommission {name}'" if status in PHASES else ""
        raise Conflict(f"server {name} is {status}: there is no launch to cancel{hint}")


def request_cancel(
    services: Services,
    launch_id: str,
    *,
    actor: str,
    also: Callable[[sa.Connection], None] | None = None,
) -> None:
    """Ask whoever drives a launch to stop; it is cancelled within seconds. ``also`` runs in the
    same transaction."""
    now = services.clock.now()
    with services.database.transaction() as connection:
        connection.execute(
            sa.update(_LAUNCHES)
            .where(_LAUNCHES.c.id == launch_id)
            .values(cancel_requested_at=now, updated_at=now)
        )
        note = Note(kind=AuditKind.INFO, summary="asked to cancel the launch")
        subject = subject_of(launch_id)
        audit.append(connection, subject, [note], actor=actor, at=now)
        note_change(connection, "launch.cancel-requested", subject, actor=actor, at=now)
        if also is not None:
            also(connection)


def cancel_undriven(services: Services, launch_id: str, *, actor: str) -> None:
    """Cancel a launch that nobody drives: nobody would notice the request. Does nothing when
    somebody does, or when there is nothing to cancel any more."""
    if is_driven(services.database, services.clock, subject_of(launch_id)):
        return
    if get_launch(services, launch_id).status not in CANCELLABLE:
        return
    try:
        work = take_up(services, launch_id, actor=actor)
    except Conflict:
        # Its driver came between our look and our grasp, and finds the request.
        return
    try:
        work.cancel()
    finally:
        work.driver.release()


def cancel_requests(services: Services, launch_ids: Collection[str]) -> list[str]:
    """Which of these launches somebody wants to end. Only one on its way up can be cancelled: who
    takes a server down must not be stopped by a request that was meant for who brought it up."""
    query = sa.select(_LAUNCHES.c.id).where(
        _LAUNCHES.c.id.in_(launch_ids),
        _LAUNCHES.c.cancel_requested_at.is_not(None),
        _LAUNCHES.c.status.in_(PHASES[:-1]),
    )
    with services.database.reading() as connection:
        return list(connection.execute(query).scalars())


def start_ending(work: Work, *, reason: str) -> bool:
    """Enter decommissioning; answers whether the server was operational, so that its scripts make
    sense. We hold the lease: a launch on its way up has no driver any more and is cancelled.

    An ending that was cut off goes on without its scripts: what they had done is not known, and a
    server half taken down is no place to find out.
    """
    status = work.status()
    if status is LaunchStatus.DECOMMISSIONING:
        work.driver.note(
            Note(
                kind=AuditKind.INFO,
                summary="decommissioning goes on; its scripts are not run (again)",
            )
        )
        return False
    if status in PHASES[:-1]:
        work.cancel()
    with work.driver.transaction() as connection:
        work.advance(connection, Event.DECOMMISSION, reason=reason)
    return status is LaunchStatus.OPERATIONAL


def dismiss_agent(work: Work, run: StepRun) -> None:
    """Let the server's agent remove itself, where it still answers. The server goes either way, and
    an agent that is left over is told at its next call."""
    try:
        connect_to_agent(work, work.launch()).leave(timeout_s=LEAVE_TIMEOUT_S)
    except RemoteError as error:
        run.succeed(f"the agent did not say good-bye: {error}")
    else:
        run.succeed("the agent has removed itself")


def terminate_instances(work: Work, run: StepRun) -> None:
    """Ask the cloud to end every instance of this launch, whatever generation."""
    launch = work.launch()
    cloud = cloud_of(work.services, launch)
    listed = instances_of(work.services, launch)
    alive = [each.id for each in listed if each.state is not InstanceState.TERMINATED]
    # Just created and not listed yet: the id on record is all there is.
    if launch.instance_id is not None and launch.instance_id not in alive:
        alive.append(launch.instance_id)
    current = {instance.tags.get(TAG_GENERATION) for instance in listed}
    if (
        str(launch.generation) not in current
        and (lost := _resolve_intent(work, launch)) is not None
    ):
        alive.append(lost)
    for instance_id in alive:
        cloud.terminate(launch.region, instance_id)
    run.succeed(
        f"asked to terminate {', '.join(alive)}" if alive else "there is no instance",
        result={"instance_ids": alive},
    )


def asked_to_terminate(work: Work) -> list[str]:
    """The instances the earlier step has asked the cloud to end."""
    return list(recorded_result(work, "terminate-instance")["instance_ids"])


def note_failed_script(work: Work, key: str, error: SlipwayError) -> None:
    """A decommission script that failed stops nothing, and is not forgotten."""
    summary = f"decommission script {key} failed, the server is taken down all the same: {error}"
    work.driver.note(Note(kind=AuditKind.ERROR, summary=summary))


def ask_again(work: Work, instance_id: str) -> None:
    """Ask the cloud to end an instance; harmless for one that is ending or gone."""
    launch = work.launch()
    cloud_of(work.services, launch).terminate(launch.region, instance_id)


def check_terminated(answer: Answer) -> None:
    """Raises `InstanceFailed` unless the instance is gone: listed as terminated, or not listed for
    long enough after we asked for its end."""
    if answer.last is not None and answer.seen is Seen.LISTED:
        if answer.last.state is InstanceState.TERMINATED:
            return
    elif answer.is_absent:
        return
    state = answer.last.state if answer.last else answer.seen
    raise InstanceFailed(
        f"instance {answer.instance_id} is {state}, it was to be terminated; decommission it again"
    )


def finish_ending(work: Work, run: StepRun) -> None:
    """The end of the launch; its secrets end with it."""

    def end(connection: sa.Connection) -> None:
        work.services.vault.remove_of(connection, work.launch_id)
        forget_agents(connection, work.launch_id)
        # Why it was taken down stays the reason for as long as it is listed.
        reason = work.launch().reason
        work.advance(connection, Event.TERMINATE, reason=reason)

    run.succeed(f"server {work.server} is terminated", also=end)


def _resolve_intent(work: Work, launch: Launch) -> str | None:
    """The instance of a creation whose reply never reached our records, and which no listing shows
    yet: the token brings it back, at worst by making it only now."""
    services, cloud = work.services, cloud_of(work.services, launch)
    unresolved = launch.create_intended_at is not None and launch.instance_id is None
    if not unresolved or not cloud.capabilities.client_tokens:
        return None
    step = generation_step(launch.generation, "create-instance")
    spec, token = creation(services, launch, saved_result(work, step))
    try:
        return cloud.create_instance(spec, token=token).id
    except (CloudRefused, CapacityUnavailable):
        return None
