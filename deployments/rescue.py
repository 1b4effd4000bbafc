"""Flow runs whose process is gone, or is going: rescheduled, cancelled or given up.

Everything here may be done twice, by two workers, or to a run that lives after all: whoever drives
a launch holds its lease in our own database, and a second driver waits for what becomes of it.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, ScriptError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.logging import get_logger
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Crashed

from flows.runs import RESCUED_LABEL, give_up
from slipway import workers
from slipway.errors import Conflict, SlipwayError
from slipway.launches.services import Services
from slipway.workers import Duty, Gone

_log = get_logger("slipway.worker")

#: So many times a run is begun. What ended its process so often is likely its own doing.
MAX_TRIES = 5

#: Runs read at once: the server's own limit.
PAGE = 200

#: How long a deployment is taken for what it was.
FRESH_S = 30.0

#: A run that is to end and belongs to nobody for this long is ended by whoever sees it.
FORGOTTEN_AFTER = timedelta(minutes=1)

#: The server records task runs in batches, a little later than it is told.
RECORDED_WITHIN = timedelta(seconds=15)

#: The name of a run's state between the end of its worker and the next one. Whoever is about to
#: reschedule the run may die there: then it is found by this name, and its worker by the message.
RESCUING = "Rescuing"

_UNDER_WAY = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]

_WORKER_ID = re.compile(r"worker-[0-9a-z]{17}")


class FlowUnusable(SlipwayError):
    """The flow of a deployment cannot be run here."""


class FlowShelf:
    """The flows of deployments, each loaded once per process."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._deployments: dict[UUID, tuple[float, DeploymentResponse]] = {}
        self._flows: dict[str, Flow[..., Any]] = {}

    async def flow_of(self, flow_run: FlowRun) -> Flow[..., Any]:
        """The flow that a run is of. Raises `FlowUnusable`, and `ObjectNotFound` when its
        deployment is gone."""
        if flow_run.deployment_id is None:
            raise FlowUnusable("the run has no deployment")
        entrypoint = (await self._deployment(flow_run.deployment_id)).entrypoint
        if not entrypoint:
            raise FlowUnusable("the deployment has no entry point")
        if entrypoint not in self._flows:
            found = await asyncio.to_thread(_load, entrypoint)
            if not found.isasync:
                raise FlowUnusable(
                    f"{entrypoint} is not async and would hold up all others; deploy it to a "
                    "process work pool"
                )
            self._flows[entrypoint] = found
        return self._flows[entrypoint]

    async def _deployment(self, deployment_id: UUID) -> DeploymentResponse:
        now = time.monotonic()
        read_at, found = self._deployments.get(deployment_id, (0.0, None))
        if found is None or now - read_at > FRESH_S:
            found = await self._client.read_deployment(deployment_id)
            self._deployments[deployment_id] = now, found
        return found


