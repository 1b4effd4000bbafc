"""The port every cloud implements, and the nouns that cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

#: Tags that identify what is ours. Everything created in a cloud carries the first two and an
#: expiry, so that a sweep can tell what it may remove.
TAG_INSTALLATION = "slipway:installation"
TAG_LAUNCH = "slipway:launch"
TAG_EXPIRES = "slipway:expires"
TAG_SERVER = "slipway:server"


class InstanceState(StrEnum):
    """What the cloud says an instance is doing, in words all clouds share."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    TERMINATED = "terminated"
    FAILED = "failed"


class ImageState(StrEnum):
    """What the cloud says an image is doing."""

    PENDING = "pending"
    AVAILABLE = "available"
    FAILED = "failed"


class ResourceKind(StrEnum):
    """What instances and images are made with, and may leave behind."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    KEY_PAIR = "key pair"
    SECURITY_GROUP = "security group"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a cloud can do; callers ask before they try."""

    #: Creating twice with one token yields one instance. Without it we search by tag first.
    client_tokens: bool = True
    stop_start: bool = True
    images: bool = True
    console_output: bool = True
    copy_images: bool = True
    share_images: bool = True
    deprecate_images: bool = True
    #: Which instance types there are can be asked for.
    instance_types: bool = True
    #: What is going to be done to instances is announced.
    notices: bool = True
    #: Instances are asked for on the spot market; without room there one may be made on demand
    #: instead (`InstanceSpec.on_demand`).
    spot_fallback: bool = False
    #: Instances run on this very computer: its loopback addresses lead them to us.
    instances_on_this_host: bool = False


@dataclass(frozen=True, kw_only=True)
class InstanceSpec:
    """What to create. Holds no secrets: user data is readable from inside the server for ever."""

    name: str
    region: str
    image_id: str
    instance_type: str
    #: One line in ``authorized_keys`` form.
    ssh_public_key: str
    #: The account the key is installed for.
    login_user: str
    user_data: str = ""
    root_disk_gib: int | None = None
    #: Not on the spot market, whatever the cloud is configured to do.
    on_demand: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance in full detail, as a listing returns it."""

    id: str
    state: InstanceState
    region: str
    image_id: str
    instance_type: str
    #: The client token it was created with, where the cloud tells.
    token: str | None
    tags: Mapping[str, str]
    created_at: datetime
    private_ip: str | None = None
    public_ip: str | None = None
    ssh_port: int = 22
    #: Why it is in this state, in the cloud's words.
    state_reason: str = ""

    @property
    def address(self) -> str | None:
        """Where we connect to: the public address if there is one."""
        return self.public_ip or self.private_ip


@dataclass(frozen=True, kw_only=True)
class Image:
    """One machine image."""

    id: str
    name: str
    state: ImageState
    region: str
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something beside instances and images that was made for us."""

    kind: ResourceKind
    id: str
    name: str
    region: str
    tags: Mapping[str, str] = field(default_factory=dict)
    #: None when the cloud does not tell.
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Notice:
    """The cloud announces what it is going to do to an instance."""

    instance_id: str
    #: In the cloud's words: ``instance-retirement``, ``spot-interruption``.
    code: str
    description: str = ""
    #: Not earlier than this; None for soon.
    not_before: datetime | None = None


@runtime_checkable
class NoticeSource(Protocol):
    """A cloud that announces what it is going to do to instances."""

    @property
    def notice_kinds(self) -> Sequence[str]:
        """What has to be asked for by a call of its own; nothing where nothing is announced."""

    def list_notices(self, region: str, kind: str) -> Sequence[Notice]:
        """What of this kind is announced now, also for instances that are not ours."""


@runtime_checkable
class PasswordSource(Protocol):
    """A cloud whose Windows images make up a password for their administrator at the first boot,
    and tell it to whoever holds the private key of the instance."""

    def password_data(self, region: str, instance_id: str) -> bytes:
        """The password, encrypted for the key the instance was made with (RSA, PKCS #1 v1.5);
        empty while there is none yet, which takes minutes."""


@runtime_checkable
class EventSource(Protocol):
    """A cloud that may also tell. Its events are hints: some are lost, some come twice or late, and
    some are about what is not ours."""

    def has_events(self, region: str) -> bool:
        """Whether it tells what happens in this region."""

    def wait_for_event(self, region: str, *, timeout_s: int) -> bool:
        """Block until an instance may have changed; False when there was no sign of it for so
        long."""


class Cloud(Protocol):
    """A place where instances run.

    Synchronous; every method may be called from any thread. Errors are `slipway.errors.CloudError`
    subclasses, nothing foreign leaves an adapter.
    """

    @property
    def name(self) -> str:
        """The name this cloud was registered under."""

    @property
    def kind(self) -> str:
        """Which adapter this is. Image maps may say ``ec2`` for every account of EC2."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def regions(self) -> Sequence[str]:
        """The regions that can be launched into."""

    def instance_types(self, region: str) -> Sequence[str]:
        """The instance types that can be launched; empty when the cloud does not tell."""

    def create_instance(self, spec: InstanceSpec, *, token: str) -> Instance:
        """Create one instance, or return the one already created with this token (at most 64
        characters). The tags are set by the same call."""

    def list_instances(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Instance]:
        """Everything in the region that carries all these tags, in full detail. Terminated
        instances stay listed for a while."""

    def reboot(self, region: str, instance_id: str) -> None:
        """Ask the instance to reboot."""

    def stop(self, region: str, instance_id: str) -> None:
        """Stop the instance; its disk is kept."""

    def start(self, region: str, instance_id: str) -> None:
        """Start a stopped instance."""

    def terminate(self, region: str, instance_id: str) -> None:
        """End the instance for good. Terminating one that is already terminated or gone
        succeeds."""

    def console_output(self, region: str, instance_id: str) -> str:
        """Everything the console has printed, as far as the cloud keeps it."""

    def resolve_image(self, region: str, selector: str) -> Image:
        """The image a selector names now: an id, a name, or a cloud's own form
        (``ssm:/path``, ``owner/name-*``). Raises `NotFound` naming the nearest known image."""

    def list_images(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Image]:
        """The images that carry all these tags."""

    def create_image(
        self, region: str, instance_id: str, *, name: str, tags: Mapping[str, str]
    ) -> Image:
        """Start to save the instance's disk as an image; raises `Conflict` when the name is
        taken."""

    def copy_image(
        self, source: Image, region: str, *, name: str, tags: Mapping[str, str], token: str
    ) -> Image:
        """Start to copy an image into another region. The same token gives the same copy."""

    def share_image(self, region: str, image_id: str, *, accounts: Sequence[str]) -> None:
        """Let these accounts launch from an image of ours, besides those that may already."""

    def deprecate_image(self, region: str, image_id: str, *, at: datetime) -> None:
        """From then on the image is not offered any more; who knows its id can still use it."""

    def delete_image(self, region: str, image_id: str) -> None:
        """Remove an image and the storage behind it. Removing one that is gone succeeds."""

    def list_resources(
        self, region: str, kind: ResourceKind, *, tags: Mapping[str, str]
    ) -> Sequence[Resource]:
        """What of this kind carries all these tags, and no instance or image uses now."""

    def delete_resource(self, region: str, kind: ResourceKind, resource_id: str) -> None:
        """Remove it. Removing one that is gone succeeds."""
