"""Holding a launch while its steps run: the lease, its renewal, and requests to stop."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prefect.context import FlowRunContext

from slipway.errors import LeaseLost
from slipway.launches.ending import cancel_requests
from slipway.launches.services import Services
from slipway.launches.work import Work, take_up
from tasks.services import current_services
from tasks.threads import records

#: How soon a request to cancel is noticed.
LOOK_S = 2.0


@dataclass(eq=False)
class Held:
    """One launch in our hands."""

    work: Work
    driver: asyncio.Task[object]
    #: Why its driver was stopped, if we stopped it.
    cancelled: bool = False


class Keeper:
    """Renews the leases of every launch this event loop drives, and stops those that somebody
    wants to end: one loop for all of them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._held: dict[str, Held] = {}
        self._loop_task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, work: Work) -> AsyncIterator[Held]:
        """Keep this launch's lease inside the block."""
        driver = asyncio.current_task()
        assert driver is not None, "flows run as tasks of an event loop"
        held = self._held[work.launch_id] = Held(work, driver)
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run())
        try:
            yield held
        finally:
            # After a lost lease another driver of this very loop may hold it by now.
            if self._held.get(work.launch_id) is held:
                del self._held[work.launch_id]
            with contextlib.suppress(LeaseLost):
                await asyncio.shield(records(work.driver.release))

    async def _run(self) -> None:
        renew_every_s = self.services.settings.lease_s / 3
        clock = self.services.clock
        renewed = clock.monotonic()
        while self._held:
            await asyncio.sleep(min(LOOK_S, renew_every_s))
            held = dict(self._held)
            for launch_id in await records(cancel_requests, self.services, held):
                if not held[launch_id].cancelled:
                    held[launch_id].cancelled = True
                    held[launch_id].driver.cancel("cancelled on request")
            if clock.monotonic() - renewed >= renew_every_s:
                renewed = clock.monotonic()
                for each in held.values():
                    try:
                        await records(each.work.driver.renew)
                    except LeaseLost:
                        each.driver.cancel("another process has taken over")


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, Keeper] = WeakKeyDictionary()


@asynccontextmanager
async def driving(launch_id: str) -> AsyncIterator[tuple[Work, Held]]:
    """Take a launch up and hold it. Raises `Conflict` when another process is at work on it."""
    services = current_services()
    context = FlowRunContext.get()
    run_id = str(context.flow_run.id) if context and context.flow_run else None
    work = await records(take_up, services, launch_id, actor=actor(), flow_run_id=run_id)
    loop = asyncio.get_running_loop()
    keeper = _keepers.get(loop)
    if keeper is None or keeper.services is not services:
        keeper = _keepers[loop] = Keeper(services)
    async with keeper.hold(work) as held:
        yield work, held


def actor() -> str:
    """Who acts, for the audit: the flow run, and the process account it runs under."""
    context = FlowRunContext.get()
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    if context is None or context.flow_run is None:
        return who
    return f"flow-run/{context.flow_run.name} ({who})"
