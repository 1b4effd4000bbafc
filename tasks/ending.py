"""The steps of taking a server down, one task each."""

from __future__ import annotations

from prefect import task

from slipway.clouds.base import InstanceState
from slipway.errors import SlipwayError
from slipway.launches import ending, inputs
from slipway.launches.creating import cloud_of
from slipway.launches.work import Work, step_key
from slipway.records import LaunchStatus
from tasks.launching import run_script
from tasks.outages import outlast, outlasting
from tasks.stepping import CLOUD_STEP, RECORD_STEP, SERVER_STEP, step, tell
from tasks.threads import clouds, questions, records
from tasks.watching import lookout

#: From the terminate call to "terminated".
TERMINATED_LIMIT_S = 900.0


async def take_down(work: Work, *, reason: str) -> None:
    """Decommission scripts where they make sense, then the end of the instance."""
    if await outlast(records, work.status) is LaunchStatus.TERMINATED:
        return
    run_scripts = await outlast(records, ending.start_ending, work, reason=reason)
    tell(work, LaunchStatus.DECOMMISSIONING)
    if run_scripts:
        await decommission_scripts(work)
    if work.calls_us:
        await dismiss_agent(work)
    await terminate_instance(work)
    await wait_for_terminated(work)
    await become_terminated(work)


async def decommission_scripts(work: Work) -> None:
    """Run them in order. One that fails is on record and stops nothing: the server goes anyway."""
    launch = await outlast(records, work.launch)
    template = await outlast(records, inputs.template_of, work.services, launch)
    for script in template.decommission:
        try:
            recorded = await outlast(records, inputs.recorded, work)
            values = await outlast(records, inputs.load, work, recorded)
            await run_script(work, values, script.key, key=step_key(f"decommission:{script.key}"))
        except SlipwayError as error:
            await outlast(records, ending.note_failed_script, work, script.key, error)


@task(task_run_name="{work.server}: dismiss agent", **SERVER_STEP)
@outlasting
async def dismiss_agent(work: Work) -> None:
    """Let the agent of a server that calls us remove itself."""
    async with step(work, "dismiss-agent", "Dismiss the agent") as run:
        if not run.finished:
            await questions(ending.dismiss_agent, work, run)


@task(task_run_name="{work.server}: terminate instance", **CLOUD_STEP)
@outlasting
async def terminate_instance(work: Work) -> None:
    """Ask the cloud to end every instance of the launch."""
    async with step(work, "terminate-instance", "Terminate the instance") as run:
        if not run.finished:
            await clouds(ending.terminate_instances, work, run)


@task(task_run_name="{work.server}: wait for terminated", **CLOUD_STEP)
@outlasting
async def wait_for_terminated(work: Work) -> None:
    """Wait until the cloud says that they are gone."""
    async with step(work, "wait-for-terminated", "Wait until the instance is gone") as run:
        if run.finished:
            return
        launch = await records(work.launch)
        watch = lookout(work.services, cloud_of(work.services, launch), launch.region)
        wanted = frozenset({InstanceState.TERMINATED})
        for instance_id in await records(ending.asked_to_terminate, work):
            # Asked again: the first time may have come too early to have an effect.
            await clouds(ending.ask_again, work, instance_id)
            answer = await watch.wait(
                instance_id, wanted, limit_s=TERMINATED_LIMIT_S, hopeless=frozenset(), gone=True
            )
            ending.check_terminated(answer)
        await records(run.succeed, "the instance is gone")


@task(task_run_name="{work.server}: terminated", **RECORD_STEP)
@outlasting
async def become_terminated(work: Work) -> None:
    """The end of the launch."""
    async with step(work, "terminated", "End the launch") as run:
        if not run.finished:
            await records(ending.finish_ending, work, run)
            tell(work, LaunchStatus.TERMINATED)
