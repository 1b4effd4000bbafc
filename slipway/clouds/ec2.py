"""`Ec2Cloud`: Amazon EC2, and clouds that speak its API, through boto3."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import boto3
import botocore.exceptions as boto_errors
import botocore.session
import botocore.utils
from botocore.config import Config
from botocore.credentials import CredentialProvider, DeferredRefreshableCredentials
from pydantic import SecretStr

from slipway.clock import Clock, SystemClock
from slipway.clouds.base import (
    TAG_EXPIRES,
    TAG_INSTALLATION,
    TAG_SERVER,
    Capabilities,
    Cloud,
    EventSource,
    Image,
    ImageState,
    Instance,
    InstanceSpec,
    InstanceState,
    Notice,
    NoticeSource,
    PasswordSource,
    Resource,
    ResourceKind,
)
from slipway.clouds.budget import Bucket, Budget
from slipway.errors import (
    CapacityUnavailable,
    CloudRefused,
    CloudThrottled,
    CloudUnavailable,
    Conflict,
    InstanceNotFound,
    NotFound,
    SlipwayError,
)
from slipway.spelling import nearest

#: What EC2 answers, by its error code. A code that is not here is a refusal, unless the answer's
#: HTTP status says that EC2 itself failed.
CODES: Mapping[str, type[SlipwayError]] = {
    "EC2ThrottledException": CloudThrottled,
    "RequestLimitExceeded": CloudThrottled,
    "RequestThrottled": CloudThrottled,
    "SlowDown": CloudThrottled,
    "Throttling": CloudThrottled,
    "ThrottlingException": CloudThrottled,
    "TooManyRequestsException": CloudThrottled,
    "InternalError": CloudUnavailable,
    "InternalFailure": CloudUnavailable,
    "InternalServerError": CloudUnavailable,
    "PriorRequestNotComplete": CloudUnavailable,
    "RequestTimeout": CloudUnavailable,
    "ServiceUnavailable": CloudUnavailable,
    "Unavailable": CloudUnavailable,
    "InsufficientAddressCapacity": CapacityUnavailable,
    "InsufficientCapacity": CapacityUnavailable,
    "InsufficientFreeAddressesInSubnet": CapacityUnavailable,
    "InsufficientHostCapacity": CapacityUnavailable,
    "InsufficientInstanceCapacity": CapacityUnavailable,
    "InstanceLimitExceeded": CapacityUnavailable,
    "MaxSpotInstanceCountExceeded": CapacityUnavailable,
    "SpotMaxPriceTooLow": CapacityUnavailable,
    "VcpuLimitExceeded": CapacityUnavailable,
    "InvalidInstanceID.Malformed": InstanceNotFound,
    "InvalidInstanceID.NotFound": InstanceNotFound,
    "InvalidAMIName.Duplicate": Conflict,
    "InvalidKeyPair.Duplicate": Conflict,
    "ParameterNotFound": NotFound,
}

#: What botocore raises when there was no answer to read; the first that fits counts. Everything
#: else of botocore's is about our request or our credentials, and will be no different next time.
EXCEPTIONS: Sequence[tuple[type[Exception], type[SlipwayError]]] = (
    (boto_errors.HTTPClientError, CloudUnavailable),
    (boto_errors.ConnectionError, CloudUnavailable),
    (boto_errors.IncompleteReadError, CloudUnavailable),
    (boto_errors.MetadataRetrievalError, CloudUnavailable),
    (boto_errors.CredentialRetrievalError, CloudUnavailable),
    (boto_errors.BotoCoreError, CloudRefused),
)

_STATES = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPING,
    # On its way to its end, and nothing brings it back.
    "shutting-down": InstanceState.TERMINATED,
    "stopped": InstanceState.STOPPED,
    "terminated": InstanceState.TERMINATED,
}

_IMAGE_STATES = {
    "pending": ImageState.PENDING,
    "available": ImageState.AVAILABLE,
}

#: What EC2 announces to do to an instance, and how it says that it takes a spot instance back.
_SCHEDULED = (
    "instance-reboot",
    "instance-retirement",
    "instance-stop",
    "system-maintenance",
    "system-reboot",
)
_SPOT_ENDS = ("marked-for-stop", "marked-for-termination")

#: How EC2 writes times.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")

#: How EC2 says that what is to be removed is not there.
_GONE = re.compile(
    r"Invalid(Volume|Snapshot|KeyPair|Group|GroupId)\.NotFound|InvalidSecurityGroupID\.NotFound"
)

#: Careful defaults for an account of Amazon's, by `family`: what it really may do differs from
#: account to account. Other clouds are not counted unless somebody says what they allow.
BUCKETS: Mapping[str, Bucket] = {
    "describe": Bucket(at_once=50, per_s=10),
    "mutate": Bucket(at_once=50, per_s=5),
    "RunInstances": Bucket(at_once=5, per_s=2),
    "StartInstances": Bucket(at_once=5, per_s=2),
    "StopInstances": Bucket(at_once=5, per_s=2),
    "TerminateInstances": Bucket(at_once=50, per_s=5),
}

#: What `Ec2Cloud._instance` reads of an instance; EC2 tells some sixty things of each.
_FIELDS = frozenset(
    {
        "ClientToken",
        "ImageId",
        "InstanceId",
        "InstanceType",
        "LaunchTime",
        "PrivateIpAddress",
        "PublicIpAddress",
        "State",
        "StateReason",
        "StateTransitionReason",
        "Tags",
    }
)

_CONNECT_TIMEOUT_S = 10
#: RunInstances takes seconds on a bad day; whoever gives up early asks again with the same token.
_READ_TIMEOUT_S = 60
_CONNECTIONS = 50
_PAGE = 1000


def translate(error: Exception, what: str) -> SlipwayError:
    """The error of ours that stands for one of botocore's."""
    if isinstance(error, boto_errors.ClientError):
        told = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(told.get("Code", ""))
        kind = CODES.get(code, CloudUnavailable if status >= 500 else CloudRefused)
        return kind(f"{what}: {code}: {told.get('Message', '')}")
    kind = next((ours for theirs, ours in EXCEPTIONS if isinstance(error, theirs)), CloudRefused)
    return kind(f"{what}: {error}")


