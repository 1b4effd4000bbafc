"""The Prefect worker that runs Slipway's flows in its own process.

``prefect worker start --type slipway-inprocess --pool slipway``

A process per flow run costs seconds of CPU and a hundred megabytes each, while a launch mostly
waits. Here all runs of a worker share one event loop, one client and one process. What the process
gave us is provided here: limits, cancelling, draining, and a way back when all of it dies. Why it
is done as it is stands in docs/decisions/0006-crash-recovery.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.abc
from prefect._flow_run_suspension import (
    is_suspended_flow_run_state,
    mark_flow_run_suspension_requested,
)
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import Abort, ObjectNotFound
from prefect.logging import get_logger
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed, Failed, Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import (
    BaseJobConfiguration,
    BaseVariables,
    BaseWorker,
    BaseWorkerResult,
)

from deployments.carrying_out import Fate, Run
from deployments.flow_loop import FlowLoop, LoopWatch
from deployments.patience import make_patient
from slipway import workers
from slipway.errors import DatabaseUnavailable, LeaseLost

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.flows import Flow

    from deployments.launch_rescue import LaunchRescue
    from deployments.prefect_api import PrefectApi
    from deployments.rescue import FlowShelf, Rescue
    from slipway.launches.services import Services
    from slipway.workers import Duty

_log = get_logger("slipway.worker")

#: How often we look for runs that somebody wants to end, and for workers that died.
CANCEL_EVERY_S = 2.0
RESCUE_EVERY_S = 5.0

#: How far back a new worker looks for runs that were cancelled while there was none; and how much
#: of what was looked at is looked at again, because clocks differ and commits take their time.
CANCELLED_BEFORE = timedelta(hours=1)
CANCELLED_OVERLAP = timedelta(seconds=30)

#: How often we ask for scheduled runs, and how many at most at once.
POLL_EVERY_S = 2.0
PAGE = 200

#: How long a run that was told to end may take: threads that talk to servers are waited for.
END_WITHIN_S = 20.0

#: How soon a new template, environment or server is offered in the forms of Prefect's UI. Looking
#: costs 2 ms, a change a third of a second.
FORMS_EVERY_S = 10.0


class InProcessConfiguration(BaseJobConfiguration):
    """There is nothing to configure about a run without infrastructure of its own."""


class InProcessVariables(BaseVariables):
    """Job variables are for other kinds of pools; here they change nothing."""


class InProcessResult(BaseWorkerResult):
    """A run that was carried out."""


class InProcessWorker(BaseWorker[InProcessConfiguration, InProcessVariables, InProcessResult]):
    """Runs async flows in an event loop of this process."""

    type = "slipway-inprocess"
    job_configuration = InProcessConfiguration
    job_configuration_variables = InProcessVariables

    _display_name = "Slipway in-process"
    _description = (
        "Runs Slipway's flows in the worker's own process: a run costs a fraction of a second and "
        "two megabytes, and a thousand launches wait in one worker."
    )

    # Made by `start`.
    _services: Services
    _duty: Duty
    _flows: FlowLoop
    _shelf: FlowShelf
    _rescue: Rescue
    _launch_rescue: LaunchRescue
    _api: PrefectApi
    _starting: asyncio.Semaphore

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runs: dict[UUID, Run] = {}
        #: Runs that were cancelled: up to when we have looked, and what we have seen in the time
        #: that is looked at twice.
        self._cancelled_until = datetime.now(UTC) - CANCELLED_BEFORE
        self._seen_cancelled: dict[UUID, datetime] = {}
        #: Runs that we had taken and know no more about, because Prefect refused to say.
        self._lost: set[UUID] = set()
        self._draining = asyncio.Event()
        self._hurry = asyncio.Event()

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Tiny on purpose: Prefect's server goes through it for every run that is created."""
        return {
            "job_configuration": {"runs_in": "the worker's own process"},
            "variables": {"type": "object", "properties": {}},
        }

    # -- its life ----------------------------------------------------------------------------------

    async def start(
        self,
        run_once: bool = False,
        with_healthcheck: bool = False,
        printer: Callable[..., None] = print,
    ) -> None:
        """Work until a signal says otherwise; with ``run_once``, until what is scheduled is done.

        The first SIGTERM or SIGINT drains: nothing new is taken, runs may end for a while, the rest
        is handed back. A second one hands back at once.
        """
        from deployments.deployment_engine import DeploymentEngine
        from deployments.launch_rescue import LaunchRescue
        from deployments.prefect_api import PrefectApi
        from deployments.rescue import FlowShelf, Rescue
        from tasks.services import current_services

        services = self._services = await asyncio.to_thread(current_services)
        self._duty = await asyncio.to_thread(workers.sign_on, services.database, services.clock)
        if self._limit is None:
            self._limit = services.settings.worker_runs
        self._starting = asyncio.Semaphore(services.settings.worker_starts)
        self._flows = FlowLoop()
        with contextlib.ExitStack() as stack:
            if with_healthcheck:
                from prefect.workers.server import _run_healthcheck_server

                stack.enter_context(
                    _run_healthcheck_server(
                        lambda: self.is_worker_still_polling(query_interval_seconds=_poll_every_s())
                    )
                )
            async with self:
                make_patient(self.client)
                self._shelf = FlowShelf(self.client)
                self._rescue = Rescue(self.client, services, self._shelf)
                api_url = get_current_settings().api.url
                assert api_url is not None, "a worker has a server"
                self._api = PrefectApi.from_environ(api_url)
                stack.callback(self._api.close)
                # Its runs wait where those that we take do.
                queue = min(self._work_queues, default=None)
                starter = DeploymentEngine(self._api, work_queue=queue)
                self._launch_rescue = LaunchRescue(self.client, services, self._rescue, starter)
                await self._flows.start()
                printer(f"Worker {self.name!r} started: {self._duty.worker_id}")
                with self._signals():
                    await self._work(run_once=run_once)
                await self._flows.stop()
        printer(f"Worker {self.name!r} stopped!")

    async def _work(self, *, run_once: bool) -> None:
        from tasks.watching import stand_watch

        # What was imported stays: the collector need not look through it again and again.
        gc.freeze()
        watch = LoopWatch(self._flows, self._services.clock)
        looking = [
            asyncio.create_task(watch.run()),
            asyncio.create_task(_every(workers.RENEW_EVERY_S, self._renew)),
            asyncio.create_task(_every(RESCUE_EVERY_S, self._look_for_the_dead)),
            asyncio.create_task(_every(CANCEL_EVERY_S, self._cancel)),
            asyncio.create_task(_every(self.heartbeat_interval_seconds, self.sync_with_backend)),
            asyncio.create_task(self._keep_forms()),
        ]
        # Where the flows are: launches that wait and what only watches share one listing there.
        standing = self._flows.spawn(stand_watch(self._services), name="watch")
        polling = asyncio.create_task(self._poll(run_once=run_once))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait([polling, draining], return_when=asyncio.FIRST_COMPLETED)
            polling.cancel()
            await self._drain()
        finally:
            await _end([*looking, polling, draining])
            standing.cancel()
            await standing.ended()

    async def _keep_forms(self) -> None:
        """The forms of the deployments offer what there is. Every worker does it: all come to the
        same, and whoever is second finds nothing to change."""
        from deployments.forms import FormKeeper

        keeper = FormKeeper(self._services, self._api)

        async def refresh() -> None:
            await asyncio.to_thread(keeper.refresh)

        # There is more to do while a worker starts.
        await asyncio.sleep(FORMS_EVERY_S)
        await _every(FORMS_EVERY_S, refresh)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def told(number: signal.Signals) -> None:
            if self._draining.is_set():
                self._hurry.set()
            self._draining.set()
            _log.warning("%s: %s", number.name, "hurrying" if self._hurry.is_set() else "draining")

        # After `prefect worker start` has set its own, which end everything at the first signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _drain(self) -> None:
        """Let runs end for a while, then hand back what is left, and sign off."""
        limit_s = self._services.settings.worker_drain_s
        if self._runs:
            _log.warning("%d runs have %.0f s to end", len(self._runs), limit_s)
            over = asyncio.gather(*self._attending(), return_exceptions=True)
            hurry = asyncio.ensure_future(self._hurry.wait())
            either: list[asyncio.Future[Any]] = [over, hurry]
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        for run in self._runs.values():
            run.stop(self._flows, Fate.HANDED_BACK)
        if self._runs:
            await asyncio.wait(self._attending(), timeout=END_WITHIN_S)
        if self._runs:
            _log.error("%d runs did not let go in time and will be rescued", len(self._runs))
            await asyncio.to_thread(self._duty.leave)
        else:
            await asyncio.to_thread(self._duty.remove)
        await _end(self._attending())

    async def _renew(self) -> None:
        try:
            await asyncio.to_thread(self._duty.renew)
        except LeaseLost:
            # We were silent for too long, and our runs are begun again elsewhere. Whoever drives a
            # launch holds its lease, so the two do not meet; from here on we are another worker.
            _log.error("this worker was taken for dead; it goes on under a new id")
            services = self._services
            self._duty = await asyncio.to_thread(workers.sign_on, services.database, services.clock)

    async def _look_for_the_dead(self) -> None:
        await self._look_for_the_lost()
        await self._rescue.look()
        await self._launch_rescue.look()

    # -- taking runs -------------------------------------------------------------------------------

    async def _poll(self, *, run_once: bool) -> None:
        while True:
            try:
                more = await self._take_scheduled()
            except Exception:  # noqa: BLE001  (logged, and tried again)
                _log.exception("could not ask for scheduled runs; trying again")
                more = False
            if run_once:
                return
            if not more:
                await asyncio.sleep(_poll_every_s())

    async def _take_scheduled(self) -> bool:
        """Take what is due and there is room for; answers whether there may be more."""
        assert self._limit is not None, "it was set at the start"
        free = min(self._limit - len(self._runs), PAGE)
        if not self._has_successfully_synced or free <= 0:
            return False
        now = datetime.now(UTC)
        answer = await self.client.request(
            "POST",
            f"/work_pools/{self._work_pool_name}/get_scheduled_flow_runs",  # type: ignore[arg-type]
            json={
                "work_queue_names": sorted(self._work_queues),
                "scheduled_before": now.isoformat(),
                "limit": free,
            },
        )
        self._last_polled_time = now
        found = [WorkerFlowRunResponse.model_validate(each).flow_run for each in answer.json()]
        fresh = [flow_run for flow_run in found if flow_run.id not in self._runs]
        for flow_run in fresh:
            # Starting is what costs, here and on the server: a few at a time.
            await self._starting.acquire()
            self._take(flow_run)
        return len(found) == free and bool(fresh)

    def _take(self, flow_run: FlowRun) -> None:
        loop = asyncio.get_running_loop()
        begun = Once(self._starting.release)
        run = Run(flow_run, begun=partial(loop.call_soon_threadsafe, begun))
        self._runs[flow_run.id] = run
        run.attending = asyncio.create_task(self._attend(run))

        def over(_: object) -> None:
            begun()
            del self._runs[flow_run.id]

        run.attending.add_done_callback(over)

    def _attending(self) -> list[asyncio.Task[None]]:
        return [run.attending for run in self._runs.values() if run.attending is not None]

    async def _attend(self, run: Run) -> None:
        """From the claim to the last report."""
        flow_run = run.flow_run
        try:
            if not await self._claim(run):
                return
            flow = await self._flow_of(run)
            if flow is not None:
                await self.client.update_flow_run(
                    flow_run.id, infrastructure_pid=self._duty.worker_id
                )
                await run.carry_out(self._flows, flow)
            await self._conclude(run)
        except Exception:  # noqa: BLE001  (one run's mishap)
            _log.exception("%s: lost sight of it", flow_run.name)
            self._lost.add(flow_run.id)

    async def _look_for_the_lost(self) -> None:
        """What we have taken would be ours for as long as we live, and nobody would run it."""
        from deployments.rescue import owner_of

        ours = self._duty.worker_id
        for run_id in list(self._lost):
            with contextlib.suppress(ObjectNotFound):
                flow_run = await self.client.read_flow_run(run_id)
                if owner_of(flow_run) == ours and run_id not in self._runs:
                    why = f"its worker {ours} lost sight of it"
                    await self._rescue.reschedule(flow_run, why, crashed=True)
            self._lost.discard(run_id)

    async def _claim(self, run: Run) -> bool:
        """Whether the run is ours. The claim names us, so that whoever looks after us finds it."""
        claim = f"taken by worker {self.name!r} ({self._duty.worker_id})"
        pending: State[Any] = Pending(message=claim)
        try:
            state = await propose_state(self.client, pending, flow_run_id=run.flow_run.id)
        except Abort:
            # It is another's by now, or ours already: the answer to our first try was lost.
            found = await self.client.read_flow_run(run.flow_run.id)
            if found.state is None:
                return False
            state = found.state
        return state.is_pending() and state.message == claim

    async def _flow_of(self, run: Run) -> Flow[..., Any] | None:
        from deployments.rescue import FlowUnusable

        state: State[Any]
        try:
            return await self._shelf.flow_of(run.flow_run)
        except ObjectNotFound:
            state = Cancelled(message="its deployment is gone")
            await self._rescue.give_up(run.flow_run, "its deployment is gone")
        except FlowUnusable as error:
            self.get_flow_run_logger(run.flow_run).error("%s", error, exc_info=error)
            state = Crashed(message=str(error))
            await self._rescue.give_up(run.flow_run, str(error))
        await self.client.set_flow_run_state(run.flow_run.id, state, force=True)
        return None

    async def _conclude(self, run: Run) -> None:
        """See to it that the server knows what became of a run that is over."""
        state, concluded = run.reported, run.concluded
        if concluded is not None and (state is None or not state.is_final()):
            # It was cancelled in the moment it came to its end: the end is what is true.
            await self.client.set_flow_run_state(run.flow_run.id, concluded, force=True)
        elif run.fate is Fate.CANCELLED:
            await self._rescue.cancelled(run.flow_run)
        elif run.fate is Fate.HANDED_BACK:
            why = f"its worker {self._duty.worker_id} was stopped"
            await self._rescue.reschedule(run.flow_run, why, crashed=False)
        elif run.error is not None and (state is None or not state.is_final()):
            _log.error("%s: %r", run.flow_run.name, run.error, exc_info=run.error)
            if run.bad_parameters:
                failed: State[Any] = Failed(message=str(run.error))
                await self.client.set_flow_run_state(run.flow_run.id, failed, force=True)
                return
            # Not the flow's own doing, or the engine would have reported it.
            why = f"its worker {self._duty.worker_id} lost it to {run.error!r}"
            await self._rescue.reschedule(run.flow_run, why, crashed=True)

    # -- cancelling --------------------------------------------------------------------------------

    async def _cancel(self) -> None:
        """Stop what somebody wants to end or to suspend. Asking misses nothing, whoever was away
        meanwhile; the events that tell of it might be missed."""
        for flow_run in await self._ours(_in_state(StateType.CANCELLING, StateType.PAUSED)):
            state = flow_run.state
            if state is not None and is_suspended_flow_run_state(state):
                # One that is not here has nothing to stop.
                if mark_flow_run_suspension_requested(flow_run.id, state):
                    _log.info("%s is to stop before its next task", flow_run.id)
            elif state is not None and state.is_cancelling():
                await self._stop(flow_run)
        await self._see_cancelled()

    async def _stop(self, flow_run: FlowRun) -> None:
        if (run := self._runs.get(flow_run.id)) is not None:
            run.stop(self._flows, Fate.CANCELLED)
        else:
            await self._rescue.cancel_unattended(flow_run, self._duty.worker_id)

    async def _see_cancelled(self) -> None:
        """A run that nobody has at the moment is cancelled on the spot, and its flow is not asked;
        its launches may be on record."""
        now = datetime.now(UTC)
        since: Any = self._cancelled_until - CANCELLED_OVERLAP
        recently = _in_state(StateType.CANCELLED)
        recently.end_time = FlowRunFilterEndTime(after_=since)
        for flow_run in await self._ours(recently):
            if flow_run.id not in self._seen_cancelled:
                # Doing it twice does nothing: who has been looked after is not under way.
                await self._rescue.run_hooks(flow_run, Cancelled())
                self._seen_cancelled[flow_run.id] = now
        self._cancelled_until = now
        for run_id, seen in list(self._seen_cancelled.items()):
            if now - seen > 2 * CANCELLED_OVERLAP:
                del self._seen_cancelled[run_id]

    async def _ours(self, wanted: FlowRunFilter) -> list[FlowRun]:
        """The runs of our pool and queues."""
        queues = WorkQueueFilterName(any_=sorted(self._work_queues))
        return await self.client.read_flow_runs(
            flow_run_filter=wanted,
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
            work_queue_filter=WorkQueueFilter(name=queues) if self._work_queues else None,
        )

    async def run(
        self,
        flow_run: FlowRun,
        configuration: InProcessConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> InProcessResult:
        """Not called: `start` has a loop of its own. Prefect's base class asks for it."""
        raise NotImplementedError("runs are taken by start()")


class Once:
    """Calls a function the first time it is called itself."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function: Callable[[], object] | None = function

    def __call__(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


def _in_state(*kinds: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(kinds))))


async def _every(interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do this again and again; what goes wrong once may go right the next time."""
    while True:
        try:
            await work()
        except DatabaseUnavailable as error:
            _log.warning("%s; trying again", error)
        except Exception:  # noqa: BLE001  (logged, and tried again)
            _log.exception("%s failed; trying again", work)
        await asyncio.sleep(interval_s)


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _poll_every_s() -> float:
    """What Prefect's settings say, if they do; its default is for infrastructure that takes longer
    to start."""
    worker = get_current_settings().worker
    return worker.query_seconds if "query_seconds" in worker.model_fields_set else POLL_EVERY_S
