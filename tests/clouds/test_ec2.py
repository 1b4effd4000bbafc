"""What the contract does not ask of EC2: errors, requests, and answers that are lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import botocore.exceptions
import pytest

from slipway.clouds import ec2
from slipway.errors import CapacityUnavailable, CloudError, CloudThrottled, CloudUnavailable
from slipway.testing.cloud_contract import CloudCase, refused
from slipway.testing.weather import Bucket, Weather
from tests.clouds.ec2 import Moto, ec2_case


@pytest.fixture
def case(moto: Moto, weather: Weather) -> Iterator[CloudCase]:
    with ec2_case(moto, weather) as found:
        yield found


@pytest.mark.parametrize(("code", "kind"), ec2.CODES.items())
def test_each_code_becomes_its_error(code: str, kind: type[Exception]) -> None:
    """Every error code of the table becomes the error beside it, which names code and call."""
    answer = {"Error": {"Code": code, "Message": "why"}}
    found = ec2.translate(botocore.exceptions.ClientError(answer, "Do"), "do it")
    assert type(found) is kind
    assert str(found) == f"do it: {code}: why"


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (403, False), (500, True)])
def test_unknown_codes_go_by_their_status(status: int, retryable: bool) -> None:
    """An error code nobody foresaw may be tried again when EC2 itself failed, and else not."""
    answer = {"Error": {"Code": "New"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found = ec2.translate(botocore.exceptions.ClientError(answer, "Do"), "do it")
    assert isinstance(found, CloudError)
    assert found.retryable is retryable


def test_the_request_asks_for_what_must_not_be_forgotten(case: CloudCase, weather: Weather) -> None:
    """RunInstances carries the token, tags for instance and volume, IMDSv2 and encryption."""
    token = uuid.uuid4().hex
    case.create(token=token)
    [asked] = [each.parameters for each in weather.asked if each.action == "RunInstances"]
    assert asked["ClientToken"] == token
    assert asked["MetadataOptions.HttpTokens"] == "required"
    assert asked["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    kinds = {asked[f"TagSpecification.{number}.ResourceType"] for number in (1, 2)}
    assert kinds == {"instance", "volume"}


def test_a_lost_reply_makes_no_second_instance(case: CloudCase, weather: Weather) -> None:
    """A create whose answer is lost after it happened gives the same instance when repeated."""
    token, spec = uuid.uuid4().hex, case.spec()
    weather.lose_reply("RunInstances")
    with refused(CloudUnavailable):
        case.create(spec, token=token)
    [made] = case.listed()
    assert case.create(spec, token=token).id == made.id
    assert len(case.listed()) == 1


def test_a_reset_before_the_commit_makes_nothing(case: CloudCase, weather: Weather) -> None:
    """A create that never arrived has made nothing, and one instance when repeated."""
    token, spec = uuid.uuid4().hex, case.spec()
    weather.reset("RunInstances")
    with refused(CloudUnavailable):
        case.create(spec, token=token)
    assert case.listed() == []
    case.create(spec, token=token)
    assert len(case.listed()) == 1


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InsufficientInstanceCapacity", 500, CapacityUnavailable),
        ("RequestLimitExceeded", 503, CloudThrottled),
        ("InternalError", 500, CloudUnavailable),
    ],
)
def test_refused_creates_make_nothing(
    case: CloudCase, weather: Weather, code: str, status: int, kind: type[CloudError]
) -> None:
    """A create that EC2 could not serve is a retryable error and leaves nothing behind."""
    weather.fail("RunInstances", code, status=status)
    with refused(kind, naming=code):
        case.create()
    assert case.listed() == []


def test_an_empty_bucket_throttles(case: CloudCase, weather: Weather) -> None:
    """Listings beyond the bucket of their family are throttled."""
    weather.buckets["describe"] = Bucket(size=1, per_s=0)
    case.listed()
    with refused(CloudThrottled):
        case.listed()
    weather.buckets.clear()


def test_new_instances_are_unlisted_for_a_while(case: CloudCase, weather: Weather) -> None:
    """Within the window a new instance is not listed, and is listed after it."""
    weather.unlisted_s = 3600
    made = case.create()
    assert case.listed() == []
    weather.unlisted_s = 0
    assert [each.id for each in case.listed()] == [made.id]


def test_an_image_takes_its_snapshots_with_it(case: CloudCase, moto: Moto) -> None:
    """Deleting an image leaves no storage behind that goes on costing."""
    instance = case.running()
    made = case.cloud.create_image(case.region, instance.id, name="to-go", tags=case.tags)
    client = moto.client()
    [image] = client.describe_images(ImageIds=[made.id])["Images"]
    snapshots = {each["Ebs"]["SnapshotId"] for each in image["BlockDeviceMappings"]}
    assert snapshots
    case.cloud.delete_image(case.region, made.id)
    left = client.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    assert not snapshots & {each["SnapshotId"] for each in left}
