"""One listing per cloud and region serves every launch of this process that waits there."""

from __future__ import annotations

import asyncio
import contextlib
from weakref import WeakKeyDictionary

from slipway.clouds.base import TAG_INSTALLATION, Cloud, InstanceState
from slipway.errors import CloudError
from slipway.launches.services import Services
from slipway.watch.waiting import HOPELESS, Waiter, Watch
from tasks.threads import clouds


class Lookout:
    """The watch over one cloud and region, and the loop that lists for it while anyone waits."""

    def __init__(self, services: Services, cloud: Cloud, region: str) -> None:
        self._services = services
        self._cloud = cloud
        self._region = region
        self._watch = Watch(shortest_pause_s=services.settings.poll_interval_s)
        self._settled: dict[int, asyncio.Future[None]] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def wait(
        self,
        instance_id: str,
        wanted: frozenset[InstanceState],
        *,
        limit_s: float,
        hopeless: frozenset[InstanceState] = HOPELESS,
        gone: bool = False,
    ) -> Waiter:
        """Wait until the instance is in a wanted state, or cannot get there, or time is over."""
        clock = self._services.clock
        deadline = clock.monotonic() + limit_s
        waiter = Waiter(instance_id, wanted, deadline, hopeless=hopeless, gone=gone)
        future = asyncio.get_running_loop().create_future()
        self._settled[id(waiter)] = future
        self._watch.add(waiter)
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run())
            self._loop_task.add_done_callback(self._pass_on)
        self._wake.set()
        try:
            await future
        finally:
            self._watch.discard(waiter)
            del self._settled[id(waiter)]
        return waiter

    async def _run(self) -> None:
        clock = self._services.clock
        tags = {TAG_INSTALLATION: self._services.installation_id}
        while len(self._watch):
            listed_at = clock.monotonic()
            try:
                listing = await clouds(self._cloud.list_instances, self._region, tags=tags)
            except CloudError:
                # A throttled or lost listing changes nothing for anyone; time still passes.
                self._watch.failed()
                done = self._watch.expire(monotonic=clock.monotonic())
            else:
                done = self._watch.observe(listing, now=clock.now(), monotonic=clock.monotonic())
            for waiter in done:
                future = self._settled[id(waiter)]
                if not future.done():
                    future.set_result(None)
            if len(self._watch):
                await self._pause(listed_at)

    async def _pause(self, listed_at: float) -> None:
        """Until the next listing is due. A new waiter brings it forward, though never below the
        shortest pause, and not while the cloud has trouble."""
        self._wake.clear()
        if self._watch.failing:
            await asyncio.sleep(self._watch.pause_s)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._watch.pause_s)
        passed_s = self._services.clock.monotonic() - listed_at
        await asyncio.sleep(max(self._watch.shortest_pause_s - passed_s, 0))

    def _pass_on(self, loop_task: asyncio.Task[None]) -> None:
        """Nobody must wait for a loop that is no more."""
        if loop_task.cancelled() or (error := loop_task.exception()) is None:
            return
        for future in self._settled.values():
            if not future.done():
                future.set_exception(error)


#: By event loop: futures and tasks belong to the loop they were made in.
_lookouts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, str, str], Lookout]]
_lookouts = WeakKeyDictionary()


def lookout(services: Services, cloud: Cloud, region: str) -> Lookout:
    """The one lookout of this event loop over a cloud and region."""
    known = _lookouts.setdefault(asyncio.get_running_loop(), {})
    key = (id(services), cloud.name, region)
    if key not in known:
        known[key] = Lookout(services, cloud, region)
    return known[key]
