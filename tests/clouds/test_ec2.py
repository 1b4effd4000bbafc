"""What the contract does not ask of EC2: errors, requests, and answers that are lost."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import botocore.exceptions
import botocore.utils
import pytest
from botocore.stub import ANY, Stubber
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from slipway.clouds import ec2
from slipway.clouds.ec2 import Ec2Region
from slipway.errors import (
    CapacityUnavailable,
    CloudError,
    CloudRefused,
    CloudThrottled,
    CloudUnavailable,
)
from slipway.testing.cloud_contract import CloudCase, refused
from slipway.testing.weather import Bucket, Weather
from tests.clouds.ec2 import REGION, Moto, cloud_at, ec2_case


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


def test_events_come_out_of_a_queue_once(moto: Moto) -> None:
    """What EventBridge has put there is a sign that something happened, and is gone then."""
    queue = moto.client("sqs").create_queue(QueueName=f"events-{uuid.uuid4().hex}")["QueueUrl"]
    cloud = cloud_at(moto.url, regions={REGION: Ec2Region(events_queue=queue)})
    assert cloud.has_events(REGION)
    assert not cloud_at(moto.url).has_events(REGION)
    assert cloud.wait_for_event(REGION, timeout_s=0) is False
    event = {
        "source": "aws.ec2",
        "detail-type": "EC2 Instance State-change Notification",
        "detail": {"instance-id": "i-1", "state": "running"},
    }
    for _ in range(2):
        moto.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(event))
    found = [cloud.wait_for_event(REGION, timeout_s=0) for _ in range(3)]
    assert found[0] is True
    assert found[-1] is False


def test_a_queue_that_is_not_there_is_refused(moto: Moto) -> None:
    """As an error of the cloud."""
    queue = f"{moto.url}/123456789012/nowhere"
    cloud = cloud_at(moto.url, regions={REGION: Ec2Region(events_queue=queue)})
    with refused(CloudRefused, naming="receive_message"):
        cloud.wait_for_event(REGION, timeout_s=0)


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


def stubbed(cloud: ec2.Ec2Cloud, service: str = "ec2") -> Stubber:
    """Answers instead of a cloud, and botocore's check of what is asked and answered."""
    return Stubber(cloud._client(REGION, service))


def test_what_ec2_announces() -> None:
    """Scheduled events that are not over, and spot instances that are taken back."""
    cloud = cloud_at("http://127.0.0.1:9")
    at = datetime(2026, 12, 1, tzinfo=UTC)
    events = [
        {"Code": "instance-retirement", "Description": "old hardware", "NotBefore": at},
        {"Code": "system-reboot", "Description": "[Completed] an update", "NotBefore": at},
    ]
    taken = {
        "InstanceId": "i-2",
        "Status": {"Code": "marked-for-termination", "Message": "wanted back"},
    }
    with stubbed(cloud) as answers:
        answers.add_response(
            "describe_instance_status",
            {"InstanceStatuses": [{"InstanceId": "i-1", "Events": events}]},
            {"Filters": [{"Name": "event.code", "Values": ANY}], "MaxResults": 1000},
        )
        answers.add_response(
            "describe_spot_instance_requests",
            {"SpotInstanceRequests": [taken]},
            {"Filters": [{"Name": "status-code", "Values": ANY}], "MaxResults": 1000},
        )
        [first] = cloud.list_notices(REGION, "scheduled")
        [second] = cloud.list_notices(REGION, "spot")
    assert (first.instance_id, first.code, first.not_before) == ("i-1", "instance-retirement", at)
    assert first.description == "old hardware"
    assert (second.instance_id, second.code) == ("i-2", "spot-interruption")
    assert second.description == "wanted back"


