"""One flow run in the flows' loop, and what becomes of it when it is stopped from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from prefect._flow_run_suspension import (
    FlowRunSuspensionRequest,
    register_flow_run_suspension_request,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectSignal
from prefect.flow_engine import AsyncFlowRunEngine
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.results import aget_default_result_storage
from prefect.utilities.callables import get_call_parameters, parameters_to_args_kwargs

from deployments.flow_loop import FlowLoop, InLoop

_log = get_logger("slipway.worker")


class Fate(StrEnum):
    """Why a run was stopped."""

    #: Somebody wants it to end.
    CANCELLED = "cancelled"
    #: The worker ends; the run goes on elsewhere.
    HANDED_BACK = "handed back"


class RunEngine(AsyncFlowRunEngine[..., Any]):
    """Prefect's engine, which says nothing any more once the worker has stopped the run: what it
    would report is a crash, and it was none."""

    #: The final state the run came to by itself, whether or not the server took it.
    concluded: State[Any] | None = None

    @contextmanager
    def setup_flow_run_suspension_request(self) -> Iterator[FlowRunSuspensionRequest]:
        """Let the run be suspended from outside. Prefect's own starts a thread with a connection
        for each run, to hear of it, and blocks the loop until they stand: while the server is away
        that is long. Our worker asks for all its runs at once, and marks the request."""
        assert self.flow_run is not None, "it is read before it is begun"
        request = self._get_flow_run_suspension_request()
        with register_flow_run_suspension_request(self.flow_run.id, request):
            request.raise_if_requested()
            yield request

    async def set_state(self, state: State[Any], force: bool = False) -> State[Any]:
        """Report a state."""
        if not self.short_circuit and state.is_final():
            self.concluded = state
        return await super().set_state(state, force=force)

    async def handle_crash(self, exc: BaseException) -> None:
        """Report a crash, unless it is our doing."""
        if self.short_circuit:
            self._raised = exc  # type: ignore[assignment]
            return
        await super().handle_crash(exc)


class Run:
    """A flow run this worker has taken."""

    def __init__(self, flow_run: FlowRun, *, begun: Callable[[], object]) -> None:
        self.flow_run = flow_run
        #: Why it was stopped, if it was.
        self.fate: Fate | None = None
        #: What went wrong around the flow …
        self.error: BaseException | None = None
        #: … because it does not take these parameters.
        self.bad_parameters = False
        #: The worker's task that looks after it.
        self.attending: asyncio.Task[None] | None = None
        self._begun = begun
        self._engine: RunEngine | None = None
        self._in_loop: InLoop | None = None

    @property
    def concluded(self) -> State[Any] | None:
        """The final state it came to by itself."""
        return self._engine.concluded if self._engine else None

    @property
    def reported(self) -> State[Any] | None:
        """The state the server was last known to have."""
        return self._engine.state if self._engine and self._engine.flow_run else None

    async def carry_out(self, flows: FlowLoop, flow: Flow[..., Any]) -> None:
        """Run the flow in the flows' loop to its end, whatever that is."""
        if self.fate is not None:
            return
        self._in_loop = flows.spawn(self._run(flow), name=f"{flow.name} {self.flow_run.name}")
        await self._in_loop.ended()

    def stop(self, flows: FlowLoop, fate: Fate) -> None:
        """Ask it to end. Asking again changes nothing."""
        if self.fate is not None:
            return
        self.fate = fate
        if self._in_loop is not None:
            flows.loop.call_soon_threadsafe(self._silence)
            self._in_loop.cancel()

    def _silence(self) -> None:
        if self._engine is not None:
            self._engine.short_circuit = True

    async def _run(self, flow: Flow[..., Any]) -> None:
        try:
            given = parameters_to_args_kwargs(flow.fn, self.flow_run.parameters)
            parameters = get_call_parameters(flow.fn, *given)
        except Exception as error:  # noqa: BLE001  (reported as the run's failure)
            self.error, self.bad_parameters = error, True
            self._begun()
            return
        engine = self._engine = RunEngine(flow=flow, flow_run=self.flow_run, parameters=parameters)
        try:
            if flow.result_storage is None:
                # The engine asks the server before each run where results go, and blocks the loop
                # until it answers: asked once, and as everything here is asked.
                flow.result_storage = await aget_default_result_storage()
            # As `prefect.flow_engine.run_flow_async` does it.
            async with engine.start():
                while engine.is_running():
                    async with engine.run_context():
                        self._begun()
                        _ = await engine.call_flow_fn()
        except asyncio.CancelledError as error:
            if self.fate is None:
                self.error = error
        except PrefectSignal as signal:
            # The server wants it not to run, or paused; it knows the state.
            _log.info("%s: %s", self.flow_run.name, signal)
        except BaseException as error:  # noqa: BLE001  (one bad flow is its own run's mishap)
            self.error = error
        finally:
            self._begun()
