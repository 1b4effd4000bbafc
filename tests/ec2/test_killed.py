"""Drivers that die while an instance is created, in bad weather: one instance each, always."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from slipway.clouds.base import TAG_LAUNCH
from slipway.launches.services import build_services
from slipway.launches.sweeping import look, sweep
from slipway.records import Launch
from slipway.testing.fake_clock import FakeClock
from slipway.testing.weather import Weather
from tests.clouds.ec2 import Moto
from tests.launches.killing import Drivers
from tests.launches.world import World

#: More points at which a driver may die than there are in this step.
MANY = 40


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    """The process that drivers are forked from."""
    with Drivers(tmp_path_factory.mktemp("drivers") / "drivers.log") as found:
        yield found


@pytest.fixture
def machines() -> None:
    """None: what boots is not looked at here."""


def instances(moto: Moto, launches: Sequence[Launch]) -> Counter[str]:
    """How many instances the account holds for each launch, whatever their state."""
    pages = moto.client().get_paginator("describe_instances").paginate()
    tags = [
        {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}
        for page in pages
        for reservation in page["Reservations"]
        for found in reservation["Instances"]
    ]
    wanted = {launch.id for launch in launches}
    return Counter(found[TAG_LAUNCH] for found in tags if found.get(TAG_LAUNCH) in wanted)


def job(world: World, *launches: Launch) -> dict[str, object]:
    return {
        "settings": world.services.settings.model_dump(mode="json"),
        "cloud": str(world.cloud.directory.parent),
        "launches": [launch.id for launch in launches],
        "only": "create",
    }


@pytest.mark.parametrize(
    ("lost", "spot", "lacks"),
    [
        ("no reply", "never", []),
        ("lost before", "never", []),
        ("lost after", "never", []),
        ("no room", "preferred", []),
        ("lost after", "never", ["client_tokens"]),
    ],
    ids=["no reply", "lost before", "lost after", "no room", "lost after, without tokens"],
)
def test_killed_at_every_boundary(
    ec2_world: World,
    drivers: Drivers,
    weather: Weather,
    moto: Moto,
    lost: str,
    lacks: list[str],
) -> None:
    """A launch whose drivers die at each commit and each call of this step in turn, with a
    RunInstances that never arrived, whose reply was lost, or that found no room for spot
    instances besides, has one instance; also where there are no client tokens, and new instances
    are not listed at once."""
    ec2_world.template()
    launch = ec2_world.record(cloud="aws")
    if lost == "lost before":
        weather.reset("RunInstances")
    elif lost == "lost after":
        weather.lose_reply("RunInstances")
    elif lost == "no room":
        weather.fail("RunInstances", "InsufficientInstanceCapacity", status=500, times=3)
    seen: list[str] = []
    for _ in range(MANY):
        ended = drivers.drive(**job(ec2_world, launch), seen=seen)
        if not ended.killed:
            break
        seen.append(ended.point)
    assert ended.statuses == ["provisioning"]
    places = {"before cloud create_instance", "after cloud create_instance", "before commit"}
    if lacks:
        # It is not asked for again, but found.
        places.remove("after cloud create_instance")
    for place in places:
        assert any(point.startswith(place) for point in seen)
    assert instances(moto, [launch]) == {launch.id: 1}
    assert ec2_world.now(launch).instance_id is not None
    ec2_world.verify(launch)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_a_hundred_times_at_any_instant(
    ec2_world: World, drivers: Drivers, weather: Weather, moto: Moto
) -> None:
    """A hundred drivers, each killed at some instant of creating, half of them with a reply lost
    before or after the commit: each launch has one instance."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ec2_world.template()
    all_launches: list[Launch] = []
    kills = 0
    while kills < 100:
        launches = [ec2_world.record(cloud="aws") for _ in range(4)]
        all_launches += launches
        while True:
            after = {"after_s": dice.uniform(0.02, 0.4)} if kills < 100 else {}
            trouble = dice.choice([weather.reset, weather.lose_reply, None, None])
            if trouble is not None:
                trouble("RunInstances")
            if not drivers.drive(**job(ec2_world, *launches), **after).killed:
                break
            kills += 1
    assert instances(moto, all_launches) == {launch.id: 1 for launch in all_launches}
    for launch in all_launches:
        ec2_world.verify(launch)


def backup_of(world: World, path: Path) -> str:
    """The URL of a copy of the database as it is now."""
    url = world.services.settings.database_url
    assert url is not None
    with (
        contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as records,
        contextlib.closing(sqlite3.connect(path)) as copy,
    ):
        records.backup(copy)
    return f"sqlite:///{path}"


def test_a_sweep_removes_what_a_killed_run_left(
    ec2_world: World, drivers: Drivers, weather: Weather, moto: Moto, tmp_path: Path
) -> None:
    """A driver was killed before it could note its instance, and a backup from before that launch
    was restored: a sweep finds the instance nobody knows, once it has expired, and leaves the one
    of a launch that is under way."""
    ec2_world.template()
    known = ec2_world.record(cloud="aws")
    assert not drivers.drive(**job(ec2_world, known)).killed
    url = backup_of(ec2_world, tmp_path / "backup.db")
    lost = ec2_world.record(cloud="aws")
    seen: list[str] = []
    while not (seen and seen[-1].startswith("after cloud create_instance")):
        ended = drivers.drive(**job(ec2_world, lost), seen=seen)
        assert ended.killed
        seen.append(ended.point)
    assert instances(moto, [lost, known]) == {lost.id: 1, known.id: 1}
    settings = ec2_world.services.settings.model_copy(update={"database_url": url})
    restored = build_services(settings)
    clock = FakeClock(restored.clock.now())
    restored = dataclasses.replace(restored, clock=clock)
    try:
        assert look(restored).leftovers == ()
        clock.advance((lost.expires_at - clock.now() + timedelta(minutes=1)).total_seconds())
        found = look(restored)
        left = [each for each in found.leftovers if each.thing.kind == "instance"]
        assert [each.thing.tags[TAG_LAUNCH] for each in left] == [lost.id]
        swept = sweep(restored, found, actor="tests", because="asked")
        assert {each.outcome for each in swept.removals} == {"removed"}
        assert look(restored).leftovers == ()
    finally:
        restored.database.close()
    states = {
        tag["Value"]: each["State"]["Name"]
        for page in moto.client().get_paginator("describe_instances").paginate()
        for reservation in page["Reservations"]
        for each in reservation["Instances"]
        for tag in each.get("Tags", ())
        if tag["Key"] == TAG_LAUNCH
    }
    assert states[known.id] == "running"
    assert states[lost.id] in ("shutting-down", "terminated")