def test_an_image_is_copied_with_its_tags() -> None:
    """CopyImage says what is copied, tags the copy and its snapshots, encrypts them, and carries
    a token."""
    cloud = cloud_at("http://127.0.0.1:9")
    source = ec2.Image(
        id="ami-1",
        name="web",
        state=ec2.ImageState.AVAILABLE,
        region="eu-west-1",
        created_at=datetime.now(UTC),
        description="a web server",
    )
    tags = [{"Key": "colour", "Value": "red"}]
    asked = {
        "SourceImageId": "ami-1",
        "SourceRegion": "eu-west-1",
        "Name": "web-2",
        "Description": "a web server",
        "ClientToken": "t-1",
        "Encrypted": True,
        "TagSpecifications": [
            {"ResourceType": "image", "Tags": tags},
            {"ResourceType": "snapshot", "Tags": tags},
        ],
    }
    with stubbed(cloud) as stub:
        stub.add_response("copy_image", {"ImageId": "ami-2"}, asked)
        made = cloud.copy_image(source, REGION, name="web-2", tags={"colour": "red"}, token="t-1")
    expected = replace(
        source,
        id="ami-2",
        name="web-2",
        region=REGION,
        state=ec2.ImageState.PENDING,
        tags={"colour": "red"},
        created_at=made.created_at,
    )
    assert made == expected


def test_an_image_is_deprecated() -> None:
    """EnableImageDeprecation is given the moment."""
    cloud, at = cloud_at("http://127.0.0.1:9"), datetime(2027, 1, 1, tzinfo=UTC)
    with stubbed(cloud) as stub:
        asked = {"ImageId": "ami-1", "DeprecateAt": at}
        stub.add_response("enable_image_deprecation", {"Return": True}, asked)
        cloud.deprecate_image(REGION, "ami-1", at=at)
        stub.assert_no_pending_responses()


def test_an_image_is_shared(case: CloudCase, moto: Moto) -> None:
    """The accounts may launch from it, and those that might before still may."""
    client = moto.client()
    image = client.register_image(Name=uuid.uuid4().hex, RootDeviceName="/dev/xvda")["ImageId"]
    for accounts in (["111111111111"], ["222222222222", "333333333333"]):
        case.cloud.share_image(case.region, image, accounts=accounts)
    found = client.describe_image_attribute(ImageId=image, Attribute="launchPermission")
    assert {each["UserId"] for each in found["LaunchPermissions"]} == {
        "111111111111",
        "222222222222",
        "333333333333",
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), CloudUnavailable),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), CloudUnavailable),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"), CloudUnavailable),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"), CloudUnavailable),
        (
            botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            CloudUnavailable,
        ),
        (botocore.exceptions.MetadataRetrievalError(error_msg="x"), CloudUnavailable),
        (botocore.exceptions.NoCredentialsError(), CloudRefused),
        (botocore.exceptions.ParamValidationError(report="x"), CloudRefused),
        (botocore.exceptions.ProfileNotFound(profile="x"), CloudRefused),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_exception_becomes_its_error(error: Exception, kind: type[CloudError]) -> None:
    """What never reached EC2 may be tried again; what is wrong with the request or the keys may
    not."""
    found = ec2.translate(error, "do it")
    assert type(found) is kind
    assert str(found).startswith("do it: ")


def test_the_newest_image_of_an_owner_is_taken() -> None:
    """``OWNER/NAME-PATTERN`` asks for available images of that owner and takes the newest."""
    cloud = cloud_at("http://127.0.0.1:9")
    images = [
        {
            "ImageId": f"ami-{day}",
            "Name": f"debian-{day}",
            "CreationDate": f"2026-11-{day}T00:00:00Z",
        }
        for day in ("03", "21", "12")
    ]
    asked = {
        "Owners": ["136693071363"],
        "Filters": [
            {"Name": "name", "Values": ["debian-*"]},
            {"Name": "state", "Values": ["available"]},
        ],
        "MaxResults": ANY,
    }
    with stubbed(cloud) as stub:
        stub.add_response("describe_images", {"Images": images}, asked)
        assert cloud.resolve_image(REGION, "136693071363/debian-*").id == "ami-21"