def family(action: str) -> str:
    """Which bucket a call empties: EC2 keeps one for each kind of call."""
    if action in BUCKETS:
        return action
    return "describe" if action.startswith(("Describe", "Get")) else "mutate"


@dataclass(frozen=True, kw_only=True)
class Ec2Region:
    """Where in a region instances are put; what is left out is the account's default."""

    subnet: str | None = None
    security_groups: Sequence[str] = ()
    #: URL of the SQS queue that EventBridge puts the region's instance events into.
    events_queue: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ec2Credentials:
    """Keys, for those who cannot leave them to boto3's own search."""

    access_key_id: str
    secret_access_key: SecretStr
    session_token: SecretStr | None = None


@dataclass(frozen=True, kw_only=True)
class Ec2Options:
    """What an account is like, and what a cloud that speaks EC2's API lacks."""

    regions: Mapping[str, Ec2Region]
    endpoint_url: str | None = None
    #: A profile of the AWS configuration files, which may assume a role.
    profile: str | None = None
    #: A role to assume with those keys, and what its trust policy asks for.
    role_arn: str | None = None
    external_id: str | None = None
    instance_profile: str | None = None
    #: ``preferred``: without room on the spot market an instance may be made on demand.
    spot: Literal["never", "preferred", "only"] = "never"
    capabilities: Capabilities = field(default_factory=Capabilities)
    #: Require session tokens for instance metadata (IMDSv2).
    metadata_tokens: bool = True
    encrypted_disks: bool = True
    #: The type of root disks; None leaves it to the cloud, as those that do not know this one need.
    disk_type: str | None = "gp3"
    #: botocore's tries per call. Ours come on top of them.
    attempts: int = 3
    #: The tag that tells the SSH port, where port 22 of an address is not the server's.
    ssh_port_tag: str | None = None


