"""The clouds file: where servers can be launched besides this computer.

``SLIPWAY_CLOUDS_FILE`` names it; what is in it is told in ``docs/ec2.md`` and in its JSON Schema.
It holds no secrets: keys are credentials of the vault, named as ``cred:NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from slipway.clock import Clock
from slipway.clouds.base import Capabilities, Cloud
from slipway.clouds.ec2_policy import queue_arn
from slipway.database import Database
from slipway.errors import InvalidInput, NotFound, Problem, SlipwayError
from slipway.servertemplates.document import check_model
from slipway.servertemplates.yaml_source import load
from slipway.vault import REFERENCE, Vault

if TYPE_CHECKING:
    from slipway.clouds.ec2 import Ec2Credentials

#: The cloud that is always there, and so no name for another.
LOCAL = "local"

Text = Annotated[str, StringConstraints(min_length=1)]


def _named(value: str) -> str:
    """Whatever else stands there may be the secret itself: it is not shown."""
    if not value.startswith(REFERENCE) or value == REFERENCE:
        raise ValueError(
            "this has to name a credential, cred:NAME; store the secret with 'slipway credential "
            "set NAME'"
        )
    return value


Secret = Annotated[str, AfterValidator(_named)]


def _queue(value: str) -> str:
    if queue_arn(value) is None:
        raise ValueError("a queue is named by its URL, https://HOST/ACCOUNT/NAME")
    return value


QueueUrl = Annotated[str, AfterValidator(_queue)]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Keys(_Written):
    """An access key of an AWS account, or of a cloud that speaks its API."""

    access_key_id: Text = Field(description="Public half, such as AKIAIOSFODNN7EXAMPLE.")
    secret_access_key: Secret = Field(
        title="credential", description="Where the secret half is kept: cred:NAME."
    )
    session_token: Secret | None = Field(
        default=None, title="credential", description="Of temporary keys: cred:NAME."
    )


class Ec2RegionEntry(_Written):
    """Where in a region instances are put; what is left out is the account's default."""

    subnet: Text | None = Field(default=None, description="subnet-…")
    security_groups: tuple[Text, ...] = Field(default=(), description="sg-…")
    events_queue: QueueUrl | None = Field(
        default=None,
        title="queue",
        description="https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, where EventBridge puts what "
        "happens to instances.",
    )


class BucketEntry(_Written):
    """A token bucket."""

    at_once: float = Field(ge=1, description="Calls that may be made at once.")
    per_s: float = Field(gt=0, description="Calls that come back every second.")


Family = Literal[
    "describe", "mutate", "RunInstances", "StartInstances", "StopInstances", "TerminateInstances"
]


class Calls(_Written):
    """How many calls the account may make: all processes share what is left."""

    account: Text | None = Field(
        default=None,
        description="Clouds that name the same account share its calls; the cloud's name by "
        "default.",
    )
    buckets: dict[Family, BucketEntry] = Field(
        default={},
        title="family of calls",
        description="By family of calls; those that are left out are Amazon's, or not counted.",
    )


class Ec2Entry(_Written):
    """An account of EC2, or of a cloud with its API."""

    type: Literal["ec2"] = Field(title="type of cloud", description="Which adapter speaks to it.")
    regions: dict[str, Ec2RegionEntry] = Field(
        min_length=1, description="The regions that may be launched into; the first is the default."
    )
    keys: Keys | None = Field(
        default=None, description="Without it boto3 searches, as the AWS command line does."
    )
    profile: Text | None = Field(
        default=None, description="A profile of the AWS configuration files."
    )
    role_arn: Text | None = Field(default=None, description="A role to assume with those keys.")
    external_id: Text | None = Field(
        default=None, description="What the role's trust policy asks for."
    )
    endpoint_url: Text | None = Field(
        default=None, description="Of another cloud than Amazon's, such as Eucalyptus."
    )
    instance_profile: Text | None = Field(
        default=None, description="What instances may do in the account."
    )
    spot: Literal["never", "preferred", "only"] = Field(
        default="never",
        description="Ask for spot instances; preferred: on demand where there is no room for one.",
    )
    metadata_tokens: bool = Field(default=True, description="Require IMDSv2.")
    encrypted_disks: bool = Field(default=True, description="Encrypt root disks.")
    disk_type: Text | None = Field(
        default="gp3", description="Type of root disks; null leaves it to the cloud."
    )
    lacks: tuple[
        Literal[
            "client_tokens",
            "stop_start",
            "images",
            "console_output",
            "copy_images",
            "share_images",
            "deprecate_images",
            "instance_types",
            "notices",
        ],
        ...,
    ] = Field(default=(), title="capability", description="What a cloud with EC2's API cannot do.")
    calls: Calls = Field(default=Calls(), description="How many calls the account may make.")
    ssh_port_tag: Text | None = Field(
        default=None,
        description="Tag that tells an instance's SSH port, where an address is shared.",
    )

    @model_validator(mode="after")
    def _one_identity(self) -> Ec2Entry:
        if self.keys is not None and self.profile is not None:
            raise ValueError("'keys' and 'profile' both say who we are; keep one of them")
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("'external_id' is for a role; add 'role_arn'")
        return self


