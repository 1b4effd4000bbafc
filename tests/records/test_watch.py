"""Waiting for instances: what listings say, and what they do not say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.clouds.base import Instance, InstanceState
from slipway.errors import CloudThrottled
from slipway.testing.fake_clock import FakeClock
from slipway.watch.waiting import LOST_AFTER_LISTINGS, LOST_AFTER_S, Seen, Waiter, Watch
from tasks.watching import Lookout
from tests.launches.world import until

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RUNNING = frozenset({InstanceState.RUNNING})


def instance(instance_id: str, state: InstanceState, reason: str = "") -> Instance:
    return Instance(
        id=instance_id,
        state=state,
        region="r",
        image_id="i",
        instance_type="t",
        token=None,
        tags={},
        created_at=NOW,
        state_reason=reason,
    )


def waiter(instance_id: str = "i-1", deadline: float = 1000.0) -> Waiter:
    return Waiter(instance_id, RUNNING, deadline=deadline)


class Listings:
    """A watch that is told one listing after the other."""

    def __init__(self) -> None:
        self.watch = Watch(shortest_pause_s=0.5)
        self.monotonic = 0.0

    def tell(self, *listing: Instance, after_s: float = 1.0) -> list[Waiter]:
        self.monotonic += after_s
        return self.watch.observe(listing, now=NOW, monotonic=self.monotonic)


@pytest.fixture
def listings() -> Listings:
    return Listings()


def test_an_instance_that_was_never_listed_is_unknown(listings: Listings) -> None:
    """However long it is missing: it may be too new, so nothing follows from it."""
    waits = waiter(deadline=1e9)
    listings.watch.add(waits)
    for _ in range(10):
        assert listings.tell(after_s=LOST_AFTER_S) == []
    assert (waits.seen, waits.settled) == (Seen.UNKNOWN, False)


def test_a_wish_comes_true(listings: Listings) -> None:
    """Each state is noted when it is first seen."""
    waits = waiter()
    listings.watch.add(waits)
    for _ in range(2):
        assert listings.tell(instance("i-1", InstanceState.PENDING)) == []
    assert listings.tell(instance("i-1", InstanceState.RUNNING)) == [waits]
    assert [change.state for change in waits.changes] == ["pending", "running"]
    assert len(listings.watch) == 0


@pytest.mark.parametrize("state", [InstanceState.FAILED, InstanceState.TERMINATED])
def test_a_hopeless_wish_ends(listings: Listings, state: InstanceState) -> None:
    """What cannot come true any more is not waited for; the reason is kept."""
    waits = waiter()
    listings.watch.add(waits)
    assert listings.tell(instance("i-1", state, "kernel panic")) == [waits]
    assert waits.changes[0].reason == "kernel panic"


def test_lost_takes_several_listings_and_time(listings: Listings) -> None:
    """Missing from some listings, or for a while, is not lost; both together are. Coming back is
    always possible, and nothing ends by it."""
    waits = waiter(deadline=1e9)
    listings.watch.add(waits)
    listings.tell(instance("i-1", InstanceState.PENDING))
    for _ in range(LOST_AFTER_LISTINGS + 5):
        listings.tell(after_s=1.0)
    assert waits.seen is Seen.LISTED, "not long enough"
    listings.tell(instance("i-1", InstanceState.PENDING))
    listings.tell()
    listings.tell(after_s=LOST_AFTER_S)
    assert waits.seen is Seen.LISTED, "not often enough"
    assert listings.tell(after_s=1.0) == []
    assert waits.seen is Seen.LOST
    assert not waits.settled
    assert listings.tell(instance("i-1", InstanceState.RUNNING)) == [waits]
    assert waits.seen is Seen.LISTED


def test_a_deadline_passes_without_a_listing(listings: Listings) -> None:
    """Time passes also when no listing comes through."""
    early, late = waiter(deadline=10.0), waiter("i-2", deadline=20.0)
    listings.watch.add(early)
    listings.watch.add(late)
    assert listings.watch.expire(monotonic=9.9) == []
    assert listings.watch.expire(monotonic=10.0) == [early]
    assert len(listings.watch) == 1


def test_pauses_grow_while_nothing_happens(listings: Listings) -> None:
    """By a factor up to a limit; a change or a newcomer makes them short again."""
    listings.watch.add(waiter())
    listings.tell(instance("i-1", InstanceState.PENDING))
    pauses = []
    for _ in range(12):
        listings.tell(instance("i-1", InstanceState.PENDING))
        pauses.append(listings.watch.pause_s)
    # 0.5 * 1.5 = 0.75, 0.75 * 1.5 = 1.125, …
    assert pauses[:2] == [0.75, 1.125]
    assert pauses[-1] == Watch.LONGEST_PAUSE_S
    listings.watch.add(waiter("i-2"))
    assert listings.watch.pause_s == 0.5


class CountingCloud:
    """A cloud that counts its listings, and does not answer the first few."""

    name = "counting"

    def __init__(self, count: int, *, fails: int = 0) -> None:
        self.calls = 0
        self._fails = fails
        self._instances = [instance(f"i-{n}", InstanceState.RUNNING) for n in range(count)]

    def list_instances(self, region: str, *, tags: Any) -> list[Instance]:
        del region, tags
        self.calls += 1
        if self.calls <= self._fails:
            raise CloudThrottled
        return self._instances


def lookout(cloud: CountingCloud, clock: FakeClock) -> Lookout:
    settings = SimpleNamespace(poll_interval_s=0.01)
    services: Any = SimpleNamespace(settings=settings, clock=clock, installation_id="here")
    return Lookout(services, cloud, "r")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 200])
async def test_one_listing_serves_everybody(count: int) -> None:
    """The number of calls does not grow with the number of waiters."""
    cloud = CountingCloud(count)
    watch = lookout(cloud, FakeClock())
    waits = [watch.wait(f"i-{n}", RUNNING, limit_s=60.0) for n in range(count)]
    found = await asyncio.wait_for(asyncio.gather(*waits), 30)
    assert all(each.last is not None and each.last.id == each.instance_id for each in found)
    assert cloud.calls <= 2


async def test_a_failed_listing_changes_nothing() -> None:
    """Throttled three times, nobody is told anything; the fourth listing tells all."""
    cloud = CountingCloud(1, fails=3)
    watch = lookout(cloud, FakeClock())
    found = await asyncio.wait_for(watch.wait("i-0", RUNNING, limit_s=60.0), 30)
    assert cloud.calls == 4
    assert [change.state for change in found.changes] == [InstanceState.RUNNING]


async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    """The loop ends when nobody waits any more."""
    cloud = CountingCloud(0)
    watch = lookout(cloud, FakeClock())
    waiting = asyncio.create_task(watch.wait("i-9", RUNNING, limit_s=60.0))
    await until(lambda: cloud.calls == 2, "it has listed twice")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert watch._loop_task is not None
    await asyncio.wait_for(watch._loop_task, 30)


async def test_an_error_of_the_loop_reaches_whoever_waits() -> None:
    """Nobody waits for ever for a loop that has ended."""
    cloud = CountingCloud(0)

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    cloud.list_instances = breaks  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(lookout(cloud, FakeClock()).wait("i", RUNNING, limit_s=60), 30)
