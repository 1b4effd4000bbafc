"""Take a launch up again: after a crash, or after whatever stranded it was mended."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.bringing_up import see_through
from flows.launch_server import to_state
from flows.runs import cancel_launches, reopened
from slipway.launches.requests import find_launch
from slipway.records import LaunchStatus
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import records


@flow(
    name="resume-launch",
    flow_run_name="resume {launch}",
    description="Take a launch up again: finished steps are skipped, a failed script runs anew.",
    persist_result=False,
    on_cancellation=[cancel_launches],
)
async def resume_launch(launch: str) -> State[Any]:
    """``launch`` is a launch's id or a server's name."""
    found = await outlast(records, find_launch, current_services(), launch)
    reopen = reopened(LaunchStatus.STRANDED, LaunchStatus.CANCELLED)
    return to_state(await see_through(found.id, reopen=reopen))
