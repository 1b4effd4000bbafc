"""One launch from wherever it is to its end: the same coroutine for one server and for a fleet."""

from __future__ import annotations

import asyncio

from flows.driving import driving
from flows.outcomes import Outcome
from flows.pictures import publish_timeline
from slipway.errors import LeaseLost, SlipwayError
from slipway.launches import creating
from slipway.launches.inputs import template_of
from slipway.launches.work import Work
from slipway.records import LaunchStatus
from slipway.servertemplates import HealthScript
from tasks.ending import take_down
from tasks.launching import (
    become_operational,
    check_health,
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
from tasks.stepping import tell
from tasks.threads import clouds, records


async def bring_up(launch_id: str) -> Outcome:
    """Drive a launch until it is operational or stranded; skip what an earlier driver finished.

    A failure is an outcome, not an exception. Cancelling the asyncio task leaves the launch as it
    is, to be resumed, unless somebody asked for the launch itself to be cancelled.
    """
    async with driving(launch_id) as (work, held):
        try:
            await _take_up_again(work)
            await _steps(work)
        except LeaseLost as error:
            return Outcome(
                launch_id=launch_id, server=work.server, status="lost", reason=str(error)
            )
        except asyncio.CancelledError:
            if held.cancelled:
                await asyncio.shield(records(work.cancel))
                return await _outcome(work)
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is: stranded, never unknown)
            await records(work.strand, error)
            tell(work, LaunchStatus.STRANDED)
            launch = await records(work.launch)
            if launch.on_failure == "terminate":
                await take_down(work, reason="stranded, and to be terminated then")
        await publish_timeline(work)
        return await _outcome(work)


async def _steps(work: Work) -> None:
    if await records(work.status) is LaunchStatus.OPERATIONAL:
        return
    await resolve_template(work)
    values = await resolve_launch_inputs(work)
    await create_instance(work)
    await wait_for_running(work)
    await wait_for_boot(work)
    await pass_clock_gate(work)
    await freeze_repositories(work)
    template = template_of(work.services, await records(work.launch))
    checks = [check.script for check in template.health if isinstance(check, HealthScript)]
    for script in [*template.boot, *checks]:
        key = generation_key(work, f"run-script:{script.key}")
        await run_script(work, values, script.key, key=key, phase=LaunchStatus.CONFIGURING)
    await check_health(work)
    await become_operational(work)


async def _take_up_again(work: Work) -> None:
    """A launch that stranded walks its phases again; one whose instance is gone gets another."""
    status = await records(work.status)
    if status in (LaunchStatus.STRANDED, LaunchStatus.CANCELLED):
        await records(work.reopen)
        await clouds(creating.next_generation, work)
    elif status in (LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED):
        raise SlipwayError(f"launch {work.launch_id} is {status}: it cannot be brought up again")


async def _outcome(work: Work) -> Outcome:
    launch = await records(work.launch)
    return Outcome(
        launch_id=launch.id,
        server=launch.server_name,
        status=launch.status,
        reason=launch.reason if launch.status != LaunchStatus.OPERATIONAL else "",
    )
