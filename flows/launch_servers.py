"""Bring many servers up at once, each with its own record and outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows.bringing_up import see_through
from flows.driving import actor
from flows.outcomes import Outcome
from flows.pictures import Progress, publish_fleet
from flows.runs import cancel_launches, reopened
from slipway.launches.requests import (
    LaunchRequest,
    find_by_key,
    plan_launches,
    record_launch,
)
from slipway.records import LaunchStatus
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import clouds

#: Measured: a run page with 1,200 task runs is fine, one with 6,000 blocks for half a minute.
SERVERS_PER_RUN = 100


@flow(
    name="launch-servers",
    flow_run_name="launch servers",
    description="Bring many servers up at once; one that fails does not stop the others.",
    persist_result=False,
    on_cancellation=[cancel_launches],
)
async def launch_servers(requests: list[LaunchRequest]) -> State[Any]:
    """Check all requests before the first is recorded, then drive all launches side by side. More
    than `SERVERS_PER_RUN` are split over as many subflows as it takes."""
    context = FlowRunContext.get()
    flow_run = str(context.flow_run.id) if context and context.flow_run else ""
    launch_ids = await outlast(clouds, _record, requests, flow_run)
    shards = [
        launch_ids[start : start + SERVERS_PER_RUN]
        for start in range(0, len(launch_ids), SERVERS_PER_RUN)
    ]
    # Asked here: a shard is a flow run of its own.
    reopen = [status.value for status in reopened()]
    if len(shards) == 1:
        outcomes = await bring_up_all(shards[0], reopen)
    else:
        found = await asyncio.gather(
            *(launch_shard(shard, reopen) for shard in shards), return_exceptions=True
        )
        outcomes = []
        for shard, result in zip(shards, found, strict=True):
            if isinstance(result, BaseException):
                outcomes += [_unknown(launch_id, result) for launch_id in shard]
            else:
                outcomes += [Outcome(**outcome) for outcome in result]
    await publish_fleet(outcomes)
    return fleet_state(outcomes)


@flow(name="launch-shard", flow_run_name="launch a shard of servers", persist_result=False)
async def launch_shard(launch_ids: list[str], reopen: list[str]) -> list[dict[str, str]]:
    """Drive at most `SERVERS_PER_RUN` recorded launches."""
    return [vars(outcome) for outcome in await bring_up_all(launch_ids, reopen)]


async def bring_up_all(
    launch_ids: list[str], reopen: Collection[str] = (LaunchStatus.STRANDED,)
) -> list[Outcome]:
    """Drive all of them; whatever goes wrong with one is that launch's outcome alone."""
    progress = Progress(len(launch_ids), "servers")
    await progress.begin()

    async def one(launch_id: str) -> Outcome:
        try:
            return await see_through(launch_id, reopen=reopen)
        except Exception as error:  # noqa: BLE001  (it must not reach the other launches)
            return _unknown(launch_id, error)
        finally:
            await progress.one_more()

    outcomes = await asyncio.gather(*(one(launch_id) for launch_id in launch_ids))
    await progress.end()
    return list(outcomes)


def _unknown(launch_id: str, error: BaseException) -> Outcome:
    reason = str(error) or type(error).__name__
    return Outcome(launch_id=launch_id, server=launch_id, status="error", reason=reason)


def fleet_state(outcomes: list[Outcome]) -> State[Any]:
    """Completed when every server is operational; else Failed, with the numbers and each cause."""
    counts = Counter(outcome.status for outcome in outcomes)
    numbers = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    failed = [outcome for outcome in outcomes if outcome.status != LaunchStatus.OPERATIONAL]
    if not failed:
        return Completed(name="Operational", message=numbers)
    causes = "; ".join(f"{outcome.server}: {outcome.reason}" for outcome in failed[:10])
    return Failed(name="Incomplete", message=f"{numbers}: {causes}")


def _record(requests: list[LaunchRequest], flow_run: str) -> list[str]:
    """The launches' ids in the order asked for. Every request gets a key, so that a retried flow
    run finds the launches it has recorded."""
    services = current_services()
    keys = [request.key or f"flow-run/{flow_run}/{request.name}" for request in requests]
    keyed = [
        request.model_copy(update={"key": key}) for request, key in zip(requests, keys, strict=True)
    ]
    found = {key: find_by_key(services, key) for key in keys}
    known = {key: launch.id for key, launch in found.items() if launch is not None}
    plans = plan_launches(services, [each for each in keyed if each.key not in known])
    for plan in plans:
        launch = record_launch(services, plan, actor=actor())
        known[launch.idempotency_key] = launch.id
    return [known[key] for key in keys]
