"""Run one of a template's operational scripts on a server that is up."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from flows.driving import actor, driving_in_turn
from flows.runs import script_ended
from slipway.launches import operations
from slipway.launches.handover import script_not_begun
from slipway.launches.operations import OperationRequest
from slipway.launches.requests import find_launch
from slipway.launches.work import operation_key
from tasks.launching import run_script
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import records


@flow(
    name="run-operational-script",
    flow_run_name="run {request.script} on {request.server}",
    description="Run one of the template's operational scripts on an operational server.",
    persist_result=False,
    on_cancellation=[script_ended],
    on_crashed=[script_ended],
)
async def run_operational_script(request: OperationRequest) -> State[Any]:
    """Each request runs the script once, however often its flow run is retried; one after the
    other on one server."""
    try:
        server = await _run(request)
    except Exception as error:
        if request.key is not None:
            why = str(error) or type(error).__name__
            await outlast(
                records, script_not_begun, current_services(), request.key, why, actor=actor()
            )
        raise
    return Completed(message=f"{request.script} ran on {server}")


async def _run(request: OperationRequest) -> str:
    """Answers the server's name."""
    launch = await outlast(records, find_launch, current_services(), request.server)
    context = FlowRunContext.get()
    key = request.key or (str(context.flow_run.id) if context and context.flow_run else "")
    async with driving_in_turn(launch.id) as (work, _):
        script, values = await outlast(records, operations.prepare, work, request)
        await run_script(work, values, script, key=operation_key(request.script, key))
    return launch.server_name
