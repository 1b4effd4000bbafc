"""Flow runs and their launches: what is to become of a launch when its run ends from outside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext

from flows.driving import actor
from slipway.errors import Conflict, SlipwayError
from slipway.launches.handover import script_not_begun
from slipway.launches.requests import launches_of_run
from slipway.launches.work import Work, take_up
from slipway.records import LaunchStatus
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import records

_log = logging.getLogger("slipway.runs")

#: On a flow run that was taken from a process that died or drained: how often it had run by then.
RESCUED_LABEL = "slipway.rescued-after-run"


def reopened(
    *when_asked: LaunchStatus,
) -> tuple[LaunchStatus, ...]:
    """Which launches that came to an end this run takes up again: those ``when_asked``, else the
    stranded ones. None where the run only goes on with what another process had begun: nobody has
    asked for another attempt."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        run = context.flow_run
        if run.labels.get(RESCUED_LABEL) == run.run_count - 1:
            return ()
    return when_asked or (LaunchStatus.STRANDED,)


async def cancel_launches(
    flow: Flow[..., Any],  # noqa: ARG001  (Prefect passes all three by name)
    flow_run: FlowRun,
    state: State[Any],  # noqa: ARG001
) -> None:
    """Whoever cancels the flow run of a launch wants the launch cancelled; its instance is kept.
    A hook for ``on_cancellation``, so that it is so on every kind of work pool."""
    await _end(flow_run, Work.cancel)


async def script_ended(
    flow: Flow[..., Any],  # noqa: ARG001  (Prefect passes all three by name)
    flow_run: FlowRun,
    state: State[Any],
) -> None:
    """A run of an operational script was ended from outside: one that has not begun never will.
    A hook for ``on_cancellation`` and ``on_crashed``."""
    why = f"its flow run was {state.name.lower() if state.name else 'ended'}"
    await _script_not_begun(flow_run, f"{why}: {state.message}" if state.message else why)


async def give_up(flow_run: FlowRun, why: str) -> None:
    """Nobody goes on with the flow run: its launches are kept as they are, with the reason, and so
    is a script that it was to run."""
    error = SlipwayError(why)
    await _end(flow_run, lambda work: work.strand(error))
    await _script_not_begun(flow_run, why)


async def strand_launch(launch_id: str, why: str) -> None:
    """Nobody goes on with this launch: it is kept as it is, with the reason."""
    await _try_to_end(launch_id, lambda work: work.strand(SlipwayError(why)))


async def _script_not_begun(flow_run: FlowRun, why: str) -> None:
    key = ((flow_run.parameters or {}).get("request") or {}).get("key")
    if key is not None:
        await outlast(records, script_not_begun, current_services(), key, why, actor=actor())


async def _end(flow_run: FlowRun, end: Callable[[Work], object]) -> None:
    services = current_services()
    for launch in await outlast(
        records, launches_of_run, services, str(flow_run.id), flow_run.parameters or {}
    ):
        await _try_to_end(launch.id, end)


async def _try_to_end(launch_id: str, end: Callable[[Work], object]) -> None:
    try:
        await outlast(records, _end_one, launch_id, end)
    except Conflict as busy:
        # Another run has taken it over: it is not this one's any more.
        _log.info("launch %s is left alone: %s", launch_id, busy)


def _end_one(launch_id: str, end: Callable[[Work], object]) -> None:
    work = take_up(current_services(), launch_id, actor=actor())
    try:
        end(work)
    finally:
        work.driver.release()
