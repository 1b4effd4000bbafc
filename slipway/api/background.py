"""What the API does besides answering: hand over, call back, clear away."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from slipway import changes
from slipway.api.acting import KEPT, forget_keys
from slipway.api.models import LaunchOut
from slipway.launches.callbacks import LOOK_S, CallBacks, forget_delivered
from slipway.launches.engine import FlowStarter
from slipway.launches.handover import Dispatcher
from slipway.launches.listing import LaunchDetail
from slipway.launches.services import Services
from slipway.outbound import HttpPoster
from slipway.watch.board import forget_ended

#: After something went wrong that should not.
PAUSE_S = 5.0
#: How often what is too old is cleared away.
CLEAR_EVERY_S = 600.0
#: How long delivered messages are kept.
DELIVERED_KEPT = timedelta(days=30)
#: How long instances that have ended are: how long they took to boot is learned from them.
ENDED_KEPT = timedelta(days=30)
#: How long a thread has to end. It may be waiting for an engine that does not answer; what it was
#: doing is done again by another process, under the same key.
STOP_S = 5.0

_log = logging.getLogger("slipway.api")


class Loop:
    """Calls a function again and again in a thread of its own; it answers when to be called next,
    in seconds. What it raises is logged, and it is called again."""

    def __init__(self, name: str, tick: Callable[[], float]) -> None:
        self._tick = tick
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Call it now, or again as soon as it is done."""
        self._wake.set()

    def stop(self) -> None:
        """End after the call that runs now."""
        self._stopped = True
        self._wake.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                pause_s = self._tick()
            except Exception:  # noqa: BLE001  (logged, and tried again)
                _log.exception("%s failed; trying again", self._thread.name)
                pause_s = PAUSE_S
            self._wake.wait(pause_s)


class Background:
    """The background work of one process. Any number of processes may do it at once."""

    def __init__(self, services: Services, starter: FlowStarter) -> None:
        self._services = services
        self._starter = starter
        self._handing: Loop | None = None

    def hand_over_soon(self) -> None:
        """Something was recorded that is to be handed over."""
        if self._handing is not None:
            self._handing.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work inside the block."""
        services = self._services
        handing = self._handing = Loop("hand over", Dispatcher(services, self._starter).tick)
        clearing = Loop("clear away", lambda: clear_away(services))
        handing.start()
        clearing.start()
        calling = asyncio.create_task(self._call_back())
        try:
            yield
        finally:
            calling.cancel()
            with suppress(asyncio.CancelledError):
                await calling
            self._handing = None
            await asyncio.to_thread(handing.stop)
            await asyncio.to_thread(clearing.stop)

    async def _call_back(self) -> None:
        settings = self._services.settings
        poster = HttpPoster(allow_private=settings.callback_allow_private)
        callbacks = CallBacks(self._services, poster, render)
        try:
            while True:
                try:
                    await callbacks.tick()
                    pause_s = LOOK_S
                except Exception:  # noqa: BLE001  (logged, and tried again)
                    _log.exception("calling back failed; trying again")
                    pause_s = PAUSE_S
                await asyncio.sleep(pause_s)
        finally:
            await callbacks.stop()


def render(detail: LaunchDetail) -> dict[str, object]:
    """What a call-back message says of a launch: what the API says."""
    return LaunchOut.of(detail).model_dump(mode="json")


def clear_away(services: Services) -> float:
    """Remove what nobody can ask for any more; answers when to look again."""
    now = services.clock.now()
    with services.database.transaction() as connection:
        kept = timedelta(days=services.settings.changes_kept_days)
        gone = changes.clear_away(connection, now - kept)
        forget_keys(connection, now - KEPT)
        forget_delivered(connection, now - DELIVERED_KEPT)
        forget_ended(connection, now - ENDED_KEPT)
    return 0.0 if gone else CLEAR_EVERY_S
