"""Launches in EC2: the flows unchanged, moto behind bad weather, machines that really boot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flows.decommission_server import decommission_server
from slipway.clouds.base import TAG_EXPIRES, TAG_INSTALLATION, TAG_LAUNCH, InstanceState
from slipway.launches.creating import instances_of
from slipway.records import LaunchStatus
from slipway.testing.weather import Weather
from tests.launches.world import World, counted


def test_a_launch_from_run_instances_to_operational(ec2_world: World, weather: Weather) -> None:
    """One instance, found by tag, waited for, logged in to, its scripts run once; and its end."""
    ec2_world.template({"one": counted("one", "echo hello")})
    launch, outcome = ec2_world.launch(cloud="aws")
    assert outcome.status == LaunchStatus.OPERATIONAL
    assert launch.instance_id is not None
    assert launch.instance_id.startswith("i-")
    assert weather.count("RunInstances") == 1
    [instance] = instances_of(ec2_world.services, launch)
    assert instance.id == launch.instance_id
    assert instance.tags[TAG_LAUNCH] == launch.id
    assert instance.tags[TAG_INSTALLATION] == ec2_world.services.installation_id
    assert TAG_EXPIRES in instance.tags
    assert b"hello" in b"".join(ec2_world.outputs_on_record(launch).values())
    ec2_world.verify(launch)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda w: w.fail("RunInstances", "InsufficientInstanceCapacity", status=500)),
        pytest.param(lambda w: w.fail("RunInstances", "InternalError", status=500)),
        pytest.param(lambda w: w.fail("DescribeInstances", "RequestLimitExceeded", status=503)),
        pytest.param(lambda w: w.lose_reply("RunInstances")),
        pytest.param(lambda w: w.reset("RunInstances")),
    ],
    ids=["no room", "an error of EC2's", "a throttled listing", "a lost reply", "a lost request"],
)
def test_bad_weather_strands_nothing(
    ec2_world: World, weather: Weather, trouble: Callable[[Weather], None]
) -> None:
    """Whatever comes right by itself is waited out, and there is one instance."""
    ec2_world.template()
    launch = ec2_world.record(cloud="aws")
    trouble(weather)
    [outcome] = ec2_world.drive(launch)
    assert outcome.status == LaunchStatus.OPERATIONAL, outcome.reason
    assert len(instances_of(ec2_world.services, launch)) == 1


def asked_markets(weather: Weather) -> list[tuple[str | None, str]]:
    """The market and the token of every RunInstances."""
    return [
        (each.parameters.get("InstanceMarketOptions.MarketType"), each.parameters["ClientToken"])
        for each in weather.asked
        if each.action == "RunInstances"
    ]


@pytest.mark.parametrize("spot", ["preferred"])
def test_without_room_for_spot_it_is_made_on_demand(ec2_world: World, weather: Weather) -> None:
    """The decision is on record before it is acted on, and has a token of its own."""
    ec2_world.template()
    launch = ec2_world.record(cloud="aws")
    # botocore's own tries included.
    weather.fail("RunInstances", "InsufficientInstanceCapacity", status=500, times=3)
    # The first try on demand is lost: the second one is the same.
    weather.reset("RunInstances")
    [outcome] = ec2_world.drive(launch)
    assert outcome.status == LaunchStatus.OPERATIONAL, outcome.reason
    *spot, first, second = asked_markets(weather)
    assert len(set(spot)) == 1
    assert spot[0][0] == "spot"
    assert first == second == (None, first[1])
    assert first[1] != spot[0][1]
    assert len(instances_of(ec2_world.services, launch)) == 1
    assert any("made on demand" in each for each in ec2_world.summaries(launch))


@pytest.mark.parametrize("spot", ["only"])
def test_spot_only_waits_for_room(ec2_world: World, weather: Weather) -> None:
    """Without leave to make it on demand, the spot market is asked again."""
    ec2_world.template()
    launch = ec2_world.record(cloud="aws")
    weather.fail("RunInstances", "InsufficientInstanceCapacity", status=500)
    [outcome] = ec2_world.drive(launch)
    assert outcome.status == LaunchStatus.OPERATIONAL, outcome.reason
    assert {market for market, _ in asked_markets(weather)} == {"spot"}


def test_no_for_an_answer_strands_with_the_reason(ec2_world: World, weather: Weather) -> None:
    """What EC2 refuses is not asked again, and the record says what it said."""
    ec2_world.template()
    launch = ec2_world.record(cloud="aws")
    weather.fail("RunInstances", "UnauthorizedOperation", status=403)
    [outcome] = ec2_world.drive(launch)
    assert outcome.status == LaunchStatus.STRANDED
    assert "aws run_instances in eu-central-1: UnauthorizedOperation" in outcome.reason
    assert weather.count("RunInstances") == 1


def test_a_server_is_taken_down(ec2_world: World) -> None:
    """Decommissioning runs its scripts and terminates the instance, which EC2 goes on listing."""
    ec2_world.template(decommission={"bye": counted("bye")})
    launch, _ = ec2_world.launch(cloud="aws")
    ec2_world.run(decommission_server.fn(launch.server_name))
    assert ec2_world.now(launch).status == LaunchStatus.TERMINATED
    [instance] = instances_of(ec2_world.services, launch)
    assert instance.state is InstanceState.TERMINATED
