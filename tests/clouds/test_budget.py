"""The calls of an account, shared by everybody who makes some."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from slipway.clouds.budget import PATIENCE_S, Bucket, Budget, giving_way
from slipway.database import Database
from slipway.errors import CloudThrottled
from slipway.testing.fake_clock import FakeClock
from slipway.testing.weather import Weather
from tests.clouds.ec2 import REGION, cloud_at

FAMILY = "describe"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def budget(any_database: Database, clock: FakeClock) -> Callable[..., Budget]:
    """Makes one as a process of its own has it."""

    def make(account: str = "aws", at_once: float = 10, per_s: float = 2) -> Budget:
        buckets = {FAMILY: Bucket(at_once=at_once, per_s=per_s)}
        return Budget(any_database, clock, account, buckets)

    return make


def test_all_processes_share_one_bucket(budget: Callable[..., Budget], clock: FakeClock) -> None:
    """Ten at once, whoever makes them; then everybody waits for his turn, in order."""
    first, second = budget(), budget()
    for _ in range(5):
        first.take("r", FAMILY)
        second.take("r", FAMILY)
    assert clock.slept == []
    first.take("r", FAMILY)
    second.take("r", FAMILY)
    # Two come back every second.
    assert clock.slept == [0.5, 0.5]
    clock.advance(3600)
    assert first.remaining("r", FAMILY) == 10


def test_other_regions_families_and_accounts_have_their_own(
    budget: Callable[..., Budget], clock: FakeClock
) -> None:
    """Clouds count them apart."""
    for _ in range(10):
        budget().take("r", FAMILY)
    budget().take("elsewhere", FAMILY)
    budget("other").take("r", FAMILY)
    budget().take("r", "not counted")
    assert clock.slept == []


def test_listings_leave_half_of_it(budget: Callable[..., Budget], clock: FakeClock) -> None:
    """They are refused while others may need the rest, and wait for nothing."""
    for _ in range(5):
        with giving_way():
            budget().take("r", FAMILY)
    with giving_way(), pytest.raises(CloudThrottled, match=r"one more in 0\.5 s"):
        budget().take("r", FAMILY)
    assert budget().remaining("r", FAMILY) == 5
    for _ in range(5):
        budget().take("r", FAMILY)
    assert clock.slept == []


def test_nobody_waits_for_longer_than_a_minute(
    budget: Callable[..., Budget], clock: FakeClock
) -> None:
    """Whoever would have to is told to come back, and his call is not counted."""
    slow = budget(at_once=1, per_s=1 / (PATIENCE_S + 10))
    slow.take("r", FAMILY)
    for _ in range(2):
        with pytest.raises(CloudThrottled, match=r"one more in 70\.0 s"):
            slow.take("r", FAMILY)
    clock.advance(11)
    slow.take("r", FAMILY)
    # The one that is not counted twice is there 70 s after the first.
    assert clock.slept == [pytest.approx(70 - 11)]


def test_who_is_throttled_all_the_same_warns_the_others(
    budget: Callable[..., Budget], clock: FakeClock
) -> None:
    """Somebody else uses the account, too: then nothing is left for anybody here."""
    budget().take("r", FAMILY)
    budget().exhausted("r", FAMILY)
    with giving_way(), pytest.raises(CloudThrottled):
        budget().take("r", FAMILY)
    budget().take("r", FAMILY)
    assert clock.slept == [0.5]


def test_many_at_once_take_no_more_than_there_is(
    budget: Callable[..., Budget], clock: FakeClock
) -> None:
    """Forty calls of eight threads: each of them is counted once."""
    shared = budget(at_once=100, per_s=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shared.take("r", FAMILY), range(40)))
    assert shared.remaining("r", FAMILY) == 60


def test_ec2_counts_every_page(database: Database, clock: FakeClock, weather: Weather) -> None:
    """And what it answers: told that there are no calls left, nobody here makes another at once."""
    buckets = {"describe": Bucket(at_once=10, per_s=2)}
    budget = Budget(database, clock, "ec2", buckets)
    cloud = cloud_at(weather.url, clock=clock, budget=budget)
    cloud.list_instances(REGION, tags={})
    assert budget.remaining(REGION, "describe") == 9
    weather.fail("DescribeInstances", "RequestLimitExceeded", status=503)
    with pytest.raises(CloudThrottled, match="RequestLimitExceeded"):
        cloud.list_instances(REGION, tags={})
    assert budget.remaining(REGION, "describe") == 0
    asked = weather.count("DescribeInstances")
    with giving_way(), pytest.raises(CloudThrottled, match="are used up"):
        cloud.list_instances(REGION, tags={})
    assert weather.count("DescribeInstances") == asked
    cloud.list_instances(REGION, tags={})
    assert clock.slept == [0.5]