def _load(entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except BaseException as error:
        # Whatever the module does at import, also trying to exit.
        cause = error.user_exc if isinstance(error, ScriptError) else error
        raise FlowUnusable(f"{entrypoint} cannot be loaded: {cause!r}") from error


def owner_of(flow_run: FlowRun) -> str | None:
    """The worker that has taken a run, or has left it behind: from the moment of the claim it is
    named in the message of the pending state, soon after as the run's infrastructure, and at its
    end in that of the state `RESCUING`."""
    state = flow_run.state
    names_it = state is not None and (state.is_pending() or state.name == RESCUING)
    said = state.message if state is not None and names_it else None
    for text in (said, flow_run.infrastructure_pid):
        if text and (found := _WORKER_ID.search(text)):
            return found.group()
    return None


class Rescue:
    """Looks after what workers that died have left, on behalf of one that lives."""

    def __init__(self, client: PrefectClient, services: Services, shelf: FlowShelf) -> None:
        self._client = client
        self._services = services
        self._shelf = shelf
        #: Workers that were silent for too long when we last looked: once more, and they are dead.
        self._silent: set[str] = set()
        #: Runs of workers that died then, to be tidied once more.
        self._to_tidy: list[tuple[datetime, Collection[UUID]]] = []

    async def look(self) -> None:
        """Take over from every worker that is gone."""
        await self._tidy_again()
        services = self._services
        found = await asyncio.to_thread(workers.gone, services.database, services.clock)
        dead = [each for each in found if each.certain or each.id in self._silent]
        # A database that was away for a while makes everyone look silent, once.
        self._silent = {each.id for each in found}
        for each in dead:
            try:
                duty = await asyncio.to_thread(
                    workers.take_over, services.database, services.clock, each.id
                )
            except Conflict:
                continue
            await self._rescue(each, duty)

    async def _rescue(self, worker: Gone, duty: Duty) -> None:
        try:
            # A run that ends between two pages moves the next page by one: looked at twice, then.
            for _ in range(2):
                listed = await self._under_way()
                found = [*listed, *await self._half_rescued()]
                runs = [run for run in found if owner_of(run) == worker.id]
                _log.warning("worker %s is gone; it has left %d flow runs", worker.id, len(runs))
                await self.tidy([run.id for run in runs])
                for run in runs:
                    await asyncio.to_thread(duty.renew)
                    await self.reschedule(run, f"its worker {worker.id} died", crashed=True)
                if len(listed) < PAGE:
                    break
        except BaseException:
            # The rest is for the next who looks; it may be us.
            await asyncio.to_thread(duty.leave)
            raise
        await asyncio.to_thread(duty.remove)

    async def reschedule(self, flow_run: FlowRun, why: str, *, crashed: bool) -> None:
        """Let another worker go on with a run; or give it up when that was done too often. ``why``
        names the worker that had it."""
        now = await self._client.read_flow_run(flow_run.id)
        if now.state is None or now.state.is_scheduled():
            return
        half_done = now.state.name == RESCUING
        if now.state.is_final() and not half_done:
            return
        if now.state.is_cancelling():
            await self.cancelled(now)
            return
        tired = now.run_count >= MAX_TRIES
        if tired:
            said = f"{why}; given up after {now.run_count} tries"
            await self._client.set_flow_run_state(now.id, Crashed(message=said), force=True)
            await self.give_up(now, f"its flow run was begun {now.run_count} times, and {why}")
            return
        # Approval that somebody gave, or is asked for, is for the run that paused: leaving a final
        # state makes the server forget it, so that the next one asks again.
        if (crashed or now.state.is_paused()) and not half_done:
            over: State[Any] = Crashed(name=RESCUING, message=why)
            await self._client.set_flow_run_state(now.id, over, force=True)
        await self._client.update_flow_run_labels(now.id, {RESCUED_LABEL: now.run_count})
        # With infrastructure, a scheduled run could not be cancelled at once.
        path = f"/flow_runs/{now.id}"
        await self._client.request("PATCH", path, json={"infrastructure_pid": None})  # type: ignore[arg-type]
        state: State[Any] = AwaitingRetry(
            scheduled_time=datetime.now(UTC), message=f"{why}; it goes on"
        )
        await self._client.set_flow_run_state(now.id, state)

    async def give_up(self, flow_run: FlowRun, why: str) -> None:
        """Nobody goes on with this run: what it was to do is over, with the cause."""
        await give_up(flow_run, why)

    async def cancel_unattended(self, flow_run: FlowRun, worker_id: str) -> None:
        """Somebody wants a run to end that its worker does not know: this one's, or nobody's. A run
        of another worker is that one's, or that of whoever looks after it."""
        owner = owner_of(flow_run)
        since = flow_run.state.timestamp if flow_run.state else None
        # Between the claim and the naming of its owner a run has none for a moment.
        forgotten = since is not None and datetime.now(UTC) - since > FORGOTTEN_AFTER
        if owner == worker_id or (owner is None and forgotten):
            await self.cancelled(flow_run)

    async def cancelled(self, flow_run: FlowRun, message: str = "cancelled") -> None:
        """A run that somebody cancelled has stopped: its launches are cancelled, then it is."""
        await self.run_hooks(flow_run, Cancelling(message=message))
        await self._client.set_flow_run_state(flow_run.id, Cancelled(message=message), force=True)

    async def run_hooks(self, flow_run: FlowRun, state: State[Any]) -> None:
        """What the flow wants done when a run of it is cancelled."""
        try:
            flow = await self._shelf.flow_of(flow_run)
        except (FlowUnusable, ObjectNotFound) as error:
            _log.warning("%s: no hooks are run: %s", flow_run.name, error)
            return
        for hook in flow.on_cancellation_hooks:
            try:
                answer = hook(flow, flow_run, state)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:  # noqa: BLE001  (logged; the others are run all the same)
                _log.exception("%s: the hook %r failed", flow_run.name, hook)

    async def tidy(self, flow_run_ids: Collection[UUID]) -> None:
        """Now and a little later: what a process has sent just before it died may be recorded after
        we have looked."""
        now = datetime.now(UTC)
        await self._tidy(flow_run_ids, before=now)
        if flow_run_ids:
            self._to_tidy.append((now, flow_run_ids))

    async def _tidy_again(self) -> None:
        due, now = self._to_tidy, datetime.now(UTC)
        self._to_tidy = [each for each in due if now - each[0] < RECORDED_WITHIN]
        for died, flow_run_ids in due:
            if now - died >= RECORDED_WITHIN:
                await self._tidy(flow_run_ids, before=died)

    async def _tidy(self, flow_run_ids: Collection[UUID], *, before: datetime) -> None:
        """Task runs and subflow runs of a process that died would be shown as running for ever."""
        ids = list(flow_run_ids)
        if not ids:
            return
        gone: State[Any] = Crashed(message="its process died")
        children = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=ids),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
            )
        )
        stale = [child for child in children if _older(child.state, before)]
        await self._tidy([child.id for child in stale], before=before)
        for child in stale:
            await self._client.set_flow_run_state(child.id, gone, force=True)
        tasks = await self._client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)),
            task_run_filter=TaskRunFilter(
                state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNDER_WAY))
            ),
        )
        for task in tasks:
            if _older(task.state, before):
                await self._client.set_task_run_state(task.id, gone, force=True)

    async def _half_rescued(self) -> list[FlowRun]:
        """Those that another rescuer was about to reschedule; a page of them is more than one
        rescuer ever leaves, as it takes them one by one."""
        name = FlowRunFilterStateName(any_=[RESCUING])
        return await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=name)), limit=PAGE
        )

    async def _under_way(self) -> list[FlowRun]:
        found: list[FlowRun] = []
        while True:
            page = await self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY))
                ),
                limit=PAGE,
                offset=len(found),
            )
            found += page
            if len(page) < PAGE:
                return found


def _older(state: State[Any] | None, moment: datetime) -> bool:
    return state is not None and state.timestamp < moment
