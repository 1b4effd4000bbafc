"""The clouds file, the keys it names, the policy an account needs, and the block."""

from __future__ import annotations

import ast
import inspect
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore import xform_name
from pydantic import SecretStr, ValidationError

from blocks import Ec2CloudBlock
from slipway.clouds import ec2
from slipway.clouds.base import TAG_INSTALLATION, InstanceSpec
from slipway.clouds.ec2_policy import policy
from slipway.errors import CloudRefused, CloudUnavailable, InvalidInput, NotFound
from slipway.launches.cloud_file import read_clouds
from slipway.launches.services import build_services
from slipway.settings import Settings
from slipway.testing.weather import Weather
from tests.clouds.ec2 import KEYS, REGION, Moto
from tests.ec2.conftest import PARAMETER

QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/slipway-events"
ROLE = "arn:aws:iam::123456789012:role/launcher"

WRONG = """\
schema: slipway-clouds/1
clouds:
  aws:
    type: ec3
    regins: {}
    keys: {access_key_id: AK, secret_access_key: hunter2}
  two:
    type: ec2
    regions: {eu-central-1: {}}
    keys: {access_key_id: AK, secret_access_key: cred:aws}
    profile: x
  Big:
    type: ec2
    regions: {eu-central-1: {}}
  local:
    type: ec2
    regions: {eu-central-1: {}}
    lacks: [client_token]
  told:
    type: ec2
    regions: {eu-central-1: {events_queue: slipway-events}}
    calls: {buckets: {describes: {at_once: 50, per_s: 10}}}
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_all_problems_of_the_file_come_at_once(tmp_path: Path) -> None:
    """Each with its line, what was found and what would be right; no secret is repeated."""
    with pytest.raises(InvalidInput) as refused:
        read_clouds(written(tmp_path / "clouds.yaml", WRONG))
    said = str(refused.value)
    for part in (
        "clouds.yaml:4: clouds.aws.type: 'ec3' is not a type of cloud; did you mean 'ec2'?",
        "clouds.yaml:3: clouds.aws.regions: 'regions' is missing here",
        "clouds.yaml:5: clouds.aws.regins: 'regins' is not a field here; did you mean 'regions'?",
        "clouds.yaml:6: clouds.aws.keys.secret_access_key: this has to name a credential, cred:N",
        "clouds.yaml:7: clouds.two: 'keys' and 'profile' both say who we are; keep one of them",
        "clouds.yaml:12: clouds.Big",
        "clouds.yaml:18: clouds.local.lacks[0]: 'client_token' is not a capability; did you mean",
        "clouds.yaml:21: clouds.told.regions.eu-central-1.events_queue: a queue is named by",
        "clouds.yaml:22: clouds.told.calls.buckets.describes",
        "clouds.yaml:15: clouds.local: this name is that of the local cloud",
    ):
        assert part in said, said
    assert "hunter2" not in said


@pytest.mark.parametrize("text", [None, "clouds: [", ""])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str | None) -> None:
    """Missing, not YAML, or empty: one sentence that names it."""
    path = tmp_path / "clouds.yaml"
    if text is not None:
        written(path, text)
    with pytest.raises(InvalidInput, match=r"clouds\.yaml"):
        build_services(Settings(state_dir=tmp_path / "state", clouds_file=path))


def test_the_file_in_the_documentation_is_read(tmp_path: Path) -> None:
    """docs/ec2.md shows files that work as they stand."""
    read = [read_clouds(written(tmp_path / "clouds.yaml", text)) for text in files_in_the_docs()]
    assert [list(each) for each in read] == [["aws"], ["private"]]


def files_in_the_docs() -> list[str]:
    page = (Path(__file__).parents[2] / "docs/ec2.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


def services_with(tmp_path: Path, weather: Weather, **entry: Any) -> Any:
    given = {"type": "ec2", "regions": {REGION: {}}, "endpoint_url": weather.url, **entry}
    path = tmp_path / "clouds.yaml"
    path.write_text(json.dumps({"schema": "slipway-clouds/1", "clouds": {"aws": given}}))
    return build_services(Settings(state_dir=tmp_path / "state", clouds_file=path))


def test_keys_come_from_the_vault_when_they_are_needed(tmp_path: Path, weather: Weather) -> None:
    """A credential that is missing is named, and used from the moment it is there."""
    keys = {"access_key_id": KEYS.access_key_id, "secret_access_key": "cred:aws-key"}
    services = services_with(tmp_path, weather, keys=keys)
    cloud = services.clouds["aws"]
    with pytest.raises(NotFound, match="cloud aws: there is no credential aws-key: store it with"):
        cloud.list_instances(REGION, tags={})
    services.vault.put("aws-key", SecretStr("s3cret"))
    assert cloud.list_instances(REGION, tags={TAG_INSTALLATION: "none"}) == []
    services.database.close()


def test_another_cloud_is_asked_for_nothing_it_lacks(tmp_path: Path, weather: Weather) -> None:
    """The documentation's file for Eucalyptus: no client token of ours, no IMDSv2, no encryption,
    no type of disk, no question that is Amazon's alone."""
    entry = yaml.safe_load(files_in_the_docs()[1])["clouds"]["private"]
    given = {**entry, "endpoint_url": weather.url, "regions": {REGION: {}}}
    services = services_with(tmp_path, weather, **given)
    services.vault.put("private", KEYS.secret_access_key)
    cloud = services.clouds["aws"]
    image = cloud.resolve_image(REGION, f"ssm:{PARAMETER}").id
    spec = InstanceSpec(
        name="web",
        region=REGION,
        image_id=image,
        instance_type="m1.small",
        ssh_public_key=services.ssh_public_key,
        login_user="admin",
    )
    assert cloud.instance_types(REGION) == ()
    assert cloud.notice_kinds == ()
    weather.fail("RunInstances", "Refused")
    with pytest.raises(CloudRefused, match="Refused"):
        cloud.create_instance(spec, token="t-1")
    asked = {each.action: each.parameters for each in weather.asked}
    assert "DescribeInstanceTypeOfferings" not in asked
    words = "MetadataOptions|Encrypted|VolumeType"
    assert not [name for name in asked["RunInstances"] if re.search(words, name)]
    # botocore makes one up where none is given.
    assert asked["RunInstances"]["ClientToken"] != "t-1"
    assert asked["RunInstances"]["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    # The reply to that one is lost: it is for us to look before another is made, not for botocore.
    weather.lose_reply("RunInstances")
    with pytest.raises(CloudUnavailable):
        cloud.create_instance(spec, token="t-1")
    assert weather.count("RunInstances") == 2
    services.database.close()


def test_a_role_is_assumed(tmp_path: Path, weather: Weather) -> None:
    """With the keys given, and what its trust policy asks for; calls are then made as the role."""
    keys = {"access_key_id": KEYS.access_key_id, "secret_access_key": "cred:aws"}
    services = services_with(tmp_path, weather, keys=keys, role_arn=ROLE, external_id="x-1")
    services.vault.put("aws", KEYS.secret_access_key)
    services.clouds["aws"].list_instances(REGION, tags={TAG_INSTALLATION: "none"})
    asked = {each.action: each for each in weather.asked}
    assert asked["AssumeRole"].parameters["RoleArn"] == ROLE
    assert asked["AssumeRole"].parameters["ExternalId"] == "x-1"
    assert asked["AssumeRole"].access_key == KEYS.access_key_id
    assert asked["DescribeInstances"].access_key != KEYS.access_key_id
    services.database.close()


def calls_of_the_adapter() -> set[str]:
    """Every EC2, SSM and SQS operation that the adapter's source names, as IAM writes it."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(ec2))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("_call", "_items")
        ):
            operation = node.args[2 if node.func.attr == "_items" else 1]
            assert isinstance(operation, ast.Constant), "a name that can be read here"
            names.add(operation.value)
    session = botocore.session.get_session()
    found = set()
    for service in ("ec2", "ssm", "sqs"):
        model = session.get_service_model(service)
        known = {xform_name(name): name for name in model.operation_names}
        found |= {f"{service}:{known[name]}" for name in names if name in known}
    assert len(found) == len(names)
    return found


def test_the_policy_allows_what_the_adapter_calls_and_nothing_else() -> None:
    """Each call has its action; besides them only what AWS asks for on their behalf."""
    document = policy("slipway-1", regions=[REGION], instance_profile="web", queues=[QUEUE])
    allowed = {action for each in document["Statement"] for action in each["Action"]}
    assert allowed == calls_of_the_adapter() | {"ec2:CreateTags", "iam:PassRole"}
    assert not any("*" in action for action in allowed)


def test_events_are_taken_from_the_named_queue_alone() -> None:
    """By its ARN; without a queue nothing of SQS is allowed."""
    document = policy("slipway-1", regions=[REGION], queues=[QUEUE])
    [hearing] = [each for each in document["Statement"] if each["Sid"] == "HearEvents"]
    assert hearing["Resource"] == ["arn:aws:sqs:eu-central-1:123456789012:slipway-events"]
    assert "sqs:" not in json.dumps(policy("slipway-1", regions=[REGION]))


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("ec2:TerminateInstances", "arn:aws:ec2:eu-central-1:1:instance/i-1"),
        ("ec2:DeregisterImage", "arn:aws:ec2:eu-central-1::image/ami-1"),
        ("ec2:DeleteSnapshot", "arn:aws:ec2:eu-central-1::snapshot/snap-1"),
    ],
)
def test_what_is_not_ours_cannot_be_changed(action: str, resource: str) -> None:
    """Whatever allows it asks for our tag on the thing."""
    document = policy("slipway-1", regions=[REGION])
    statements = [
        each
        for each in document["Statement"]
        if action in each["Action"] and any(fnmatch(resource, one) for one in each["Resource"])
    ]
    assert statements
    for each in statements:
        wanted = each["Condition"]["StringEquals"]
        assert wanted[f"aws:ResourceTag/{TAG_INSTALLATION}"] == "slipway-1"


def test_the_block_speaks_to_its_account(weather: Weather, moto: Moto) -> None:
    """With the keys in it; half a key is refused."""
    del moto
    made = Ec2CloudBlock(
        regions=[REGION],
        access_key_id=KEYS.access_key_id,
        secret_access_key=KEYS.secret_access_key,
        endpoint_url=weather.url,
    )
    assert made.get_client().list_instances(REGION, tags={TAG_INSTALLATION: "none"}) == []
    assert weather.asked[-1].access_key == KEYS.access_key_id
    with pytest.raises(ValidationError, match="two halves"):
        Ec2CloudBlock(regions=[REGION], access_key_id="AK")
