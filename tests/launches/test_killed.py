"""The heart: drivers are killed at every boundary and at random instants, and taken up again.

Exactly one instance per launch, each script exactly once, a record without a gap: wherever the
process that does the work dies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from slipway.records import Launch
from tests.launches.killing import Drivers
from tests.launches.world import World, counted

#: More than a launch has places to die at.
MANY = 400

SCRIPTS = {
    "first": counted("first", "echo one line"),
    # Not retry-safe and slow, so that drivers die while it runs.
    "slow": counted("slow", "for i in 1 2 3 4 5; do echo $i $RANDOM; sleep 0.1; done"),
    "last": counted("last", 'echo "port=$((6 * 7))" >>"$SLIPWAY_OUTPUT"; seq 2000'),
}


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    """The process that drivers are forked from."""
    with Drivers(tmp_path_factory.mktemp("drivers") / "drivers.log") as found:
        yield found


def job(world: World, *launches: Launch) -> dict[str, Any]:
    return {
        "settings": world.services.settings.model_dump(mode="json"),
        "cloud": str(world.cloud.directory.parent),
        "launches": [launch.id for launch in launches],
    }


def check(world: World, launch: Launch) -> None:
    """What must hold wherever drivers died."""
    assert world.now(launch).status == "operational"
    assert world.runs(launch) == ["first", "slow", "last"]
    assert world.now(launch).outputs == {"port": "42"}
    world.check_invariants(launch)
    assert {step.status for step in world.steps(launch).values()} == {"succeeded"}


@pytest.mark.timeout(300)
def test_killed_at_every_boundary(world: World, drivers: Drivers) -> None:
    """One launch whose drivers die, one after the other, at every commit, cloud call and remote
    call there is, comes up with one instance and every script run once."""
    world.template(SCRIPTS)
    launch = world.record()
    seen: list[str] = []
    for _ in range(MANY):
        ended = drivers.drive(**job(world, launch), seen=seen)
        if not ended.killed:
            break
        seen.append(ended.point)
    assert ended.statuses == ["operational"]
    check(world, launch)
    # The places that matter most are among them.
    for place in ("before cloud create_instance", "after cloud create_instance", "after output"):
        assert any(point.startswith(place) for point in seen), seen
    assert len(seen) > 80


def kill_at_random(world: World, drivers: Drivers, *, kills: int, side_by_side: int) -> None:
    """Several launches in one driver at a time, killed after a random time, until enough kills."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    world.template(SCRIPTS)
    done = 0
    while done < kills:
        launches = [world.record() for _ in range(side_by_side)]
        while True:
            # With the kills that are wanted done, the last launches are left to come up.
            after = {"after_s": dice.uniform(0.02, 0.9)} if done < kills else {}
            ended = drivers.drive(**job(world, *launches), **after)
            if not ended.killed:
                break
            done += 1
        assert ended.statuses == ["operational"] * len(launches)
        for launch in launches:
            check(world, launch)


def test_killed_at_ten_random_instants(world: World, drivers: Drivers) -> None:
    """Launches side by side survive ten kills at any instant."""
    kill_at_random(world, drivers, kills=10, side_by_side=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_a_hundred_random_instants(world: World, drivers: Drivers) -> None:
    """Launches side by side survive a hundred kills at any instant."""
    kill_at_random(world, drivers, kills=100, side_by_side=4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_once_at_every_eighth_boundary(world: World, drivers: Drivers) -> None:
    """A launch that dies once, at the nth boundary it comes to, comes up at the second try: with
    a first that was further than any that dies earlier."""
    world.template(SCRIPTS)
    nth = random.randrange(8)
    print(f"from {nth}")
    for number in range(nth, MANY, 8):
        launch = world.record()
        ended = drivers.drive(**job(world, launch), nth=number)
        if not ended.killed:
            break
        assert drivers.drive(**job(world, launch)).statuses == ["operational"]
        check(world, launch)
    assert ended.statuses == ["operational"]
    assert number > 80
