"""The two steps of a sweep: look, and remove what was found."""

from __future__ import annotations

from prefect import task

from slipway.launches import sweeping
from slipway.launches.sweeping import Look, Swept
from tasks.services import current_services
from tasks.stepping import CLOUD_STEP, RECORD_STEP
from tasks.threads import clouds


@task(task_run_name="look for leftovers", **CLOUD_STEP)
async def look_for_leftovers() -> Look:
    """What is ours, expired and used by nobody, in every cloud and region."""
    return await clouds(sweeping.look, current_services())


@task(task_run_name="remove {found.id}", **RECORD_STEP)
async def remove_leftovers(found: Look, *, actor: str, because: str) -> Swept:
    """Remove what was found, each looked at again just before."""
    return await clouds(sweeping.sweep, current_services(), found, actor=actor, because=because)
