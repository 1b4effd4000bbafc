"""Bring one server up."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows.bringing_up import see_through
from flows.driving import actor
from flows.outcomes import Outcome
from flows.runs import cancel_launches, reopened
from slipway.launches.requests import LaunchRequest, request_launch
from slipway.records import LaunchStatus
from tasks.outages import outlast
from tasks.services import current_services
from tasks.stepping import CLOUD_STEP
from tasks.threads import clouds


@flow(
    name="launch-server",
    flow_run_name="launch {request.name}",
    description="Bring one server up from a ServerTemplate, to operational or stranded.",
    validate_parameters=True,
    persist_result=False,
    on_cancellation=[cancel_launches],
)
async def launch_server(request: LaunchRequest) -> State[Any]:
    """Record the launch, or find it under its key, and drive it to its end.

    Retrying the flow run resumes the launch it started: without a key of its own, a request is
    known by its flow run.
    """
    launch_id = await record_request(_keyed(request))
    return to_state(await see_through(launch_id, reopen=reopened()))


# The cloud is asked whether it has what the request names.
@task(task_run_name="{request.name}: record the request", **CLOUD_STEP)
async def record_request(request: LaunchRequest) -> str:
    """Check the request whole and put it on record; answers the launch's id."""
    launch = await outlast(clouds, request_launch, current_services(), request, actor=actor())
    return launch.id


def to_state(outcome: Outcome) -> State[Any]:
    """The flow run's final state: named after the launch's, with the reason as its message."""
    if outcome.status == LaunchStatus.OPERATIONAL:
        return Completed(name="Operational", message=f"{outcome.server} is operational")
    return Failed(name=outcome.status.capitalize(), message=f"{outcome.server}: {outcome.reason}")


def _keyed(request: LaunchRequest) -> LaunchRequest:
    context = FlowRunContext.get()
    if request.key is not None or context is None or context.flow_run is None:
        return request
    return request.model_copy(update={"key": f"flow-run/{context.flow_run.id}"})