@dataclass(frozen=True, kw_only=True)
class _RootDisk:
    """How an image names its first disk; its size, where the image tells."""

    device: str
    size_gib: int | None


class Ec2Cloud:
    """Instances of Amazon EC2 or of a cloud with its API.

    Nothing is asked of the cloud before the first call; clients are made once per region and used
    by all threads.
    """

    def __init__(
        self,
        name: str,
        options: Ec2Options,
        *,
        credentials: Callable[[], Ec2Credentials] | None = None,
        clock: Clock | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._name = name
        self._budget = budget
        self._options = options
        self._credentials = credentials
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._clients: dict[tuple[str, str, int], Any] = {}
        self._types: dict[str, Sequence[str]] = {}
        self._root_disks: dict[tuple[str, str], _RootDisk] = {}
        self._keys: set[tuple[str, str]] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "ec2"

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._options.capabilities, spot_fallback=self._options.spot == "preferred")

    def regions(self) -> Sequence[str]:
        return tuple(self._options.regions)

    def instance_types(self, region: str) -> Sequence[str]:
        if not self._options.capabilities.instance_types:
            return ()
        if region not in self._types:
            found = self._items(
                region,
                "InstanceTypeOfferings",
                "describe_instance_type_offerings",
                LocationType="region",
            )
            self._types[region] = tuple(sorted(each["InstanceType"] for each in found))
        return self._types[region]

    # -- instances -------------------------------------------------------------------------------

    def create_instance(self, spec: InstanceSpec, *, token: str) -> Instance:
        request = self._run_request(spec, token)
        # Without a token a second try makes a second instance: botocore must not make one.
        attempts = self._options.attempts if "ClientToken" in request else 1
        try:
            answer = self._call(spec.region, "run_instances", attempts=attempts, **request)
        except CloudRefused as error:
            if "InvalidKeyPair.NotFound" not in str(error):
                raise
            # It was removed since we brought it.
            self._keys.discard((spec.region, request["KeyName"]))
            self._key_pair(spec)
            answer = self._call(spec.region, "run_instances", attempts=attempts, **request)
        return self._instance(spec.region, answer["Instances"][0])

    def list_instances(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Instance]:
        # Never by id: ids exclude paging, and one that is unknown fails the whole call.
        reservations = self._items(
            region, "Reservations", "describe_instances", Filters=_tag_filters(tags)
        )
        return [
            self._instance(region, found)
            for reservation in reservations
            for found in reservation["Instances"]
        ]

    def reboot(self, region: str, instance_id: str) -> None:
        self._call(region, "reboot_instances", InstanceIds=[instance_id])

    def stop(self, region: str, instance_id: str) -> None:
        self._call(region, "stop_instances", InstanceIds=[instance_id])

    def start(self, region: str, instance_id: str) -> None:
        self._call(region, "start_instances", InstanceIds=[instance_id])

    def terminate(self, region: str, instance_id: str) -> None:
        try:
            self._call(region, "terminate_instances", InstanceIds=[instance_id])
        except InstanceNotFound:
            return

    def console_output(self, region: str, instance_id: str) -> str:
        try:
            answer = self._call(region, "get_console_output", InstanceId=instance_id, Latest=True)
        except CloudRefused as error:
            # Only Nitro instances show the console as it is now; others what they saved at boot.
            if "UnsupportedOperation" not in str(error):
                raise
            answer = self._call(region, "get_console_output", InstanceId=instance_id)
        return str(answer.get("Output") or "")

    def password_data(self, region: str, instance_id: str) -> bytes:
        answer = self._call(region, "get_password_data", InstanceId=instance_id)
        # Older agents write it with line ends, and spaces while there is none.
        return base64.b64decode("".join(str(answer.get("PasswordData") or "").split()))

    @property
    def notice_kinds(self) -> Sequence[str]:
        return ("spot", "scheduled") if self._options.capabilities.notices else ()

    def list_notices(self, region: str, kind: str) -> Sequence[Notice]:
        return self._spot_ends(region) if kind == "spot" else self._scheduled(region)

    def _scheduled(self, region: str) -> list[Notice]:
        statuses = self._items(
            region,
            "InstanceStatuses",
            "describe_instance_status",
            Filters=[{"Name": "event.code", "Values": list(_SCHEDULED)}],
        )
        return [
            Notice(
                instance_id=status["InstanceId"],
                code=event["Code"],
                description=str(event.get("Description") or ""),
                not_before=event.get("NotBefore"),
            )
            for status in statuses
            for event in status.get("Events", ())
            # They stay listed for a while when they are over.
            if not str(event.get("Description")).startswith(("[Completed]", "[Canceled]"))
        ]

    def _spot_ends(self, region: str) -> list[Notice]:
        spots = self._items(
            region,
            "SpotInstanceRequests",
            "describe_spot_instance_requests",
            Filters=[{"Name": "status-code", "Values": list(_SPOT_ENDS)}],
        )
        return [
            Notice(
                instance_id=spot["InstanceId"],
                code="spot-interruption",
                description=str(spot["Status"].get("Message") or ""),
            )
            for spot in spots
            if spot.get("InstanceId")
        ]

    def has_events(self, region: str) -> bool:
        return self._place(region).events_queue is not None

    def wait_for_event(self, region: str, *, timeout_s: int) -> bool:
        queue = self._place(region).events_queue
        answer = self._call(
            region,
            "receive_message",
            service="sqs",
            QueueUrl=queue,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=timeout_s,
        )
        messages = answer.get("Messages", [])
        for each in messages:
            # What it says is left to the listing that follows.
            self._call(
                region,
                "delete_message",
                service="sqs",
                QueueUrl=queue,
                ReceiptHandle=each["ReceiptHandle"],
            )
        return bool(messages)

    # -- images ----------------------------------------------------------------------------------

    def resolve_image(self, region: str, selector: str) -> Image:
        wanted = selector
        if selector.startswith("ssm:"):
            path = selector.removeprefix("ssm:")
            answer = self._call(region, "get_parameter", service="ssm", Name=path)
            wanted = answer["Parameter"]["Value"]
        owner, slash, pattern = wanted.partition("/")
        if wanted.startswith("ami-") or (wanted.startswith("emi-") and not slash):
            found = self._describe_images(region, {"image-id": wanted})
        elif slash:
            found = self._describe_images(
                region, {"name": pattern, "state": "available"}, owner=owner
            )
        else:
            found = self._describe_images(region, {"name": wanted}, owner="self")
        if found:
            newest = max(found, key=lambda each: str(each.get("CreationDate", "")))
            return _image(region, newest)
        raise NotFound(
            f"cloud {self._name} has no image {selector} in {region}{self._nearest(region, wanted)}"
        )

    def list_images(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Image]:
        found = self._describe_images(region, {f"tag:{k}": v for k, v in tags.items()}, "self")
        return [_image(region, each) for each in found]

    def create_image(
        self, region: str, instance_id: str, *, name: str, tags: Mapping[str, str]
    ) -> Image:
        answer = self._call(
            region,
            "create_image",
            InstanceId=instance_id,
            Name=name,
            TagSpecifications=_tags_for(tags, "image", "snapshot"),
        )
        return self._pending_image(region, answer["ImageId"], name, tags)

    def copy_image(
        self, source: Image, region: str, *, name: str, tags: Mapping[str, str], token: str
    ) -> Image:
        request: dict[str, Any] = {
            "SourceImageId": source.id,
            "SourceRegion": source.region,
            "Name": name,
            "Description": source.description,
            "TagSpecifications": _tags_for(tags, "image", "snapshot"),
            "ClientToken": token,
        }
        if self._options.encrypted_disks:
            request["Encrypted"] = True
        answer = self._call(region, "copy_image", **request)
        return self._pending_image(region, answer["ImageId"], name, tags, source.description)

    def share_image(self, region: str, image_id: str, *, accounts: Sequence[str]) -> None:
        # Its snapshots need not be shared besides: leave to launch is enough.
        self._call(
            region,
            "modify_image_attribute",
            ImageId=image_id,
            LaunchPermission={"Add": [{"UserId": account} for account in accounts]},
        )

    def deprecate_image(self, region: str, image_id: str, *, at: datetime) -> None:
        self._call(region, "enable_image_deprecation", ImageId=image_id, DeprecateAt=at)

    def _pending_image(
        self, region: str, image_id: str, name: str, tags: Mapping[str, str], description: str = ""
    ) -> Image:
        return Image(
            id=image_id,
            name=name,
            state=ImageState.PENDING,
            region=region,
            created_at=self._clock.now(),
            tags=dict(tags),
            description=description,
        )

    def delete_image(self, region: str, image_id: str) -> None:
        for found in self._describe_images(region, {"image-id": image_id}):
            self._call(region, "deregister_image", ImageId=image_id)
            for device in found.get("BlockDeviceMappings", ()):
                if snapshot := device.get("Ebs", {}).get("SnapshotId"):
                    self.delete_resource(region, ResourceKind.SNAPSHOT, snapshot)

    # -- what they leave behind ------------------------------------------------------------------

    def list_resources(
        self, region: str, kind: ResourceKind, *, tags: Mapping[str, str]
    ) -> Sequence[Resource]:
        filters = _tag_filters(tags)
        if kind is ResourceKind.VOLUME:
            free = [*filters, {"Name": "status", "Values": ["available"]}]
            found = self._items(region, "Volumes", "describe_volumes", Filters=free)
            return [_resource(kind, region, each, "VolumeId", at="CreateTime") for each in found]
        if kind is ResourceKind.SNAPSHOT:
            found = self._unused_snapshots(region, filters)
            return [_resource(kind, region, each, "SnapshotId", at="StartTime") for each in found]
        if kind is ResourceKind.KEY_PAIR:
            found = self._call(region, "describe_key_pairs", Filters=filters)["KeyPairs"]
            # By name: it is what instances are made with, and all that older clouds know.
            return [_resource(kind, region, each, "KeyName", at="CreateTime") for each in found]
        found = self._items(region, "SecurityGroups", "describe_security_groups", Filters=filters)
        return [_resource(kind, region, each, "GroupId", "GroupName") for each in found]

    def _unused_snapshots(
        self, region: str, filters: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        found = self._items(
            region, "Snapshots", "describe_snapshots", OwnerIds=["self"], Filters=filters
        )
        if not found:
            return []
        used = {
            device.get("Ebs", {}).get("SnapshotId")
            for image in self._describe_images(region, {}, "self")
            for device in image.get("BlockDeviceMappings", ())
        }
        return [each for each in found if each["SnapshotId"] not in used]

    def delete_resource(self, region: str, kind: ResourceKind, resource_id: str) -> None:
        try:
            if kind is ResourceKind.VOLUME:
                self._call(region, "delete_volume", VolumeId=resource_id)
            elif kind is ResourceKind.SNAPSHOT:
                self._call(region, "delete_snapshot", SnapshotId=resource_id)
            elif kind is ResourceKind.KEY_PAIR:
                self._call(region, "delete_key_pair", KeyName=resource_id)
            else:
                self._call(region, "delete_security_group", GroupId=resource_id)
        except CloudRefused as error:
            if not _GONE.search(str(error)):
                raise

    # -- one call --------------------------------------------------------------------------------

    def _run_request(self, spec: InstanceSpec, token: str) -> dict[str, Any]:
        """The same for the same spec, always: a token is for one set of parameters."""
        options = self._options
        place = self._place(spec.region)
        disk: dict[str, Any] = {"DeleteOnTermination": True}
        if options.disk_type is not None:
            disk["VolumeType"] = options.disk_type
        if options.encrypted_disks:
            disk["Encrypted"] = True
        root = self._root_disk(spec.region, spec.image_id)
        size_gib = root.size_gib if spec.root_disk_gib is None else spec.root_disk_gib
        if size_gib is not None:
            disk["VolumeSize"] = size_gib
        tags = dict(spec.tags)
        if TAG_SERVER in tags:
            # What the console of AWS shows.
            tags.setdefault("Name", tags[TAG_SERVER])
        request: dict[str, Any] = {
            "ImageId": spec.image_id,
            "InstanceType": spec.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "KeyName": self._key_pair(spec),
            "BlockDeviceMappings": [{"DeviceName": root.device, "Ebs": disk}],
            "TagSpecifications": _tags_for(tags, "instance", "volume"),
        }
        if options.capabilities.client_tokens:
            request["ClientToken"] = token
        if options.metadata_tokens:
            request["MetadataOptions"] = {"HttpTokens": "required", "HttpEndpoint": "enabled"}
        if spec.user_data:
            request["UserData"] = spec.user_data
        if place.subnet is not None:
            request["SubnetId"] = place.subnet
        if place.security_groups:
            request["SecurityGroupIds"] = list(place.security_groups)
        if options.instance_profile is not None:
            request["IamInstanceProfile"] = {"Name": options.instance_profile}
        if options.spot != "never" and not spec.on_demand:
            request["InstanceMarketOptions"] = {
                "MarketType": "spot",
                "SpotOptions": {"SpotInstanceType": "one-time"},
            }
        return request

    def _key_pair(self, spec: InstanceSpec) -> str:
        """The key pair of this public key, imported once. Its name tells the key, so that whoever
        comes second finds the right one."""
        name = f"slipway-{hashlib.sha256(spec.ssh_public_key.encode()).hexdigest()[:24]}"
        if (spec.region, name) not in self._keys:
            request: dict[str, Any] = {
                "KeyName": name,
                "PublicKeyMaterial": spec.ssh_public_key.encode(),
            }
            # Every launch in the region uses it: none of them is named.
            shared = (TAG_INSTALLATION, TAG_EXPIRES)
            if ours := {k: v for k, v in spec.tags.items() if k in shared}:
                request["TagSpecifications"] = _tags_for(ours, "key-pair")
            # A conflict: an earlier process of ours has imported it.
            with suppress(Conflict):
                self._call(spec.region, "import_key_pair", **request)
            self._keys.add((spec.region, name))
        return name

    def _root_disk(self, region: str, image_id: str) -> _RootDisk:
        known = self._root_disks.get((region, image_id))
        if known is None:
            found = self._describe_images(region, {"image-id": image_id})
            if not found:
                raise CloudRefused(f"cloud {self._name} has no image {image_id} in {region}")
            known = _root_disk(found[0])
            self._root_disks[region, image_id] = known
        return known

    def _describe_images(
        self, region: str, filters: Mapping[str, str], owner: str | None = None
    ) -> list[dict[str, Any]]:
        return self._items(
            region,
            "Images",
            "describe_images",
            Filters=[{"Name": name, "Values": [value]} for name, value in filters.items()],
            **({"Owners": [owner]} if owner else {}),
        )

    def _nearest(self, region: str, wanted: str) -> str:
        known = [str(each.get("Name", "")) for each in self._describe_images(region, {}, "self")]
        return nearest(wanted, known)

    def _instance(self, region: str, found: Mapping[str, Any]) -> Instance:
        tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}
        port = tags.pop(self._options.ssh_port_tag, "22") if self._options.ssh_port_tag else "22"
        if tags.get("Name") is not None and tags.get("Name") == tags.get(TAG_SERVER):
            del tags["Name"]
        reason = found.get("StateReason", {}).get("Message") or ""
        return Instance(
            id=found["InstanceId"],
            state=_STATES[found["State"]["Name"]],
            region=region,
            image_id=found["ImageId"],
            instance_type=found["InstanceType"],
            token=found.get("ClientToken") or None,
            tags=tags,
            # Moves when the instance is stopped and started; EC2 has nothing better.
            created_at=found["LaunchTime"],
            private_ip=found.get("PrivateIpAddress") or None,
            public_ip=found.get("PublicIpAddress") or None,
            ssh_port=int(port),
            state_reason=reason or found.get("StateTransitionReason") or "",
        )

    def _place(self, region: str) -> Ec2Region:
        try:
            return self._options.regions[region]
        except KeyError:
            known = ", ".join(self._options.regions)
            raise CloudRefused(
                f"no region {region!r} is configured for cloud {self._name}; it has {known}"
            ) from None

    def _items(self, region: str, key: str, call: str, **request: Any) -> list[dict[str, Any]]:
        """What all pages of a listing have under this key."""
        with _translating(f"{self._name} {call} in {region}"):
            pages = self._client(region, "ec2").get_paginator(call)
            found = pages.paginate(**request, PaginationConfig={"PageSize": _PAGE})
            return [item for page in found for item in page[key]]

    def _call(
        self,
        region: str,
        call: str,
        *,
        service: str = "ec2",
        attempts: int | None = None,
        **request: Any,
    ) -> Any:
        with _translating(f"{self._name} {call} in {region}"):
            return getattr(self._client(region, service, attempts), call)(**request)

    def _client(self, region: str, service: str, attempts: int | None = None) -> Any:
        """The client that tries each call so often; as often as was configured by default."""
        self._place(region)
        attempts = attempts or self._options.attempts
        key = (region, service, attempts)
        with self._lock:
            if key not in self._clients:
                if self._session is None:
                    self._session = self._new_session()
                self._clients[key] = self._session.client(
                    service,
                    region_name=region,
                    endpoint_url=self._options.endpoint_url,
                    config=Config(
                        connect_timeout=_CONNECT_TIMEOUT_S,
                        read_timeout=_READ_TIMEOUT_S,
                        max_pool_connections=_CONNECTIONS,
                        # Not `adaptive`: it keeps its state per client, so processes share none.
                        retries={
                            "mode": "standard",
                            "total_max_attempts": attempts,
                        },
                    ),
                )
                if service == "ec2":
                    _read_less(self._clients[key])
                    if self._budget is not None:
                        _count_calls(self._clients[key], self._budget, region)
            return self._clients[key]

    def _new_session(self) -> boto3.session.Session:
        if self._credentials is None:
            own = boto3.session.Session(
                botocore_session=_inner_session(), profile_name=self._options.profile
            )
        else:
            keys = self._credentials()
            token = keys.session_token
            own = boto3.session.Session(
                botocore_session=_inner_session(),
                aws_access_key_id=keys.access_key_id,
                aws_secret_access_key=keys.secret_access_key.get_secret_value(),
                aws_session_token=token.get_secret_value() if token else None,
            )
        if self._options.role_arn is None:
            return own
        inner = _inner_session()
        search = inner.get_component("credential_provider")
        search.insert_before(search.providers[0].METHOD, _AssumedRole(own, self._options))
        return boto3.session.Session(botocore_session=inner)