def test_a_public_parameter_names_an_image() -> None:
    """``ssm:PATH`` asks the parameter store, then for the image that it names."""
    cloud = cloud_at("http://127.0.0.1:9")
    image = {"ImageId": "ami-7", "Name": "al2023", "CreationDate": "2026-11-01T00:00:00Z"}
    with stubbed(cloud, "ssm") as parameters, stubbed(cloud) as images:
        parameters.add_response(
            "get_parameter", {"Parameter": {"Value": "ami-7"}}, {"Name": "/aws/service/al2023"}
        )
        images.add_response("describe_images", {"Images": [image]})
        assert cloud.resolve_image(REGION, "ssm:/aws/service/al2023").name == "al2023"


def test_the_console_of_an_older_instance() -> None:
    """An instance that cannot show the latest of its console shows what was saved."""
    cloud = cloud_at("http://127.0.0.1:9")
    with stubbed(cloud) as stub:
        stub.add_client_error("get_console_output", "UnsupportedOperation")
        stub.add_response("get_console_output", {"Output": "Ym9vdA=="}, {"InstanceId": "i-1"})
        assert cloud.console_output(REGION, "i-1") == "boot"


def test_a_password_can_be_read_with_the_key_of_the_instance() -> None:
    """There is none until Windows has made one up; it comes as its agent has encrypted it."""
    cloud = cloud_at("http://127.0.0.1:9")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    told = base64.encodebytes(key.public_key().encrypt(b"Pa55-word", padding.PKCS1v15())).decode()
    with stubbed(cloud) as stub:
        for data in ("\r\n", told):
            stub.add_response(
                "get_password_data",
                {"InstanceId": "i-1", "PasswordData": data},
                {"InstanceId": "i-1"},
            )
        assert cloud.password_data(REGION, "i-1") == b""
        found = cloud.password_data(REGION, "i-1")
    assert key.decrypt(found, padding.PKCS1v15()) == b"Pa55-word"


class Noting(dict[str, Any]):
    """An instance as botocore tells it, which notes what is read of it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def test_a_listing_is_read_in_part(case: CloudCase, moto: Moto) -> None:
    """What is left unread is nothing we want: the instances are as botocore reads them in full,
    of which more than half are fields that nobody here asks for."""
    first, second = case.create(), case.create()
    moto.client().stop_instances(InstanceIds=[second.id])
    ids = [first.id, second.id]
    reservations = moto.client().describe_instances(InstanceIds=ids)["Reservations"]
    cloud = case.cloud
    assert isinstance(cloud, ec2.Ec2Cloud)
    in_full = [Noting(each) for found in reservations for each in found["Instances"]]
    expected = {each["InstanceId"]: cloud._instance(REGION, each) for each in in_full}
    assert {each.id: each for each in case.listed()} == expected
    assert expected[second.id].state_reason
    assert set().union(*(each.read for each in in_full)) == ec2._FIELDS
    [one, *_] = cloud._items(REGION, "Reservations", "describe_instances")
    assert set(one) == {"Instances"}
    assert set(one["Instances"][0]) <= ec2._FIELDS
    assert len(in_full[0]) > 2 * len(ec2._FIELDS)


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-26T16:40:43.000Z",
        "2026-11-26T16:40:43Z",
        "2026-11-26T18:40:43.5+02:00",
        "2026-11-26T16:40:43",
        "20261126T164043Z",
        1795711243,
        1795711243.25,
    ],
)
def test_times_are_read_as_botocore_reads_them(written: Any) -> None:
    """Quicker where they are written as EC2 writes them."""
    assert ec2._time_from(written) == botocore.utils.parse_timestamp(written)
    assert (
        ec2._time_from(written).utcoffset() == botocore.utils.parse_timestamp(written).utcoffset()
    )
