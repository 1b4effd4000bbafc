"""The event loop that flows run in: a thread of its own beside the worker's.

The worker has to look after its lease, poll, cancel and drain whatever its flows do. With the flows
in another thread, one that blocks its loop keeps the worker from none of that; the worker sees it
and says where it hangs. And Prefect's engine leaves signals alone outside the main thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from prefect.context import AsyncClientContext, SyncClientContext
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.logging import get_logger
from prefect.settings import (
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from deployments.patience import make_patient
from slipway.clock import Clock

_log = get_logger("slipway.worker")

#: How often we look whether the loop turns.
LOOK_S = 0.5
#: A loop that has not turned for this long is blocked, and reported …
BLOCKED_S = 1.0
#: … and after this long it is given up: the leases of its launches have run out.
HOPELESS_S = 120.0

#: How often the connection that task runs are reported over is tried again, a second apart. Prefect
#: gives up after ten, and what it had to report is lost.
FOR_EVER = 10**9

#: What the process ends with then; `EX_SOFTWARE` of sysexits.h.
HOPELESS_EXIT_CODE = 70


class InLoop:
    """A coroutine that runs in the other thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._ended: Future[None] = Future()

    def begin(
        self, coroutine: Coroutine[Any, Any, None], name: str, context: contextvars.Context
    ) -> None:
        """Called in the other thread."""
        self._task = self._loop.create_task(coroutine, name=name, context=context)
        self._task.add_done_callback(self._tell)

    def cancel(self) -> None:
        """Ask it to end."""
        self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task else None)

    async def ended(self) -> None:
        """Wait for its end, whatever that is. Giving up to wait leaves it alone."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    def _tell(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: %r", task.get_name(), error, exc_info=error)
        self._ended.set_result(None)


class FlowLoop:
    """A thread with an event loop, and one patient client of Prefect for all that runs there."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="slipway-flows", daemon=True)
        #: What every flow run starts from: it holds the client.
        self._context = contextvars.Context()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Start the thread; back when flows can run there."""
        ready: Future[None] = Future()

        def begin() -> None:
            self._keeper = self.loop.create_task(self._keep(ready))

        self.thread.start()
        self.loop.call_soon_threadsafe(begin)
        await asyncio.wrap_future(ready)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> InLoop:
        """Run a coroutine there."""
        made = InLoop(self.loop)
        self.loop.call_soon_threadsafe(made.begin, coroutine, name, self._context.copy())
        return made

    async def stop(self) -> None:
        """End the thread, as far as it can be ended: one that is blocked is left behind."""
        self.loop.call_soon_threadsafe(self._closing.set)
        await asyncio.to_thread(self.thread.join, BLOCKED_S * 5)

    async def _keep(self, ready: Future[None]) -> None:
        try:
            # A heartbeat of Prefect's is a thread per flow run. What it is for, the worker's lease
            # does for all of them: docs/decisions/0006-crash-recovery.md.
            EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=FOR_EVER)
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                async with AsyncClientContext() as found:
                    make_patient(found.client)
                    # The engine makes a client of the blocking kind for each run, and with it a
                    # TLS context, which takes longer than all else about a run. This one sends
                    # nothing, so there is nothing to check about its server.
                    with (
                        temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}),
                        SyncClientContext(),
                    ):
                        self._context = contextvars.copy_context()
                        ready.set_result(None)
                        await self._closing.wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            self._closed = True
            self.loop.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._closed:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio lets these two out of its loop. They end what raised them, and no more.
                _log.error("a flow tried to end the worker (%r); it goes on", error)
        self.loop.close()


class LoopWatch:
    """Looks from the worker's loop whether the flows' loop turns."""

    def __init__(
        self, flows: FlowLoop, clock: Clock, *, hopeless: Callable[[], None] | None = None
    ) -> None:
        self._flows = flows
        self._clock = clock
        self._hopeless = hopeless or _end_process
        self._turned = clock.monotonic()
        self._reported = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._flows.loop.call_soon_threadsafe(self._turn)
            await asyncio.sleep(LOOK_S)
            blocked_s = self._clock.monotonic() - self._turned - LOOK_S
            if blocked_s > HOPELESS_S:
                _log.critical("the flows' event loop does not turn any more: the worker ends")
                self._hopeless()
                return
            if blocked_s > BLOCKED_S and not self._reported:
                self._reported = True
                _log.error("the flows' event loop is blocked by %s", self._culprit())

    def _turn(self) -> None:
        """Called in the flows' loop."""
        now = self._clock.monotonic()
        if self._reported:
            self._reported = False
            _log.error("the flows' event loop turns again after %.1f s", now - self._turned)
        self._turned = now

    def _culprit(self) -> str:
        task = asyncio.current_task(self._flows.loop)
        what = repr(task.get_name()) if task else "something that is no task"
        frame = sys._current_frames().get(self._flows.thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        return f"{what}:\n{stack}"


def _end_process() -> None:
    # At once: whatever tidies up at exit would wait for the thread that hangs.
    os._exit(HOPELESS_EXIT_CODE)