def _inner_session() -> botocore.session.Session:
    """Botocore's session, which reads a time as EC2 writes it five times faster than by itself."""
    session = botocore.session.get_session()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_time_from)
    return session


def _time_from(value: Any) -> datetime:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return datetime.fromisoformat(value)
    found: datetime = botocore.utils.parse_timestamp(value)
    return found


def _read_less(client: Any) -> None:
    """Have botocore leave unread what nobody here asks of the instances in a listing: going
    through every field that there may be is most of its work."""
    listing = client.meta.service_model.operation_model("DescribeInstances").output_shape
    reservation = listing.members["Reservations"].member
    instance = reservation.members["Instances"].member
    for members, wanted in ((reservation.members, {"Instances"}), (instance.members, _FIELDS)):
        for name in members.keys() - wanted:
            del members[name]


def _count_calls(client: Any, budget: Budget, region: str) -> None:
    """Have each call of a client wait for its turn, each page of a listing included."""

    def before(model: Any, **_: Any) -> None:
        budget.take(region, family(model.name))

    def answered(operation: Any, response: Any, **_: Any) -> None:
        code = response[1].get("Error", {}).get("Code", "") if response else ""
        if CODES.get(code) is CloudThrottled:
            budget.exhausted(region, family(operation.name))

    client.meta.events.register("before-call.ec2", before)
    # Asked of every answer; ours says nothing about trying again.
    client.meta.events.register("needs-retry.ec2", answered)


