"""Take one server down."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.driving import actor, driving
from flows.pictures import publish_timeline
from slipway.errors import Conflict
from slipway.launches.ending import request_cancel
from slipway.launches.requests import find_launch
from slipway.launches.work import get_launch
from slipway.lifecycle import PHASES
from slipway.records import LaunchStatus
from tasks.ending import take_down
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import records

#: How long a launch that is still being driven has to let go: its driver looks every 2 s, and a
#: script that runs on the server is not waited for.
LET_GO_S = 120.0


@flow(
    name="decommission-server",
    flow_run_name="decommission {server}",
    description="Run the decommission scripts, then end the instance for good.",
    persist_result=False,
)
async def decommission_server(server: str, reason: str = "decommissioned on request") -> State[Any]:
    """``server`` is a server's name or a launch's id. One that is still coming up is cancelled
    first; one that is terminated already is fine."""
    services = current_services()
    launch = await outlast(records, find_launch, services, server)
    if launch.status == LaunchStatus.TERMINATED:
        return Completed(name="Terminated", message=f"{launch.server_name} was terminated before")
    await _drive(launch.id, reason)
    return Completed(name="Terminated", message=f"{launch.server_name} is terminated")


async def _drive(launch_id: str, reason: str) -> None:
    services = current_services()
    give_up = services.clock.monotonic() + LET_GO_S
    asked = False
    while True:
        try:
            async with driving(launch_id) as (work, _):
                await take_down(work, reason=reason)
                await publish_timeline(work)
                return
        except Conflict:
            if services.clock.monotonic() >= give_up:
                raise
            # Something else at work on a server that is up (a script, another decommission) is
            # waited for; only a launch is cancelled.
            launch = await outlast(records, get_launch, services, launch_id)
            coming_up = launch.status in PHASES[:-1]
            if coming_up and not asked:
                await outlast(records, request_cancel, services, launch_id, actor=actor())
                asked = True
        await asyncio.sleep(0.5)
