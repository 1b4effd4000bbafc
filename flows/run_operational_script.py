"""Run one of a template's operational scripts on a server that is up."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from flows.driving import driving_in_turn
from slipway.launches import operations
from slipway.launches.operations import OperationRequest
from slipway.launches.requests import find_launch
from tasks.launching import run_script
from tasks.services import current_services
from tasks.threads import records


@flow(
    name="run-operational-script",
    flow_run_name="run {request.script} on {request.server}",
    description="Run one of the template's operational scripts on an operational server.",
    persist_result=False,
)
async def run_operational_script(request: OperationRequest) -> State[Any]:
    """Each request runs the script once, however often its flow run is retried; one after the
    other on one server."""
    services = current_services()
    launch = await records(find_launch, services, request.server)
    context = FlowRunContext.get()
    key = request.key or (str(context.flow_run.id) if context and context.flow_run else "")
    async with driving_in_turn(launch.id) as (work, _):
        script, values = await records(operations.prepare, work, request)
        await run_script(work, values, script, key=operations.operation_key(request.script, key))
    return Completed(message=f"{request.script} ran on {launch.server_name}")
