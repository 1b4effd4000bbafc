"""`FakeCloud`: a cloud in memory, for tests that need no machine behind it."""

from __future__ import annotations

import base64
import difflib
import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from slipway.clock import Clock, SystemClock
from slipway.clouds.base import (
    Capabilities,
    Cloud,
    Image,
    ImageState,
    Instance,
    InstanceSpec,
    InstanceState,
    Resource,
    ResourceKind,
)
from slipway.errors import CloudRefused, Conflict, InstanceNotFound, NotFound

_T = TypeVar("_T")

#: How long a terminated instance stays listed.
TERMINATED_LISTED = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One thing a `FakeCloud` was asked."""

    method: str
    arguments: Mapping[str, Any]


@dataclass(kw_only=True)
class _Fault:
    method: str
    error: Exception
    left: int
    after: bool


@dataclass(kw_only=True)
class _Held:
    """An instance and when it becomes what it is going to be."""

    instance: Instance
    spec: InstanceSpec
    next_state: InstanceState | None = None
    due: datetime
    listed_from: datetime
    missing: bool = False
    boots: int = 1
    ended_at: datetime | None = None


class FakeCloud:
    """A cloud in memory. It remembers what it was asked, and fails when it was told to.

    States move with the clock that is passed in: an instance is PENDING for ``boot_s`` seconds,
    an image for ``image_s``. Nothing runs behind an instance. Addresses are from 192.0.2.0/24,
    which never answers (RFC 5737).
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        clock: Clock | None = None,
        regions: Sequence[str] = ("region-1",),
        instance_types: Sequence[str] = ("small", "large"),
        images: Sequence[str] = ("debian-12",),
        capabilities: Capabilities | None = None,
        boot_s: float = 0.0,
        image_s: float = 0.0,
        unlisted_s: float = 0.0,
    ) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._regions = tuple(regions)
        self._instance_types = tuple(instance_types)
        self._capabilities = capabilities or Capabilities()
        self._boot = timedelta(seconds=boot_s)
        self._image = timedelta(seconds=image_s)
        self._unlisted = timedelta(seconds=unlisted_s)
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._images: dict[str, Image] = {}
        self._resources: dict[str, Resource] = {}
        self._resource_numbers = itertools.count(1)
        self._faults: list[_Fault] = []
        self._image_numbers = itertools.count(1)
        #: Which accounts may launch from an image, and from when it is deprecated, by its id.
        self.shared: dict[str, set[str]] = {}
        self.deprecated: dict[str, datetime] = {}
        #: Everything it was asked, in order, failed calls included.
        self.calls: list[Call] = []
        for region in self._regions:
            for each in images:
                self.add_image(each, region=region)

    # -- for the test --------------------------------------------------------------------------

    def fail_next(
        self, method: str, error: Exception, *, times: int = 1, after: bool = False
    ) -> None:
        """Make the next ``times`` calls of a method raise this; with ``after``, only once the
        call has had its effect, as when an answer is lost on the way."""
        if not hasattr(Cloud, method):
            raise ValueError(f"clouds have no method {method!r}")
        with self._lock:
            self._faults.append(_Fault(method=method, error=error, left=times, after=after))

    def count(self, method: str) -> int:
        """How often a method was called."""
        with self._lock:
            return sum(call.method == method for call in self.calls)

    def set_state(self, instance_id: str, state: InstanceState, *, reason: str = "") -> None:
        """Put an instance into a state, as if the cloud had done it."""
        with self._lock:
            held = self._held[instance_id]
            held.instance = replace(held.instance, state=state, state_reason=reason)
            held.next_state = None

    def set_listed(self, instance_id: str, listed: bool) -> None:
        """Leave an instance out of listings, or show it again."""
        with self._lock:
            self._held[instance_id].missing = not listed

    def set_address(self, instance_id: str, *, private_ip: str | None, ssh_port: int = 22) -> None:
        """Where the instance is said to be."""
        with self._lock:
            held = self._held[instance_id]
            held.instance = replace(held.instance, private_ip=private_ip, ssh_port=ssh_port)

    def add_image(
        self, name: str, *, region: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Image:
        """An image that is there."""
        where = region or self._regions[0]
        image = Image(
            id=f"image-{next(self._image_numbers):08x}",
            name=name,
            state=ImageState.AVAILABLE,
            region=where,
            created_at=self._clock.now(),
            tags=dict(tags or {}),
        )
        with self._lock:
            self._images[image.id] = image
        return image

    def add_resource(
        self, kind: ResourceKind, *, region: str | None = None, tags: Mapping[str, str]
    ) -> Resource:
        """Something that an instance or an image has left behind."""
        number = next(self._resource_numbers)
        made = Resource(
            kind=kind,
            id=f"{kind.replace(' ', '-')}-{number:08x}",
            name=f"left-{number}",
            region=region or self._regions[0],
            tags=dict(tags),
            created_at=self._clock.now(),
        )
        with self._lock:
            self._resources[made.id] = made
        return made

    @staticmethod
    def host_key(instance_id: str) -> str:
        """The host key the console of this instance shows."""
        blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + hashlib.sha256(instance_id.encode()).digest()
        return f"ssh-ed25519 {base64.b64encode(blob).decode()} root@fake"

    # -- the Cloud -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "fake"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def regions(self) -> Sequence[str]:
        return self._do("regions", lambda: self._regions)

    def instance_types(self, region: str) -> Sequence[str]:
        return self._do("instance_types", lambda: self._instance_types, region=region)

    def create_instance(self, spec: InstanceSpec, *, token: str) -> Instance:
        def work() -> Instance:
            if not 0 < len(token) <= 64:
                raise CloudRefused(f"a client token has 1 to 64 characters, not {token!r}")
            key = (spec.region, token)
            if self._capabilities.client_tokens and key in self._tokens:
                held = self._held[self._tokens[key]]
                if held.spec != spec:
                    raise CloudRefused(f"token {token!r} was used with other parameters")
                return held.instance
            if spec.instance_type not in self._instance_types:
                raise CloudRefused(f"no instance type {spec.instance_type!r}")
            image = self._images.get(spec.image_id)
            if image is None or image.region != spec.region:
                raise CloudRefused(f"no image {spec.image_id!r} in {spec.region}")
            if image.state is not ImageState.AVAILABLE:
                raise CloudRefused(f"image {spec.image_id} is {image.state}, not available")
            now = self._clock.now()
            number = len(self._held) + 1
            instance = Instance(
                id=f"i-{number:08x}",
                state=InstanceState.PENDING,
                region=spec.region,
                image_id=spec.image_id,
                instance_type=spec.instance_type,
                token=token if self._capabilities.client_tokens else None,
                tags=dict(spec.tags),
                created_at=now,
            )
            self._held[instance.id] = _Held(
                instance=instance,
                spec=spec,
                next_state=InstanceState.RUNNING,
                due=now + self._boot,
                listed_from=now + self._unlisted,
            )
            self._tokens[key] = instance.id
            return instance

        return self._do("create_instance", work, region=spec.region, spec=spec, token=token)

    def list_instances(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Instance]:
        def work() -> Sequence[Instance]:
            now = self._clock.now()
            return [
                held.instance
                for held in self._held.values()
                if held.instance.region == region
                and tags.items() <= held.instance.tags.items()
                and now >= held.listed_from
                and not held.missing
                and (held.ended_at is None or now - held.ended_at < TERMINATED_LISTED)
            ]

        return self._do("list_instances", work, region=region, tags=dict(tags))

    def reboot(self, region: str, instance_id: str) -> None:
        def work() -> None:
            self._require(region, instance_id, InstanceState.RUNNING).boots += 1

        self._do("reboot", work, region=region, instance_id=instance_id)

    def stop(self, region: str, instance_id: str) -> None:
        def work() -> None:
            held = self._find(region, instance_id)
            if held.instance.state is InstanceState.STOPPED:
                return
            self._require(region, instance_id, InstanceState.RUNNING, InstanceState.PENDING)
            self._move(held, InstanceState.STOPPING, InstanceState.STOPPED)

        self._do("stop", work, region=region, instance_id=instance_id)

    def start(self, region: str, instance_id: str) -> None:
        def work() -> None:
            held = self._find(region, instance_id)
            if held.instance.state in (InstanceState.RUNNING, InstanceState.PENDING):
                return
            self._require(region, instance_id, InstanceState.STOPPED)
            held.boots += 1
            self._move(held, InstanceState.PENDING, InstanceState.RUNNING)

        self._do("start", work, region=region, instance_id=instance_id)

    def terminate(self, region: str, instance_id: str) -> None:
        def work() -> None:
            held = self._held.get(instance_id)
            if held is None or held.instance.region != region or held.ended_at is not None:
                return
            held.ended_at = self._clock.now()
            self._move(held, InstanceState.STOPPING, InstanceState.TERMINATED)

        self._do("terminate", work, region=region, instance_id=instance_id)

    def console_output(self, region: str, instance_id: str) -> str:
        def work() -> str:
            held = self._find(region, instance_id)
            if held.instance.state is InstanceState.PENDING:
                return ""
            return "".join(
                f"[    0.000000] boot {boot} of {instance_id}\n"
                "-----BEGIN SSH HOST KEY KEYS-----\n"
                f"{self.host_key(instance_id)}\n"
                "-----END SSH HOST KEY KEYS-----\n"
                for boot in range(1, held.boots + 1)
            )

        return self._do("console_output", work, region=region, instance_id=instance_id)

    def resolve_image(self, region: str, selector: str) -> Image:
        def work() -> Image:
            images = [image for image in self._images.values() if image.region == region]
            for image in images:
                if selector in (image.id, image.name):
                    return image
            names = [word for image in images for word in (image.name, image.id)]
            near = difflib.get_close_matches(selector, names, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise NotFound(f"no image {selector!r} in {region}{hint}")

        return self._do("resolve_image", work, region=region, selector=selector)

    def list_images(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Image]:
        def work() -> Sequence[Image]:
            return [
                image
                for image in self._images.values()
                if image.region == region and tags.items() <= image.tags.items()
            ]

        return self._do("list_images", work, region=region, tags=dict(tags))

    def create_image(
        self, region: str, instance_id: str, *, name: str, tags: Mapping[str, str]
    ) -> Image:
        def work() -> Image:
            held = self._find(region, instance_id)
            if held.ended_at is not None:
                raise CloudRefused(f"instance {instance_id} is terminated: it has no disk to save")
            if any(each.region == region and each.name == name for each in self._images.values()):
                raise Conflict(f"there is an image named {name!r} in {region}")
            image = replace(
                self.add_image(name, region=region, tags=tags), state=ImageState.PENDING
            )
            self._images[image.id] = image
            return image

        return self._do(
            "create_image", work, region=region, instance_id=instance_id, name=name, tags=dict(tags)
        )

    def copy_image(
        self, source: Image, region: str, *, name: str, tags: Mapping[str, str], token: str
    ) -> Image:
        def work() -> Image:
            key = (region, token)
            if self._tokens.get(key) not in self._images:
                if source.id not in self._images:
                    raise CloudRefused(f"no image {source.id!r} in {source.region}")
                if any((i.region, i.name) == (region, name) for i in self._images.values()):
                    raise Conflict(f"there is an image named {name!r} in {region}")
                made = replace(
                    self.add_image(name, region=region, tags=tags), state=ImageState.PENDING
                )
                self._images[made.id] = made
                self._tokens[key] = made.id
            return self._images[self._tokens[key]]

        return self._do(
            "copy_image", work, source=source, region=region, name=name, tags=dict(tags)
        )

    def share_image(self, region: str, image_id: str, *, accounts: Sequence[str]) -> None:
        def work() -> None:
            self._image_of(region, image_id)
            self.shared.setdefault(image_id, set()).update(accounts)

        self._do("share_image", work, region=region, image_id=image_id, accounts=list(accounts))

    def deprecate_image(self, region: str, image_id: str, *, at: datetime) -> None:
        def work() -> None:
            self._image_of(region, image_id)
            self.deprecated[image_id] = at

        self._do("deprecate_image", work, region=region, image_id=image_id, at=at)

    def delete_image(self, region: str, image_id: str) -> None:
        def work() -> None:
            self._images.pop(image_id, None)

        self._do("delete_image", work, region=region, image_id=image_id)

    def list_resources(
        self, region: str, kind: ResourceKind, *, tags: Mapping[str, str]
    ) -> Sequence[Resource]:
        def work() -> Sequence[Resource]:
            return [
                each
                for each in self._resources.values()
                if (each.region, each.kind) == (region, kind) and tags.items() <= each.tags.items()
            ]

        return self._do("list_resources", work, region=region, kind=kind, tags=dict(tags))

    def delete_resource(self, region: str, kind: ResourceKind, resource_id: str) -> None:
        def work() -> None:
            self._resources.pop(resource_id, None)

        self._do("delete_resource", work, region=region, kind=kind, resource_id=resource_id)

    # -- inside --------------------------------------------------------------------------------

    def _do(self, method: str, work: Callable[[], _T], **arguments: Any) -> _T:
        """Remember the call, fail as scripted, let time pass, do it."""
        with self._lock:
            self.calls.append(Call(method=method, arguments=arguments))
            fault = next((each for each in self._faults if each.method == method), None)
            if fault is not None:
                fault.left -= 1
                if fault.left == 0:
                    self._faults.remove(fault)
                if not fault.after:
                    raise fault.error
            region = arguments.get("region")
            if region is not None and region not in self._regions:
                raise CloudRefused(f"no region {region!r}; there are {', '.join(self._regions)}")
            self._advance()
            result = work()
            if fault is not None:
                raise fault.error
            return result

    def _image_of(self, region: str, image_id: str) -> Image:
        image = self._images.get(image_id)
        if image is None or image.region != region:
            raise CloudRefused(f"no image {image_id!r} in {region}")
        return image

    def _find(self, region: str, instance_id: str) -> _Held:
        held = self._held.get(instance_id)
        if held is None or held.instance.region != region:
            raise InstanceNotFound(f"no instance {instance_id!r} in {region}")
        return held

    def _require(self, region: str, instance_id: str, *states: InstanceState) -> _Held:
        held = self._find(region, instance_id)
        if held.instance.state not in states:
            wanted = " or ".join(states)
            raise CloudRefused(
                f"instance {instance_id} is {held.instance.state}; this needs it {wanted}"
            )
        return held

    def _move(self, held: _Held, now: InstanceState, then: InstanceState) -> None:
        held.instance = replace(held.instance, state=now)
        held.next_state = then
        delay = self._boot if then is InstanceState.RUNNING else timedelta()
        held.due = self._clock.now() + delay

    def _advance(self) -> None:
        """What the clock has brought since the last call."""
        now = self._clock.now()
        for number, held in enumerate(self._held.values(), start=1):
            if held.next_state is None or now < held.due:
                continue
            running = held.next_state is InstanceState.RUNNING
            address = held.instance.private_ip
            if running and address is None:
                address = f"192.0.2.{number % 254 + 1}"
            elif held.next_state is InstanceState.TERMINATED:
                address = None
            held.instance = replace(held.instance, state=held.next_state, private_ip=address)
            held.next_state = None
        for image in list(self._images.values()):
            if image.state is ImageState.PENDING and now >= image.created_at + self._image:
                self._images[image.id] = replace(image, state=ImageState.AVAILABLE)


_: type[Cloud] = FakeCloud
