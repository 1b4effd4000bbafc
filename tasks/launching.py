"""The steps of a launch, one task each, in the order they are taken."""

from __future__ import annotations

import asyncio
import functools

from prefect import task

from slipway.errors import GateFailed, SlipwayError
from slipway.gates.wait import Pause, Reading, Verdict, Waiting, watch_gate
from slipway.launches import booting, clocking, creating, freezing, health, inputs, scripts
from slipway.launches.creating import cloud_of
from slipway.launches.inputs import Values
from slipway.launches.scripts import Attempt, Job
from slipway.launches.work import Work
from slipway.records import LaunchStatus
from slipway.remote.once import RunStatus, ScriptOutcome
from slipway.steps import StepRun
from tasks.outages import outlasting
from tasks.stepping import (
    CLOUD_STEP,
    REACHABLE_AGAIN_S,
    RECORD_STEP,
    SERVER_STEP,
    patiently,
    step,
    tell,
)
from tasks.threads import clouds, following, output, questions, records
from tasks.watching import lookout

#: RightScale's figures for a value of another server: asked every 20 s there, cheaper here;
#: audited every 2 min, given up after 45 min.
ENV_POLL_S = 1.0
ENV_AUDIT_S = 120.0
ENV_LIMIT_S = 45 * 60.0

#: From the create call to "running".
RUNNING_LIMIT_S = 900.0

#: The same for a server that calls us: what is away may be our own API, and delivery is retried for
#: two hours, as RightScale did.
CALLS_AGAIN_S = 2 * 3600.0

#: From the last script to a service that answers.
HEALTH_LIMIT_S = 60.0

#: Output of a running script is on record at most this much later.
FLUSH_S = 1.0


def generation_key(work: Work, key: str) -> str:
    """The step's key, told apart for a second instance of the same launch."""
    return creating.generation_step(work.generation, key)


@task(task_run_name="{work.server}: resolve template", **RECORD_STEP)
@outlasting
async def resolve_template(work: Work) -> None:
    """Put on record which version this is and what is in it."""
    async with step(work, "resolve-template", "Resolve the template") as run:
        if not run.finished:
            await records(inputs.finish_template, work, run)


@task(task_run_name="{work.server}: resolve inputs", **RECORD_STEP)
@outlasting
async def resolve_launch_inputs(work: Work) -> Values:
    """Bring the inputs of all layers together; wait for values other servers have yet to have."""
    async with step(work, "resolve-inputs", "Resolve the inputs") as run:
        if not run.finished:
            await _resolve_inputs(work, run)
    return await records(inputs.load, work, run.result)


@task(task_run_name="{work.server}: create instance", **CLOUD_STEP)
@outlasting
async def create_instance(work: Work) -> None:
    """Create the one instance of this launch, or find it."""
    key = generation_key(work, "create-instance")
    async with step(work, key, "Create the instance", phase=LaunchStatus.PROVISIONING) as run:
        if not run.finished:
            await clouds(creating.create_instance, work, run)


@task(task_run_name="{work.server}: check instance", **CLOUD_STEP)
@outlasting
async def check_instance(work: Work) -> None:
    """See whether a launch that is taken up again still has an instance that can be brought up."""
    await clouds(creating.next_generation, work)


@task(task_run_name="{work.server}: wait for running", **CLOUD_STEP)
@outlasting
async def wait_for_running(work: Work) -> None:
    """Wait until the cloud says that the instance runs."""
    key = generation_key(work, "wait-for-running")
    title = "Wait until the instance runs"
    async with step(work, key, title, phase=LaunchStatus.PROVISIONING) as run:
        if run.finished:
            return
        launch = await records(work.launch)
        assert launch.instance_id is not None, "create-instance has recorded it"
        watch = lookout(work.services, cloud_of(work.services, launch), launch.region)
        answer = await watch.wait_for_boot(launch, limit_s=RUNNING_LIMIT_S)
        await records(creating.finish_running, work, run, answer)


@task(task_run_name="{work.server}: wait for boot", **SERVER_STEP)
@outlasting
async def wait_for_boot(work: Work) -> None:
    """Wait until the operating system is really ready."""
    key = generation_key(work, "wait-for-boot")
    title = "Wait until the system is ready"
    async with step(work, key, title, phase=LaunchStatus.BOOTING) as run:
        if run.finished:
            return
        probe = await records(booting.BootProbe, work, run)
        waiting = watch_gate(probe.gate, work.services.clock, deadline_s=booting.DEADLINE_S)
        await records(probe.finish, await _through(waiting, probe))


@task(task_run_name="{work.server}: pass clock gate", **SERVER_STEP)
@outlasting
async def pass_clock_gate(work: Work) -> None:
    """Let the launch pass only with a right clock, corrected if need be."""
    key = generation_key(work, "pass-clock-gate")
    async with step(work, key, "Check the clock", phase=LaunchStatus.GATING) as run:
        if not run.finished:
            await patiently(
                work,
                run,
                lambda: following(clocking.pass_gate, work, run),
                limit_s=_patience_s(work),
            )


