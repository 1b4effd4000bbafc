"""A sweep in an account of EC2: what a killed run left goes, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipway.clouds.base import TAG_EXPIRES, TAG_INSTALLATION, ResourceKind
from slipway.launches.creating import instance_spec, instances_of
from slipway.launches.sweeping import look, sweep
from slipway.testing.weather import Weather
from tests.clouds.ec2 import REGION, Moto
from tests.launches.world import World

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")


@pytest.fixture
def machines() -> None:
    """None: nothing has to boot."""


def tags(kind: str, owner: str) -> list[dict[str, Any]]:
    found = {TAG_INSTALLATION: owner, TAG_EXPIRES: YESTERDAY}
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in found.items()]}]


def leave(client: Any, owner: str) -> set[str]:
    """One of each, tagged as somebody's and expired."""
    zone = client.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    volume = client.create_volume(
        AvailabilityZone=zone, Size=1, TagSpecifications=tags("volume", owner)
    )["VolumeId"]
    snapshot = client.create_snapshot(VolumeId=volume, TagSpecifications=tags("snapshot", owner))
    client.create_key_pair(KeyName=f"key-{owner}", TagSpecifications=tags("key-pair", owner))
    group = client.create_security_group(
        GroupName=f"group-{owner}",
        Description="left",
        TagSpecifications=tags("security-group", owner),
    )
    return {volume, snapshot["SnapshotId"], f"key-{owner}", group["GroupId"]}


def test_what_was_left_goes_and_nothing_else(
    ec2_world: World, moto: Moto, weather: Weather
) -> None:
    """Volumes, snapshots, key pairs and groups of ours that expired; not those of another
    installation, and not those that something uses."""
    client, cloud = moto.client(), ec2_world.services.clouds["aws"]
    ours = ec2_world.services.installation_id
    left = leave(client, ours)
    foreign = leave(client, f"not-{ours}")
    found = look(ec2_world.services)
    assert found.problems == ()
    assert {each.thing.id for each in found.leftovers} == left
    assert {each.thing.kind for each in found.leftovers} == set(ResourceKind)
    swept = sweep(ec2_world.services, found, actor="tests", because="asked")
    assert swept.count("removed") == len(left)
    assert look(ec2_world.services).leftovers == ()
    theirs = {
        each.id
        for kind in ResourceKind
        for each in cloud.list_resources(
            REGION, kind, tags={TAG_INSTALLATION: f"not-{ours}", TAG_EXPIRES: YESTERDAY}
        )
    }
    assert theirs == foreign
    for each in found.leftovers:
        cloud.delete_resource(REGION, ResourceKind(each.thing.kind), each.thing.id)
    for kind in ResourceKind:
        for each in cloud.list_resources(REGION, kind, tags={TAG_INSTALLATION: f"not-{ours}"}):
            cloud.delete_resource(REGION, kind, each.id)


def test_a_key_pair_that_was_removed_is_brought_again(
    ec2_world: World, moto: Moto, weather: Weather
) -> None:
    """A process that has brought it before, and does not know that it is gone, still launches."""
    ec2_world.template()
    services, cloud = ec2_world.services, ec2_world.services.clouds["aws"]
    first, second = ec2_world.record(cloud="aws"), ec2_world.record(cloud="aws")
    cloud.create_instance(instance_spec(services, first), token=first.id)
    for key in moto.client().describe_key_pairs()["KeyPairs"]:
        moto.client().delete_key_pair(KeyName=key["KeyName"])
    # moto would not mind.
    weather.fail("RunInstances", "InvalidKeyPair.NotFound")
    cloud.create_instance(instance_spec(services, second), token=second.id)
    for launch in (first, second):
        assert len(instances_of(services, launch)) == 1
    assert weather.count("ImportKeyPair") == 2
