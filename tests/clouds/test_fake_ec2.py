"""The fast stand-in of EC2 is as strict as EC2, and the adapter gets on with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from slipway.clouds.base import InstanceSpec, InstanceState
from slipway.errors import CloudRefused, CloudThrottled, InstanceNotFound
from slipway.testing.fake_clock import FakeClock
from slipway.testing.fake_ec2 import IMAGE_ID, FakeEc2
from slipway.testing.query_api import Bucket
from tests.clouds.ec2 import KEYS, REGION, cloud_at

SPEC = InstanceSpec(
    name="web-1",
    region=REGION,
    image_id=IMAGE_ID,
    instance_type="t3.small",
    ssh_public_key="ssh-ed25519 AAAA",
    login_user="admin",
    tags={"ours": "yes"},
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ec2(clock: FakeClock) -> Iterator[FakeEc2]:
    with FakeEc2(clock=clock, boot_s=lambda: 30.0) as found:
        yield found


@pytest.fixture
def client(ec2: FakeEc2) -> Any:
    return boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=ec2.url,
        aws_access_key_id=KEYS.access_key_id,
        aws_secret_access_key=KEYS.secret_access_key.get_secret_value(),
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_an_instance_from_its_beginning_to_its_end(ec2: FakeEc2, clock: FakeClock) -> None:
    """Created once per token, pending for a while, running with an address, stopped, terminated."""
    cloud = cloud_at(ec2.url)
    made = cloud.create_instance(SPEC, token="one")
    assert cloud.create_instance(SPEC, token="one").id == made.id
    assert (made.state, made.tags, made.token) == (InstanceState.PENDING, {"ours": "yes"}, "one")

    def listed() -> Any:
        [found] = cloud.list_instances(REGION, tags={"ours": "yes"})
        return found

    clock.advance(29)
    assert listed().state is InstanceState.PENDING
    clock.advance(1)
    assert listed().state is InstanceState.RUNNING
    assert listed().address is not None
    for change, state in ((cloud.stop, InstanceState.STOPPED), (cloud.terminate, "terminated")):
        change(REGION, made.id)
        assert listed().state == state
    assert cloud.list_instances(REGION, tags={"ours": "no"}) == []


def test_a_token_is_for_one_set_of_parameters(ec2: FakeEc2) -> None:
    """As EC2 says."""
    cloud = cloud_at(ec2.url)
    cloud.create_instance(SPEC, token="one")
    other = InstanceSpec(**{**SPEC.__dict__, "instance_type": "t3.large"})
    with pytest.raises(CloudRefused, match="IdempotentParameterMismatch"):
        cloud.create_instance(other, token="one")


def test_listings_come_in_pages(ec2: FakeEc2) -> None:
    """Of a thousand at most; nothing is missing and nothing comes twice."""
    made = ec2.add(2300, region=REGION, tags={"ours": "yes"})
    ec2.add(5, region="elsewhere", tags={"ours": "yes"})
    found = cloud_at(ec2.url).list_instances(REGION, tags={"ours": "yes"})
    assert [each.id for each in found] == [each.id for each in made]
    assert ec2.count("DescribeInstances") == 3


def test_it_is_as_strict_as_ec2(ec2: FakeEc2, client: Any) -> None:
    """Ids and paging exclude each other, one unknown id fails the whole call, pages have a size."""
    [known] = ec2.add(1, region=REGION, tags={})
    for request, code in (
        ({"InstanceIds": [known.id], "MaxResults": 5}, "InvalidParameterCombination"),
        ({"InstanceIds": [known.id, "i-unknown"]}, "InvalidInstanceID.NotFound"),
        ({"MaxResults": 4}, "InvalidParameterValue"),
        ({"NextToken": "made up"}, "InvalidNextToken"),
    ):
        with pytest.raises(ClientError) as refused:
            client.describe_instances(**request)
        assert refused.value.response["Error"]["Code"] == code
    with pytest.raises(InstanceNotFound):
        cloud_at(ec2.url).stop(REGION, "i-unknown")


def test_it_throttles(ec2: FakeEc2, clock: FakeClock) -> None:
    """By family, and lets calls pass again with time."""
    ec2.buckets["describe"] = Bucket(size=2, per_s=1)
    cloud = cloud_at(ec2.url)
    for _ in range(2):
        cloud.list_instances(REGION, tags={})
    with pytest.raises(CloudThrottled):
        cloud.list_instances(REGION, tags={})
    assert ec2.throttled == 1
    cloud.terminate(REGION, ec2.add(1, region=REGION, tags={})[0].id)
    clock.advance(1)
    cloud.list_instances(REGION, tags={})


def test_others_may_change_an_instance(ec2: FakeEc2, client: Any) -> None:
    """Its state, with a reason, and its tags."""
    [made] = ec2.add(1, region=REGION, tags={"ours": "yes"})
    ec2.change(made.id, "stopped", reason="Server.SpotInstanceTermination")
    client.create_tags(Resources=[made.id], Tags=[{"Key": "team", "Value": "a"}])
    [found] = cloud_at(ec2.url).list_instances(REGION, tags={"team": "a"})
    assert (found.state, found.state_reason) == ("stopped", "Server.SpotInstanceTermination")
    assert found.tags == {"ours": "yes", "team": "a"}
