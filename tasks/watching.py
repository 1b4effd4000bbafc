"""Waiting for instances: one poller per cloud and region, in one process, serves all of them.

Every process that has launches waiting in a region has a `Lookout` over it. One of them holds the
region's lease and lists; the others follow what it puts on the board, and one of them takes its
place within seconds when it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakKeyDictionary

from slipway.clouds.base import (
    TAG_INSTALLATION,
    Cloud,
    EventSource,
    Instance,
    InstanceState,
    Notice,
    NoticeSource,
)
from slipway.clouds.budget import giving_way
from slipway.errors import CloudError, DatabaseUnavailable, LeaseLost, NotCommitted
from slipway.ids import new_id
from slipway.launches.services import Services
from slipway.records import Launch
from slipway.watch.bells import listen
from slipway.watch.board import Board, Counters, places_in_use
from slipway.watch.polling import LEASE_S, Poller, take_over
from slipway.watch.waiting import HOPELESS, Answer, News, Pace, Wish
from tasks.threads import hearing, listings, records

#: How often a process looks whether another one has put something on the board; where a bell rings,
#: it is only looked at in case a ring was missed.
LOOK_S = 0.25
LOOK_ANYWAY_S = 2.0

#: How often is looked for regions with servers of ours.
LOOK_FOR_PLACES_S = 30.0

#: How often a process that follows looks whether somebody still polls.
TAKE_OVER_S = 1.0

#: How often is looked for what a cloud announces, for each kind: a spot instance has two minutes.
NOTICES_EVERY_S = 60.0

#: How long is listened for events at a time, and how soon again after that failed.
HEAR_S = 3
HEAR_AGAIN_S = 30.0

#: A row on the board outlives whoever put it there by this much, so that it is he who gives up.
GRACE = timedelta(seconds=60)

_log = logging.getLogger("slipway.watch")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Wait:
    """Somebody in this loop who waits."""

    instance_id: str
    #: On the monotonic clock, seconds.
    deadline: float
    answer: asyncio.Future[Answer]


class Lookout:
    """The watch over one cloud and region in one event loop."""

    def __init__(
        self,
        services: Services,
        cloud: Cloud,
        region: str,
        *,
        announce: Callable[[Sequence[News]], None] | None = None,
    ) -> None:
        self._services = services
        self._announce = announce
        self._cloud = cloud
        self._region = region
        self._board = Board(services.database, services.clock, cloud.name, region)
        self._pace = Pace(shortest_s=services.settings.poll_interval_s)
        self._waits: dict[str, _Wait] = {}
        self._stands = False
        self._loop_task: asyncio.Task[None] | None = None
        #: Something may have changed on the board, or in the cloud.
        self._rung = asyncio.Event()
        #: The cloud has told something since the last listing began.
        self._heard = False
        #: There was a listing since notices were looked for.
        self._listed = asyncio.Event()

    async def wait(
        self,
        instance_id: str,
        wanted: frozenset[InstanceState],
        *,
        limit_s: float,
        hopeless: frozenset[InstanceState] = HOPELESS,
        gone: bool = False,
        begun_at: datetime | None = None,
        look_from: datetime | None = None,
    ) -> Answer:
        """Wait until the instance is in a wanted state, or cannot get there, or time is over.

        ``begun_at``: when it was asked for, if boot times are to be learned from it. ``look_from``:
        before that nothing is to be seen, so there is no hurry to list."""
        clock = self._services.clock
        now = clock.now()
        wish = Wish(
            id=new_id("wait", now),
            instance_id=instance_id,
            wanted=wanted,
            hopeless=hopeless,
            gone=gone,
            begun_at=begun_at,
            look_from=look_from or now,
            until=now + timedelta(seconds=limit_s) + GRACE,
        )
        wait = _Wait(
            instance_id=instance_id,
            deadline=clock.monotonic() + limit_s,
            answer=asyncio.get_running_loop().create_future(),
        )
        try:
            await records(self._board.ask, wish)
            self._waits[wish.id] = wait
            self._begin()
            return await wait.answer
        finally:
            self._waits.pop(wish.id, None)
            if not wait.answer.done() or wait.answer.cancelled():
                # Else it goes when its time is over; whoever cancels us is obeyed.
                with contextlib.suppress(DatabaseUnavailable):
                    await asyncio.shield(records(self._board.withdraw, wish.id))

    async def wait_for_boot(self, launch: Launch, *, limit_s: float) -> Answer:
        """Wait until the instance of a launch runs, and learn from it how long that takes."""
        begun_at = launch.create_intended_at
        assert launch.instance_id is not None, "create-instance has recorded it"
        assert begun_at is not None, "and before that, that it was going to"
        look_from = await records(
            self._board.first_look,
            begun_at,
            image_id=launch.image_id,
            instance_type=launch.instance_type,
        )
        return await self.wait(
            launch.instance_id,
            frozenset({InstanceState.RUNNING}),
            limit_s=limit_s,
            begun_at=begun_at,
            look_from=look_from,
        )

    def stand(self, stands: bool) -> None:
        """Also list while nobody waits, now and then: servers that are up may be changed behind our
        back."""
        self._stands = stands
        if stands:
            self._begin()
        else:
            self._rung.set()

    @property
    def _busy(self) -> bool:
        return bool(self._waits) or self._stands

    def _begin(self) -> None:
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._run(), name=f"watch {self._board.place}")
            self._loop_task.add_done_callback(self._ended)
        self._rung.set()

    async def _run(self) -> None:
        bell = None
        if not self._board.database.is_sqlite:
            ringing = listen(self._board.database, self._board.place, self._rung.set)
            bell = asyncio.create_task(ringing)
        try:
            while self._busy:
                # Before we try: who leaves a moment later says so in them.
                counters = await records(self._board.counters)
                poller = await records(take_over, self._board)
                if poller is None:
                    await self._follow(counters)
                else:
                    await self._lead(poller)
        finally:
            if bell is not None:
                bell.cancel()
                await asyncio.wait([bell])

    # -- while another process lists ---------------------------------------------------------------

    async def _follow(self, before: Counters) -> None:
        """Tell those whose wait is over, then look at the board until it says something new, or
        for a while."""
        loop = asyncio.get_running_loop()
        until = loop.time() + TAKE_OVER_S
        await self._tell({name: wait.instance_id for name, wait in self._waits.items()})
        now = await records(self._board.counters)
        while self._busy and now.told == before.told and loop.time() < until:
            await self._give_up()
            await self._listen(until - loop.time())
            self._rung.clear()
            now = await records(self._board.counters)

    # -- while we list -----------------------------------------------------------------------------

    async def _lead(self, poller: Poller) -> None:
        self._pace.hurry()
        beside = [
            asyncio.create_task(self._hear()),
            asyncio.create_task(self._look_for_notices(poller)),
        ]
        try:
            while self._busy:
                asked = await records(self._board.counters)
                ours = {name: wait.instance_id for name, wait in self._waits.items()}
                await records(poller.look)
                waiting = {wish.id for wish in poller.wishes}
                # Whoever listed before us has answered them, and nobody told us.
                await self._tell({k: v for k, v in ours.items() if k not in waiting})
                if not self._busy:
                    break
                if (wait_s := poller.wait_s()) > 0 and not self._heard:
                    await self._pause(poller, asked, wait_s)
                    continue
                began = asyncio.get_running_loop().time()
                self._heard = False
                await self._list(poller)
                self._pace.took(asyncio.get_running_loop().time() - began)
                self._listed.set()
                await self._give_up()
                await self._pause(poller, asked, self._pause_s(poller), began=began)
        except (LeaseLost, NotCommitted) as error:
            # What this poller knows may not be on record: the next one reads it anew.
            _log.warning("%s: %s", self._board.place, error)
        finally:
            # Not awaited: their threads may be busy for a while yet, and nobody minds.
            for each in beside:
                each.cancel()
            await self._leave(poller)

    async def _hear(self) -> None:
        """Have what the cloud tells bring the next listing forward. Only a hint: it may be lost."""
        cloud = self._cloud
        if not isinstance(cloud, EventSource) or not cloud.has_events(self._region):
            return
        while True:
            try:
                heard = await hearing(cloud.wait_for_event, self._region, timeout_s=HEAR_S)
            except CloudError as error:
                _log.warning("%s tells nothing, trying again: %s", self._board.place, error)
                await asyncio.sleep(HEAR_AGAIN_S)
                continue
            if heard:
                self._heard = True
                self._rung.set()

    async def _leave(self, poller: Poller) -> None:
        """Let another process list. Also when the loop is about to close: this process may go on
        with another one, which would wait for the lease to run out."""
        try:
            await records(poller.leave)
        except asyncio.CancelledError:
            # It may have been taken back; doing it twice does nothing.
            await records(poller.leave)
            raise

    async def _list(self, poller: Poller) -> None:
        """One listing, and what follows from it. One that fails changes nothing for anybody."""
        try:
            listing = await self._listing(poller)
        except CloudError as error:
            if not self._pace.failing:
                _log.warning("%s cannot be listed, trying again: %s", self._board.place, error)
            self._pace.failed()
            await records(poller.failed, error)
            return
        observed = await records(poller.observe, listing)
        for name, answer in observed.answers.items():
            self._answer(name, answer)
        if observed.news:
            self._pace.hurry()
            if self._announce is not None:
                self._announce(observed.news)
        else:
            self._pace.quiet()

    async def _look_for_notices(self, poller: Poller) -> None:
        """What the cloud is going to do to servers of ours, one kind after the other. While
        somebody waits there is one such call at most between two listings, and no listing waits
        for it."""
        cloud = self._cloud
        if not isinstance(cloud, NoticeSource) or not cloud.notice_kinds:
            return
        unknown: set[str] = set()
        for kind in itertools.cycle(cloud.notice_kinds):
            await asyncio.sleep(NOTICES_EVERY_S / len(cloud.notice_kinds))
            if self._waits:
                self._listed.clear()
                await self._listed.wait()
            try:
                notices = await listings(self._ask_for_notices, cloud, kind)
                news = await records(poller.warn, notices)
            except CloudError as error:
                if kind not in unknown:
                    what = "%s: what is announced (%s) is not known: %s"
                    _log.warning(what, self._board.place, kind, error)
                unknown.add(kind)
                continue
            except (LeaseLost, NotCommitted):
                # Whoever lists next looks for them, too.
                return
            unknown.discard(kind)
            if news and self._announce is not None:
                self._announce(news)

    def _ask_for_notices(self, cloud: NoticeSource, kind: str) -> Sequence[Notice]:
        with giving_way():
            return cloud.list_notices(self._region, kind)

    async def _listing(self, poller: Poller) -> list[Instance]:
        """Everything of ours, keeping the lease meanwhile: a cloud may take its time."""
        call = asyncio.ensure_future(listings(self._ask_cloud))
        try:
            while not (await asyncio.wait([call], timeout=LEASE_S / 3))[0]:
                await records(poller.renew)
        except BaseException:
            call.cancel()
            await asyncio.wait([call])
            raise
        return list(call.result())

    def _ask_cloud(self) -> Sequence[Instance]:
        tags = {TAG_INSTALLATION: self._services.installation_id}
        with giving_way():
            return self._cloud.list_instances(self._region, tags=tags)

    def _pause_s(self, poller: Poller) -> float:
        """From the beginning of one listing to the next."""
        if poller.waited_for or self._pace.failing:
            return self._pace.pause_s()
        return self._services.settings.watch_interval_s

    async def _pause(
        self, poller: Poller, asked: Counters, pause_s: float, *, began: float | None = None
    ) -> None:
        """Until the next listing is due. A newcomer or an event brings it forward, though never
        below the shortest pause, and not while the cloud has trouble."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        due = (renewed if began is None else began) + pause_s
        while self._busy and (left_s := due - loop.time()) > 0:
            await self._listen(left_s)
            self._rung.clear()
            if loop.time() - renewed >= LEASE_S / 3:
                await records(poller.renew)
                renewed = loop.time()
            await self._give_up()
            came = (await records(self._board.counters)).asked != asked.asked
            if self._pace.failing or not (came or self._heard):
                continue
            if began is None:
                # Nothing was listed yet: who has come may not want to wait at all.
                return
            self._pace.hurry()
            due = min(due, began + self._pace.shortest_s)

    # -- both --------------------------------------------------------------------------------------

    async def _listen(self, limit_s: float) -> None:
        """Until something may have changed, for so long at most."""
        look_s = LOOK_S if self._board.database.is_sqlite else LOOK_ANYWAY_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), max(min(limit_s, look_s), 0))

    async def _give_up(self) -> None:
        """Tell those whose time is over what is known of their instance."""
        now = self._services.clock.monotonic()
        for name, wait in list(self._waits.items()):
            if now >= wait.deadline:
                answer = await records(self._board.answer, wait.instance_id)
                await records(self._board.withdraw, name)
                self._answer(name, answer)

    async def _tell(self, wishes: Mapping[str, str]) -> None:
        """Tell those of these, given as instances by wish, whose wait is over by the board."""
        if wishes:
            for name, answer in (await records(self._board.settled, wishes)).items():
                self._answer(name, answer)

    def _answer(self, wish_id: str, answer: Answer) -> None:
        wait = self._waits.pop(wish_id, None)
        # Of those that wait elsewhere, the board tells.
        if wait is not None and not wait.answer.done():
            wait.answer.set_result(answer)

    def _ended(self, loop_task: asyncio.Task[None]) -> None:
        """Nobody must wait for a loop that is no more."""
        if loop_task.cancelled():
            return
        if (error := loop_task.exception()) is None:
            if self._busy:
                # They came while it was about to end.
                self._begin()
            return
        _log.error("%s: the watch has ended", self._board.place, exc_info=error)
        for wait in self._waits.values():
            if not wait.answer.done():
                wait.answer.set_exception(error)


