"""Holding a launch while its steps run: the lease, its renewal, and requests to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prefect.context import FlowRunContext

from slipway.errors import Conflict, DatabaseUnavailable, LeaseLost
from slipway.launches.ending import cancel_requests
from slipway.launches.services import Services
from slipway.launches.work import Work, take_up
from slipway.lifecycle import subject_of
from slipway.steps import Driver, is_driven
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import records

#: What the audit has room for.
ACTOR_LENGTH = 128

_log = logging.getLogger("slipway.driving")

#: How soon a request to cancel is noticed.
LOOK_S = 2.0


@dataclass(eq=False)
class Held:
    """One launch in our hands."""

    work: Work
    driver: asyncio.Task[object]
    #: We stopped its driver because somebody asked for the launch to be cancelled …
    cancelled: bool = False
    #: … or because another process has taken the launch over.
    lost: bool = False


class Keeper:
    """Renews the leases of every launch this event loop drives, and stops those that somebody
    wants to end: one loop for all of them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._held: dict[str, Held] = {}
        #: Leases to be given back as soon as the database is there to take them.
        self._left: list[Driver] = []
        self._loop_task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, work: Work) -> AsyncIterator[Held]:
        """Keep this launch's lease inside the block."""
        driver = asyncio.current_task()
        assert driver is not None, "flows run as tasks of an event loop"
        held = self._held[work.launch_id] = Held(work, driver)
        self._look_after()
        try:
            yield held
        finally:
            # After a lost lease another driver of this very loop may hold it by now.
            if self._held.get(work.launch_id) is held:
                del self._held[work.launch_id]
            await asyncio.shield(self.let_go(work.driver))

    async def let_go(self, driver: Driver) -> None:
        """Give a lease back: now, or when the database is back."""
        try:
            await records(driver.release)
        except DatabaseUnavailable as error:
            _log.warning("%s is let go a little later: %s", driver.subject, error)
            self._left.append(driver)
            self._look_after()

    def _look_after(self) -> None:
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        renew_every_s = self.services.settings.lease_s / 3
        clock = self.services.clock
        renewed = clock.monotonic()
        while self._held or self._left:
            await asyncio.sleep(min(LOOK_S, renew_every_s))
            try:
                await self._let_go_of_those_left()
                await self._stop_cancelled()
                if clock.monotonic() - renewed >= renew_every_s:
                    await self._renew()
                    renewed = clock.monotonic()
            except DatabaseUnavailable as error:
                _log.warning("leases could not be looked after; trying again: %s", error)
            except Exception:  # noqa: BLE001  (logged, and tried again)
                _log.exception("leases could not be looked after; trying again")

    async def _let_go_of_those_left(self) -> None:
        for driver in list(self._left):
            await records(driver.release)
            self._left.remove(driver)

    async def _stop_cancelled(self) -> None:
        for launch_id in await records(cancel_requests, self.services, list(self._held)):
            held = self._held.get(launch_id)
            if held is not None and not held.cancelled:
                held.cancelled = True
                held.driver.cancel("cancelled on request")

    async def _renew(self) -> None:
        for launch_id, held in list(self._held.items()):
            try:
                await records(held.work.driver.renew)
            except LeaseLost:
                if self._held.get(launch_id) is held:
                    held.lost = True
                    held.driver.cancel("another process has taken over")


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, Keeper] = WeakKeyDictionary()


@asynccontextmanager
async def driving(launch_id: str) -> AsyncIterator[tuple[Work, Held]]:
    """Take a launch up and hold it. Raises `Conflict` when another process is at work on it."""
    services = current_services()
    context = FlowRunContext.get()
    run_id = str(context.flow_run.id) if context and context.flow_run else None
    loop = asyncio.get_running_loop()
    keeper = _keepers.get(loop)
    if keeper is None or keeper.services is not services:
        keeper = _keepers[loop] = Keeper(services)
    take = functools.partial(take_up, services, launch_id, actor=actor(), flow_run_id=run_id)
    work = await outlast(_take, take, keeper)
    async with keeper.hold(work) as held:
        yield work, held


async def _take(take: Callable[[], Work], keeper: Keeper) -> Work:
    taking = asyncio.ensure_future(records(take))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        # A lease that was taken while we were told to stop would stay with us for nothing.
        with contextlib.suppress(Exception):
            await keeper.let_go((await taking).driver)
        raise


@asynccontextmanager
async def driving_in_turn(launch_id: str) -> AsyncIterator[tuple[Work, Held]]:
    """`driving`, when whoever is at work on the launch now has let go of it."""
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                taken = await stack.enter_async_context(driving(launch_id))
            except Conflict:
                await until_free(launch_id)
            else:
                break
        yield taken


async def until_free(launch_id: str) -> None:
    """Wait until nobody is at work on the launch."""
    services = current_services()
    subject = subject_of(launch_id)
    # There is no event to wait for: the lease is in the database.
    while await outlast(  # noqa: ASYNC110
        records, is_driven, services.database, services.clock, subject
    ):
        await asyncio.sleep(LOOK_S)


def actor() -> str:
    """Who acts, for the audit: the flow run, and the process account it runs under."""
    context = FlowRunContext.get()
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    if context is None or context.flow_run is None:
        return who[:ACTOR_LENGTH]
    return f"flow-run/{context.flow_run.name} ({who})"[:ACTOR_LENGTH]