class _AssumedRole(CredentialProvider):  # type: ignore[misc]
    """Where a session finds the keys of a role: assumed with another's keys, and again before they
    run out."""

    METHOD = "slipway-assumed-role"

    def __init__(self, source: boto3.session.Session, options: Ec2Options) -> None:
        super().__init__()
        self._source = source
        self._options = options

    def load(self) -> DeferredRefreshableCredentials:
        """See `CredentialProvider`."""
        return DeferredRefreshableCredentials(self._assume, self.METHOD)

    def _assume(self) -> Mapping[str, str]:
        options = self._options
        client = self._source.client(
            "sts", region_name=next(iter(options.regions)), endpoint_url=options.endpoint_url
        )
        asked = {"RoleArn": options.role_arn, "RoleSessionName": "slipway"}
        if options.external_id is not None:
            asked["ExternalId"] = options.external_id
        keys = client.assume_role(**asked)["Credentials"]
        return {
            "access_key": keys["AccessKeyId"],
            "secret_key": keys["SecretAccessKey"],
            "token": keys["SessionToken"],
            "expiry_time": keys["Expiration"].isoformat(),
        }


@contextmanager
def _translating(what: str) -> Generator[None, None, None]:
    try:
        yield
    except (boto_errors.BotoCoreError, boto_errors.ClientError) as error:
        raise translate(error, what) from error


