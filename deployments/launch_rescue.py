"""Launches whose driver died outside our workers: in a process of another work pool, or one of the
command line's. Whoever runs a worker of ours takes them up again, by a flow run of their own."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Crashed

from deployments.rescue import MAX_TRIES, RESCUING, Rescue, owner_of
from flows.runs import strand_launch
from slipway.errors import EngineUnavailable
from slipway.launches.engine import FlowName, FlowStarter
from slipway.launches.services import Services
from slipway.launches.unattended import Unattended, unattended
from slipway.records import LaunchStatus

_log = get_logger("slipway.worker")


class LaunchRescue:
    """Looks for launches that nobody drives."""

    def __init__(
        self,
        client: PrefectClient,
        services: Services,
        rescue: Rescue,
        starter: FlowStarter,
    ) -> None:
        self._client = client
        self._services = services
        self._rescue = rescue
        self._starter = starter
        #: Launches whose driver was silent for too long when we last looked.
        self._silent: set[str] = set()

    async def look(self) -> None:
        """Take up again what nobody else will. After `Rescue.look`, which has the runs of our own
        workers."""
        found = await asyncio.to_thread(unattended, self._services)
        due = [each for each in found if each.certain or each.launch_id in self._silent]
        self._silent = {each.launch_id for each in found}
        for launch in due:
            run = await self._run_of(launch)
            if run is not None and await self._has_a_future(launch, run):
                continue
            await self._take_up(launch)

    async def _run_of(self, launch: Unattended) -> FlowRun | None:
        if launch.flow_run_id is None:
            return None
        try:
            return await self._client.read_flow_run(UUID(launch.flow_run_id))
        except ObjectNotFound:
            return None

    async def _has_a_future(self, launch: Unattended, run: FlowRun) -> bool:
        """Whether somebody is going to see to the launch's flow run; if its process died, the run
        is ended first."""
        state = run.state
        if state is None or state.is_scheduled() or state.is_paused():
            return True
        if state.is_cancelling() or state.is_cancelled():
            # Whoever cancelled the run wants the launch cancelled; its process had no time for it.
            await self._rescue.run_hooks(run, state)
            return True
        if state.name == RESCUING:
            # Whoever was at it may have died as well: `Rescue` finds it by its worker.
            return True
        if state.is_final():
            return False
        if owner_of(run) is not None:
            return True
        await self._rescue.tidy([run.id])
        crashed: State[Any] = Crashed(message=f"the process that drove {launch.server} died")
        await self._client.set_flow_run_state(run.id, crashed, force=True)
        return False

    async def _take_up(self, launch: Unattended) -> None:
        tag = f"rescue:{launch.launch_id}"
        before = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
        )
        # One for each driver that died, whoever of us is the first to ask.
        key = f"rescue/{launch.launch_id}/{launch.epoch}"
        tries = [run for run in before if run.idempotency_key != key]
        if len(tries) >= MAX_TRIES:
            why = f"it was taken up again {len(tries)} times, and each time its driver died"
            await strand_launch(launch.launch_id, why)
            return
        flow: FlowName = "resume_launch"
        parameters = {"launch": launch.launch_id}
        if launch.status is LaunchStatus.DECOMMISSIONING:
            flow, parameters = "decommission_server", {"server": launch.launch_id}
        try:
            # Not by the client at hand: it would hold our parameters against the form, which
            # offers names of servers.
            run_id = await asyncio.to_thread(
                self._starter.start, flow, parameters, idempotency_key=key, tags=[tag]
            )
        except EngineUnavailable as error:
            _log.error("nobody drives %s, and it cannot be taken up now: %s", launch.server, error)
            return
        if run_id not in {str(each.id) for each in before}:
            _log.warning("nobody drives %s; flow run %s takes it up", launch.server, run_id)
