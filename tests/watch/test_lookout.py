"""Waiting in one process and in many: one listing for all, whoever dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.clock import Clock, SystemClock
from slipway.clouds.base import Capabilities, Instance, InstanceState, Notice
from slipway.database import Database
from slipway.errors import CloudRefused, CloudThrottled
from slipway.records import LaunchStatus
from slipway.testing.fake_clock import FakeClock
from slipway.watch.board import Board
from slipway.watch.polling import Poller, take_over
from slipway.watch.waiting import News, Seen
from tasks import watching
from tasks.services import use_services
from tasks.watching import Lookout, stand_watch
from tests.launches.world import until
from tests.records.rows import add_launch
from tests.watch.listed import RUNNING, instance

ROOT = Path(__file__).resolve().parents[2]

#: What is waited for after this never comes.
DEADLINE_S = 30.0


class CountingCloud:
    """A cloud that counts its listings, and does not answer the first few."""

    name = "counting"

    def __init__(self, count: int, *, fails: int = 0) -> None:
        self.calls = 0
        self.fails = fails
        self.capabilities = Capabilities()
        self.instances = [instance(f"i-{n}", InstanceState.RUNNING) for n in range(count)]

    def list_instances(self, region: str, *, tags: Any) -> list[Instance]:
        del region, tags
        self.calls += 1
        if self.calls <= self.fails:
            raise CloudThrottled
        return self.instances


def services(database: Database, clock: Clock) -> Any:
    """As much of the services as waiting needs."""
    return SimpleNamespace(
        settings=SimpleNamespace(poll_interval_s=0.01, watch_interval_s=0.02),
        database=database,
        clock=clock,
        installation_id="here",
        lookouts=[],
    )


@pytest.fixture
async def here(any_database: Database) -> AsyncIterator[Any]:
    with use_services(services(any_database, FakeClock())) as found:
        yield found
        await let_go(found)


async def let_go(here: Any) -> None:
    """Wait until nobody uses the database any more."""
    loops = [each._loop_task for each in here.lookouts if each._loop_task is not None]
    await asyncio.wait_for(asyncio.gather(*loops, return_exceptions=True), DEADLINE_S)


def lookout(here: Any, cloud: CountingCloud) -> Lookout:
    made = Lookout(here, cloud, "r")  # type: ignore[arg-type]
    here.lookouts.append(made)
    return made


@contextmanager
def another_poller(database_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has begun to poll."""
    command = [sys.executable, "-m", "tests.watch.waiting_process", database_url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "polling\n"
            yield other
        finally:
            other.kill()


async def in_time(awaited: Any) -> Any:
    return await asyncio.wait_for(awaited, DEADLINE_S)


@pytest.mark.parametrize("count", [1, 200])
async def test_one_listing_serves_everybody(here: Any, count: int) -> None:
    """The number of calls does not grow with the number of waiters."""
    cloud = CountingCloud(count)
    watch = lookout(here, cloud)
    waits = [watch.wait(f"i-{n}", RUNNING, limit_s=60.0) for n in range(count)]
    found = await in_time(asyncio.gather(*waits))
    assert [each.last.id for each in found] == [f"i-{n}" for n in range(count)]
    # Those that were put up while the first listing was under way are in the second.
    assert cloud.calls <= 3


async def test_a_failed_listing_changes_nothing(here: Any) -> None:
    """Throttled three times, nobody is told anything; the fourth listing tells all."""
    cloud = CountingCloud(1, fails=3)
    found = await in_time(lookout(here, cloud).wait("i-0", RUNNING, limit_s=60.0))
    assert cloud.calls == 4
    assert [each.state for each in found.sightings] == [InstanceState.RUNNING]
    assert found.problem == ""


async def test_two_processes_share_one_poller(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lists, also for who waits in the other; that one is told through the database: by the
    bell, where there is one."""
    monkeypatch.setattr(watching, "TAKE_OVER_S", 3600.0)
    monkeypatch.setattr(watching, "LOOK_ANYWAY_S", 3600.0)
    first_cloud, second_cloud = CountingCloud(0), CountingCloud(0)
    first, second = lookout(here, first_cloud), lookout(here, second_cloud)
    staying = asyncio.create_task(first.wait("i-9", RUNNING, limit_s=3600.0))
    await until(lambda: first_cloud.calls > 1, "the first one lists")
    waits = asyncio.create_task(second.wait("i-0", RUNNING, limit_s=3600.0))
    board = Board(here.database, here.clock, "counting", "r")
    await until(lambda: len(board.wishes()) == 2, "both wait")
    first_cloud.instances = [instance("i-0", InstanceState.RUNNING)]
    found = await in_time(waits)
    assert found.last == first_cloud.instances[0]
    assert second_cloud.calls == 0
    staying.cancel()
    await asyncio.wait([staying])


async def test_the_next_one_lists_when_the_poller_leaves(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: whoever leaves says so."""
    monkeypatch.setattr(watching, "TAKE_OVER_S", 3600.0)
    first_cloud, second_cloud = CountingCloud(0), CountingCloud(1)
    first, second = lookout(here, first_cloud), lookout(here, second_cloud)
    leaving = asyncio.create_task(first.wait("i-9", RUNNING, limit_s=3600.0))
    await until(lambda: first_cloud.calls > 1, "the first one lists")
    waits = asyncio.create_task(second.wait("i-0", RUNNING, limit_s=3600.0))
    await until(lambda: second._loop_task is not None, "the second one follows")
    leaving.cancel()
    assert (await in_time(waits)).last == second_cloud.instances[0]


async def test_what_the_poller_before_has_answered_is_told(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listed for us and left, all between our last look at the board and our taking its place:
    there is no wish of ours left that a listing of our own would answer."""
    cloud = CountingCloud(0)

    def too_late(board: Board) -> Poller | None:
        monkeypatch.setattr(watching, "take_over", take_over)
        before = take_over(board)
        assert before is not None
        before.look()
        before.observe([instance("i-0", InstanceState.RUNNING)])
        before.leave()
        return take_over(board)

    monkeypatch.setattr(watching, "take_over", too_late)
    found = await in_time(lookout(here, cloud).wait("i-0", RUNNING, limit_s=3600.0))
    assert found.last == instance("i-0", InstanceState.RUNNING)
    assert cloud.calls == 0


async def test_a_poller_that_is_killed_is_followed_at_once(database_url: str) -> None:
    """`kill -9`, and its lease good for another hour: whoever else waits on this machine lists."""
    database = Database(database_url)
    cloud = CountingCloud(1)
    with (
        another_poller(database_url) as other,
        use_services(services(database, SystemClock())) as here,
    ):
        waits = asyncio.create_task(lookout(here, cloud).wait("i-0", RUNNING, limit_s=60.0))
        board = Board(database, here.clock, "counting", "r")
        await until(lambda: len(board.wishes()) == 2, "both wait")
        assert cloud.calls == 0
        other.kill()
        assert (await in_time(waits)).last == cloud.instances[0]
        await let_go(here)
    database.close()


async def test_time_that_is_over_is_told_without_a_listing(here: Any) -> None:
    """A cloud that does not answer keeps nobody for longer than he wants to wait; he hears why."""
    cloud = CountingCloud(1, fails=10**6)
    waits = asyncio.create_task(lookout(here, cloud).wait("i-0", RUNNING, limit_s=60.0))
    await until(lambda: cloud.calls > 1, "it has tried")
    here.clock.advance(61.0)
    found = await in_time(waits)
    assert (found.seen, found.last) == (Seen.UNKNOWN, None)
    assert found.problem == str(CloudThrottled())
    assert Board(here.database, here.clock, "counting", "r").wishes() == []


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(here: Any) -> None:
    """Neither a row nor a loop, nor a lease."""
    cloud = CountingCloud(0)
    watch = lookout(here, cloud)
    waiting = asyncio.create_task(watch.wait("i-9", RUNNING, limit_s=60.0))
    await until(lambda: cloud.calls == 2, "it has listed twice")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert watch._loop_task is not None
    await in_time(watch._loop_task)
    other = lookout(here, CountingCloud(1))
    assert (await in_time(other.wait("i-0", RUNNING, limit_s=60.0))).last is not None
    assert Board(here.database, here.clock, "counting", "r").wishes() == []


def test_a_loop_that_is_closed_leaves_the_lease(database: Database) -> None:
    """The same process may go on with another loop, which must not wait for it to run out."""
    with use_services(services(database, FakeClock())) as here:
        cloud = CountingCloud(0)

        async def begin() -> None:
            # Kept, so that it is closing the loop that ends it.
            task = asyncio.create_task(lookout(here, cloud).wait("i-9", RUNNING, limit_s=60.0))
            await until(lambda: cloud.calls > 1, "it lists")
            assert not task.done()

        asyncio.run(begin())
        again = lookout(here, CountingCloud(1)).wait("i-0", RUNNING, limit_s=60.0)
        assert asyncio.run(in_time(again)).last is not None


async def test_an_error_of_the_loop_reaches_whoever_waits(here: Any) -> None:
    """Nobody waits for ever for a loop that has ended."""
    cloud = CountingCloud(0)

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    cloud.list_instances = breaks  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        await in_time(lookout(here, cloud).wait("i", RUNNING, limit_s=60))


# --- While nobody waits ---------------------------------------------------------------------------


@pytest.fixture
async def standing(here: Any, request: pytest.FixtureRequest) -> AsyncIterator[CountingCloud]:
    """A region with a server of ours that nobody waits for, under watch."""
    here.settings.watch_interval_s = getattr(request, "param", 0.02)
    cloud = CountingCloud(1)
    here.clouds = {"counting": cloud}
    columns = {"cloud": "counting", "region": "r", "instance_id": "i-0"}
    add_launch(here.database, status=LaunchStatus.OPERATIONAL.value, **columns)
    watch = asyncio.create_task(stand_watch(here))
    await until(lambda: cloud.calls > 0, "it lists")
    yield cloud
    watch.cancel()
    await asyncio.wait([watch])
    here.lookouts.append(watching.lookout(here, cloud, "r"))  # type: ignore[arg-type]


async def test_servers_are_watched_while_nobody_waits(here: Any, standing: CountingCloud) -> None:
    """What happens to one is noticed, and the watch ends when the last server does."""
    standing.instances = [instance("i-0", InstanceState.STOPPED)]
    board = Board(here.database, here.clock, "counting", "r")

    def is_stopped() -> bool:
        last = board.answer("i-0").last
        return last is not None and last.state is InstanceState.STOPPED

    await until(is_stopped, "it was noticed")


@pytest.mark.parametrize("standing", [3600.0], indirect=True)
async def test_whoever_waits_hurries_the_watch(here: Any, standing: CountingCloud) -> None:
    """The pause between two listings is long only while nobody waits."""
    standing.instances = [instance("i-7", InstanceState.RUNNING)]
    watch = watching.lookout(here, standing, "r")  # type: ignore[arg-type]
    found = await in_time(watch.wait("i-7", RUNNING, limit_s=60.0))
    assert found.last == standing.instances[0]


async def test_a_cloud_on_this_host_is_left_alone(here: Any) -> None:
    """Its machines are nobody else's, and asking would start it again after it was shut down."""
    cloud = CountingCloud(1)
    cloud.capabilities = Capabilities(instances_on_this_host=True)
    here.clouds = {"counting": cloud}
    columns = {"cloud": "counting", "region": "r", "instance_id": "i-0"}
    add_launch(here.database, status=LaunchStatus.OPERATIONAL.value, **columns)
    standing: dict[tuple[str, str], Lookout] = {}
    await watching._stand_where_needed(here, standing)
    assert standing == {}
    cloud.capabilities = Capabilities()
    await watching._stand_where_needed(here, standing)
    here.lookouts += standing.values()
    assert list(standing) == [("counting", "r")]
    standing["counting", "r"].stand(False)


# --- Clouds that tell -----------------------------------------------------------------------------


class TellingCloud(CountingCloud):
    """A cloud with events, when the test says so."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.event = threading.Event()
        self.refuses = 0

    def has_events(self, region: str) -> bool:
        return region == "r"

    def wait_for_event(self, region: str, *, timeout_s: int) -> bool:
        assert region == "r"
        if self.refuses:
            self.refuses -= 1
            raise CloudRefused("there is no such queue")
        heard = self.event.wait(min(timeout_s, 0.2))
        self.event.clear()
        return heard


@pytest.mark.parametrize("refuses", [0, 2])
async def test_an_event_brings_the_next_listing_forward(
    here: Any, monkeypatch: pytest.MonkeyPatch, refuses: int
) -> None:
    """Whatever pause there would be; also when it could not be heard at first."""
    monkeypatch.setattr(watching, "HEAR_AGAIN_S", 0.01)
    here.settings.watch_interval_s = 3600.0
    cloud = TellingCloud(1)
    cloud.refuses = refuses
    watch = lookout(here, cloud)
    watch.stand(True)
    await until(lambda: cloud.calls == 1 and cloud.refuses == 0, "it lists, and listens")
    cloud.instances = [instance("i-0", InstanceState.STOPPED)]
    cloud.event.set()
    await until(lambda: cloud.calls == 2, "it lists again")
    watch.stand(False)


async def test_an_event_counts_more_than_what_was_learned(here: Any) -> None:
    """A boot that is quicker than any before it is seen when the cloud tells of it."""
    cloud = TellingCloud(1)
    watch = lookout(here, cloud)
    later = here.clock.now() + timedelta(hours=1)
    waits = asyncio.create_task(watch.wait("i-0", RUNNING, limit_s=7200.0, look_from=later))
    board = Board(here.database, here.clock, "counting", "r")
    await until(lambda: len(board.wishes()) == 1, "it waits")
    assert cloud.calls == 0
    cloud.event.set()
    assert (await in_time(waits)).last == cloud.instances[0]


class AnnouncingCloud(CountingCloud):
    """A cloud that announces something, after it was not able to say so once."""

    notice_kinds = ("spot", "scheduled")

    def __init__(self) -> None:
        super().__init__(1)
        #: Every call, in order.
        self.asked: list[str] = []

    def list_instances(self, region: str, *, tags: Any) -> list[Instance]:
        self.asked.append("instances")
        return super().list_instances(region, tags=tags)

    def list_notices(self, region: str, kind: str) -> list[Notice]:
        assert region == "r"
        self.asked.append(kind)
        if self.asked.count(kind) == 1:
            raise CloudRefused("not allowed to look")
        return [Notice(instance_id="i-0", code=f"{kind}-interruption")]

    @property
    def notices_asked_for(self) -> list[str]:
        return [each for each in self.asked if each != "instances"]


@pytest.mark.parametrize("waits", [False, True])
async def test_announcements_are_looked_for(
    here: Any, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """One kind after the other, whether somebody waits or not; one that cannot be had keeps nothing
    else from being seen, and what is announced again and again is told once. While somebody waits a
    listing and one other call are all that is asked for at a time."""
    monkeypatch.setattr(watching, "NOTICES_EVERY_S", 0.0)
    told: list[str] = []

    def announce(news: Sequence[News]) -> None:
        told.extend(each.kind for each in news)

    cloud = AnnouncingCloud()
    watch = Lookout(here, cloud, "r", announce=announce)  # type: ignore[arg-type]
    here.lookouts.append(watch)
    waiting = asyncio.create_task(watch.wait("i-9", RUNNING, limit_s=3600.0))
    if not waits:
        watch.stand(True)
        await until(lambda: cloud.calls > 0, "it lists")
        waiting.cancel()
    await until(lambda: len(cloud.notices_asked_for) > 6, "it looks again and again")
    asked = "".join("." if each == "instances" else "!" for each in cloud.asked)
    watch.stand(False)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert cloud.notices_asked_for[:4] == ["spot", "scheduled"] * 2
    assert sorted(told) == ["notice", "notice", "running"]
    assert not waits or "!!" not in asked, asked