#: By event loop: futures and tasks belong to the loop they were made in.
_lookouts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, str, str], Lookout]]
_lookouts = WeakKeyDictionary()


async def stand_watch(services: Services) -> None:
    """Have an eye on every region with servers of ours, until cancelled. One process does it for
    all: whoever holds the region's lease."""
    standing: dict[tuple[str, str], Lookout] = {}
    try:
        while True:
            try:
                await _stand_where_needed(services, standing)
            except Exception:  # noqa: BLE001  (logged, and tried again)
                _log.exception("the regions to watch could not be found; trying again")
            await asyncio.sleep(LOOK_FOR_PLACES_S)
    finally:
        for each in standing.values():
            each.stand(False)


async def _stand_where_needed(services: Services, standing: dict[tuple[str, str], Lookout]) -> None:
    places = await records(places_in_use, services.database)
    for place in standing.keys() - set(places):
        standing.pop(place).stand(False)
    for name, region in places:
        cloud = services.clouds.get(name)
        # Machines of this very host are nobody else's, and asking would start their cloud.
        if cloud is not None and not cloud.capabilities.instances_on_this_host:
            standing[name, region] = lookout(services, cloud, region)
            standing[name, region].stand(True)


def lookout(services: Services, cloud: Cloud, region: str) -> Lookout:
    """The one lookout of this event loop over a cloud and region."""
    known = _lookouts.setdefault(asyncio.get_running_loop(), {})
    key = (id(services), cloud.name, region)
    if key not in known:
        # Here, because it brings Prefect along: waiting itself needs no engine.
        from tasks.announcing import announce

        known[key] = Lookout(services, cloud, region, announce=announce)
    return known[key]