def _tag_filters(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{name}", "Values": [value]} for name, value in tags.items()]


def _tags_for(tags: Mapping[str, str], *kinds: str) -> list[dict[str, Any]]:
    written = [{"Key": name, "Value": value} for name, value in tags.items()]
    return [{"ResourceType": kind, "Tags": written} for kind in kinds]


def _root_disk(image: Mapping[str, Any]) -> _RootDisk:
    device = str(image.get("RootDeviceName") or "/dev/sda1")
    for mapping in image.get("BlockDeviceMappings", ()):
        size_gib = mapping.get("Ebs", {}).get("VolumeSize")
        if mapping.get("DeviceName") == device and size_gib:
            return _RootDisk(device=device, size_gib=size_gib)
    return _RootDisk(device=device, size_gib=None)


def _resource(
    kind: ResourceKind,
    region: str,
    found: Mapping[str, Any],
    id_key: str,
    name_key: str | None = None,
    *,
    at: str | None = None,
) -> Resource:
    return Resource(
        kind=kind,
        id=found[id_key],
        name=str(found[name_key or id_key]),
        region=region,
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", ())},
        created_at=found.get(at) if at else None,
    )


def _image(region: str, found: Mapping[str, Any]) -> Image:
    created = str(found.get("CreationDate") or "1970-01-01T00:00:00.000Z")
    return Image(
        id=found["ImageId"],
        name=str(found.get("Name") or ""),
        state=_IMAGE_STATES.get(str(found.get("State")), ImageState.FAILED),
        region=region,
        created_at=datetime.fromisoformat(created).astimezone(UTC),
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", ())},
        description=str(found.get("Description") or ""),
    )


_: type[Cloud] = Ec2Cloud
_events: type[EventSource] = Ec2Cloud
_notices: type[NoticeSource] = Ec2Cloud
_passwords: type[PasswordSource] = Ec2Cloud