@task(task_run_name="{work.server}: freeze repositories", **SERVER_STEP)
@outlasting
async def freeze_repositories(work: Work) -> None:
    """Point the package manager at the day the launch is frozen to."""
    key = generation_key(work, "freeze-repositories")
    title = "Freeze the package repositories"
    async with step(work, key, title, phase=LaunchStatus.CONFIGURING) as run:
        if run.finished:
            return
        day = await records(freezing.frozen_to, work, run)
        if day is None:
            return
        system = None
        if await records(freezing.has_mirrors, work.services):
            system = await patiently(
                work,
                run,
                lambda: questions(freezing.ask_system, work),
                limit_s=_patience_s(work),
            )
        # Not among the records: it reads what is in the mirrors.
        job = await clouds(freezing.freeze_job, work, run, day, system=system)
        await _run_job(work, run, job)


@task(task_run_name="{work.server}: run {name}", **SERVER_STEP)
@outlasting
async def run_script(
    work: Work, values: Values, name: str, *, key: str, phase: LaunchStatus | None = None
) -> None:
    """Run one script of the template, at most once."""
    async with step(work, key, f"Run script {name}", phase=phase) as run:
        if not run.finished:
            await _run_job(work, run, await records(scripts.template_job, work, name, values))


@task(task_run_name="{work.server}: check health", **SERVER_STEP)
@outlasting
async def check_health(work: Work) -> None:
    """See from outside that the server does its work."""
    key = generation_key(work, "check-health")
    async with step(work, key, "Check the health", phase=LaunchStatus.CONFIGURING) as run:
        if run.finished:
            return
        launch, checks = await records(health.outside_checks, work)
        clock = work.services.clock
        deadline, pause_s = None, 0.1

        async def look() -> str | None:
            return await patiently(
                work,
                run,
                lambda: questions(health.failed_check, work, launch, checks),
                limit_s=_patience_s(work),
            )

        while (failed := await look()) is not None:
            # From the first answer on: waiting for a thread of ours is not the server's fault.
            deadline = deadline or clock.monotonic() + HEALTH_LIMIT_S
            if clock.monotonic() >= deadline:
                raise GateFailed(f"not healthy after {HEALTH_LIMIT_S:g} s: {failed}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 5.0)
        await forget_outputs(work, run)
        held = [health.describe(check) for check in checks]
        summary = "; ".join(held) if held else "the template declares no checks from outside"
        await records(run.succeed, summary, result={"checks": held})


@task(task_run_name="{work.server}: operational", **RECORD_STEP)
@outlasting
async def become_operational(work: Work) -> None:
    """The end of the way up."""
    async with step(work, generation_key(work, "operational"), "Become operational") as run:
        if not run.finished:
            await records(creating.finish_launch, work, run)
            tell(work, work.phase)


async def forget_outputs(work: Work, run: StepRun) -> None:
    """Leave nothing on the server of what scripts printed."""
    await patiently(
        work, run, lambda: questions(scripts.forget_outputs, work), limit_s=_patience_s(work)
    )


def _patience_s(work: Work) -> float:
    """How long a server that answered before may be away."""
    return CALLS_AGAIN_S if work.calls_us else REACHABLE_AGAIN_S


async def _resolve_inputs(work: Work, run: StepRun) -> None:
    clock = work.services.clock
    started = clock.monotonic()
    audited = started - ENV_AUDIT_S
    while True:
        missing = await records(inputs.try_to_resolve, work, run)
        if not missing:
            return
        waiting_for = "; ".join(missing)
        now = clock.monotonic()
        if now - started >= ENV_LIMIT_S:
            raise GateFailed(f"no value after {ENV_LIMIT_S / 60:g} minutes: {waiting_for}")
        if now - audited >= ENV_AUDIT_S:
            audited = now
            await records(run.note, waiting_for)
        await asyncio.sleep(ENV_POLL_S)


async def _through(waiting: Waiting, probe: booting.BootProbe) -> Verdict:
    """Drive the gate's loop: probes in a thread, pauses awaited."""
    answer: Reading | SlipwayError | None = None
    while True:
        try:
            todo = waiting.send(answer)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        if isinstance(todo, Pause):
            await asyncio.sleep(todo.seconds)
            answer = None
            continue
        try:
            answer = await questions(probe, todo.timeout_s)
        except SlipwayError as error:
            answer = error


async def _run_job(work: Work, run: StepRun, job: Job) -> None:
    while True:
        attempt = await records(Attempt, work, run, job)
        follow = functools.partial(_follow, attempt)
        outcome = await patiently(work, run, follow, limit_s=_patience_s(work))
        if not attempt.may_start_again(outcome):
            await records(attempt.finish, outcome)
            return
        await records(attempt.start_again)


async def _follow(attempt: Attempt) -> ScriptOutcome:
    """Follow a run to its end, one connection after the other, and keep its output flowing into
    the record."""
    while True:
        turn = asyncio.ensure_future(following(attempt.follow))
        try:
            while not (await asyncio.wait([turn], timeout=FLUSH_S))[0]:
                await output(attempt.flush)
        finally:
            if not turn.done():
                # Cancelled, or the record cannot be written: nothing must go on behind our back.
                attempt.abandon()
                turn.cancel()
                await asyncio.wait([turn])
        outcome = turn.result()
        if outcome.status is not RunStatus.RUNNING:
            return outcome