class CloudsFile(_Written):
    """Clouds by the names that launches, image maps and people use."""

    schema_: Literal["slipway-clouds/1"] = Field(
        alias="schema", title="clouds schema", description="Which rules the file follows."
    )
    clouds: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], Ec2Entry
    ] = Field(description="By name; 'local' is this computer and always there.")


def read_clouds(path: Path) -> Mapping[str, Ec2Entry]:
    """The clouds in a file. Raises `InvalidInput` with every problem in it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the clouds file cannot be read ({error}); SLIPWAY_CLOUDS_FILE names it"
        raise InvalidInput(Problem(where=str(path), what=what)) from error
    located, problems = load(text, path.name)
    if located.data is None and problems:
        raise InvalidInput(problems)
    found, more, _ = check_model(located, CloudsFile)
    problems += more
    if found is not None and LOCAL in found.clouds:
        what = "this name is that of the local cloud, which is always there; choose another"
        problems.append(Problem(where=located.where(("clouds", LOCAL)), what=what))
    if problems or found is None:
        raise InvalidInput(problems)
    return found.clouds


def maker(
    name: str, entry: Ec2Entry, database: Database, vault: Vault, clock: Clock
) -> Callable[[], Cloud]:
    """What makes the adapter when the cloud is first asked for: boto3 takes long to import."""

    def make() -> Cloud:
        try:
            from slipway.clouds.budget import Bucket, Budget
            from slipway.clouds.ec2 import BUCKETS, Ec2Cloud, Ec2Options, Ec2Region
        except ModuleNotFoundError as error:
            raise SlipwayError(
                f"cloud {name} needs {error.name}, which is not installed: pip install "
                "'slipway[ec2]'"
            ) from error
        options = Ec2Options(
            regions={
                region: Ec2Region(
                    subnet=place.subnet,
                    security_groups=place.security_groups,
                    events_queue=place.events_queue,
                )
                for region, place in entry.regions.items()
            },
            endpoint_url=entry.endpoint_url,
            profile=entry.profile,
            role_arn=entry.role_arn,
            external_id=entry.external_id,
            instance_profile=entry.instance_profile,
            spot=entry.spot,
            capabilities=Capabilities(**dict.fromkeys(entry.lacks, False)),
            metadata_tokens=entry.metadata_tokens,
            encrypted_disks=entry.encrypted_disks,
            disk_type=entry.disk_type,
            ssh_port_tag=entry.ssh_port_tag,
        )
        # Amazon's are known; another cloud's are what the file says.
        buckets = dict(BUCKETS) if entry.endpoint_url is None else {}
        for kind, each in entry.calls.buckets.items():
            buckets[kind] = Bucket(at_once=each.at_once, per_s=each.per_s)
        budget = Budget(database, clock, entry.calls.account or name, buckets)
        keys = entry.keys
        credentials = None if keys is None else lambda: _credentials(name, keys, vault)
        return Ec2Cloud(name, options, credentials=credentials, clock=clock, budget=budget)

    return make


def _credentials(cloud: str, keys: Keys, vault: Vault) -> Ec2Credentials:
    from slipway.clouds.ec2 import Ec2Credentials

    try:
        return Ec2Credentials(
            access_key_id=keys.access_key_id,
            secret_access_key=vault.get(keys.secret_access_key.removeprefix(REFERENCE)),
            session_token=vault.get(keys.session_token.removeprefix(REFERENCE))
            if keys.session_token
            else None,
        )
    except NotFound as error:
        raise NotFound(f"cloud {cloud}: {error}") from error
