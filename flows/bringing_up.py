"""One launch from wherever it is to its end: the same coroutine for one server and for a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from flows.driving import driving, until_free
from flows.outcomes import Outcome
from flows.pictures import publish_timeline
from slipway.errors import Conflict, LeaseLost
from slipway.launches.inputs import template_of
from slipway.launches.work import Work, get_launch
from slipway.records import LaunchStatus
from slipway.servertemplates import HealthScript, ResolvedTemplate
from tasks.ending import take_down
from tasks.launching import (
    become_operational,
    check_health,
    check_instance,
    create_instance,
    freeze_repositories,
    generation_key,
    pass_clock_gate,
    resolve_launch_inputs,
    resolve_template,
    run_script,
    wait_for_boot,
    wait_for_running,
)
from tasks.outages import outlast
from tasks.services import current_services
from tasks.stepping import tell
from tasks.threads import records

#: The status of an `Outcome` that another process is to find out.
LOST = "lost"

#: Nothing is left to be brought up.
_OVER = (LaunchStatus.OPERATIONAL, LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED)


#: The attempt has ended, and a new one may be made.
_ENDED = (LaunchStatus.STRANDED, LaunchStatus.CANCELLED)


async def see_through(
    launch_id: str, *, reopen: Collection[str] = (LaunchStatus.STRANDED,)
) -> Outcome:
    """`bring_up`, for one run among others: when another is at work on the launch, or takes it
    over, the outcome is what the launch comes to there."""
    while True:
        try:
            outcome = await bring_up(launch_id, reopen=reopen)
        except Conflict:
            launch = await outlast(records, get_launch, current_services(), launch_id)
            # One whose attempt is over has yet to let go of it; ours is the next.
            letting_go = launch.status in _ENDED
        else:
            if outcome.status != LOST:
                return outcome
            letting_go = False
        if not letting_go:
            # What the other one's attempt ends in is for a person to look at, not for us to repeat.
            reopen = ()
        await until_free(launch_id)


async def bring_up(
    launch_id: str, *, reopen: Collection[str] = (LaunchStatus.STRANDED,)
) -> Outcome:
    """Drive a launch until it is operational or stranded; skip what an earlier driver finished.

    A failure is an outcome, not an exception. Cancelling the asyncio task leaves the launch as it
    is, to be resumed, unless somebody asked for the launch itself to be cancelled. ``reopen`` says
    which attempts that came to an end are followed by a new one. Raises `Conflict` when another
    process is at work on it.
    """
    async with driving(launch_id) as (work, held):
        status = await outlast(records, work.status)
        if status in _OVER or (status in _ENDED and status not in reopen):
            return await _outcome(work)
        try:
            if status in _ENDED:
                await outlast(records, work.reopen)
                await check_instance(work)
            await _steps(work)
        except LeaseLost as error:
            return _lost(work, error)
        except asyncio.CancelledError as error:
            if held.lost:
                return _lost(work, error)
            if held.cancelled:
                await asyncio.shield(outlast(records, work.cancel))
                return await _outcome(work)
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is: stranded, never unknown)
            # An error after the last step has no launch to strand: it is operational.
            if await outlast(records, work.strand, error):
                tell(work, LaunchStatus.STRANDED)
                if (await outlast(records, work.launch)).on_failure == "terminate":
                    await take_down(work, reason="stranded, and to be terminated then")
        await publish_timeline(work)
        return await _outcome(work)


async def _steps(work: Work) -> None:
    await resolve_template(work)
    values = await resolve_launch_inputs(work)
    await create_instance(work)
    await wait_for_running(work)
    await wait_for_boot(work)
    await pass_clock_gate(work)
    await freeze_repositories(work)
    template = await outlast(records, _template, work)
    checks = [check.script for check in template.health if isinstance(check, HealthScript)]
    for script in [*template.boot, *checks]:
        key = generation_key(work, f"run-script:{script.key}")
        await run_script(work, values, script.key, key=key, phase=LaunchStatus.CONFIGURING)
    await check_health(work)
    await become_operational(work)


def _template(work: Work) -> ResolvedTemplate:
    return template_of(work.services, work.launch())


def _lost(work: Work, error: BaseException) -> Outcome:
    reason = str(error) or "another process has taken over"
    return Outcome(launch_id=work.launch_id, server=work.server, status=LOST, reason=reason)


async def _outcome(work: Work) -> Outcome:
    launch = await outlast(records, work.launch)
    return Outcome(
        launch_id=launch.id,
        server=launch.server_name,
        status=launch.status,
        reason=launch.reason if launch.status != LaunchStatus.OPERATIONAL else "",
    )
