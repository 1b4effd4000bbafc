"""All machines and images of one local cloud: what the supervisor serves."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slipway.clock import Clock
from slipway.clouds.base import Image, ImageState, Instance, InstanceState
from slipway.clouds.local import disk
from slipway.clouds.local.confinement import Confinement
from slipway.clouds.local.faults import BUILT_IN, FOR_EVER, Faults
from slipway.clouds.local.machine import RECORD, Machine, MachineRecord, Surroundings
from slipway.clouds.local.reaper import Reaper
from slipway.clouds.local.shims import Shims
from slipway.clouds.local.wire import INSTANCE_TYPE, REGION, CreateInstance, write_atomically
from slipway.errors import (
    CapacityUnavailable,
    CloudRefused,
    Conflict,
    InstanceNotFound,
    NotFound,
)

_log = logging.getLogger(__name__)

#: How long a terminated instance stays listed.
TERMINATED_LISTED = timedelta(hours=1)

_TOKEN_LENGTH = 64
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-\S+ [A-Za-z0-9+/=]+( [^\n]*)?")

#: Addresses are given out in 127.64.0.0/10, from a start that differs per local cloud, so that
#: two of them on one computer rarely meet.
_ADDRESSES = 1 << 22

#: Before anything that this release could have made.
_BUILT_IN_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """``image.json``: one image and what goes wrong on machines made from it."""

    image: Image
    faults: Faults
    #: There is a file system with it; without, machines start from nothing.
    has_root: bool


_IMAGE_RECORD = TypeAdapter(ImageRecord)


class Host:
    """Lives in the supervisor's event loop; every method is called from there."""

    def __init__(self, directory: Path, confinement: Confinement, clock: Clock) -> None:
        self.directory = directory
        self.confinement = confinement
        self.reaper = Reaper()
        self._clock = clock
        self._machines: dict[str, Machine] = {}
        self._by_token: dict[str, str] = {}
        self._images: dict[str, ImageRecord] = {}
        self._refused: dict[str, int] = {}
        self._replies_lost: dict[str, int] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._next_address = 0
        digest = hashlib.sha256(os.fsencode(directory)).digest()
        self._first_address = int.from_bytes(digest[:4], "big")
        self._around = Surroundings(
            clock=clock,
            confinement=confinement,
            shims=Shims(directory / "shims"),
            reaper=self.reaper,
            background=self._background,
            ports_taken=self._ports_taken,
            image_root=self._image_root,
        )

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is on disk, end what a killed supervisor left running, boot what ran."""
        await asyncio.to_thread(self._around.shims.install)
        await asyncio.to_thread(self._load)
        ids = {machine.record.id for machine in self._machines.values()}
        if ids:
            await asyncio.to_thread(self.reaper.sweep, ids, namespaces=set(), graceful=False)
        for machine in self._machines.values():
            machine.resume()

    async def close(self) -> None:
        """Take all machines down; they come back with the next supervisor."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        downs = [machine.lose_power() for machine in self._machines.values()]
        for result in await asyncio.gather(*downs, return_exceptions=True):
            if isinstance(result, BaseException):
                _log.error("a machine did not go down", exc_info=result)
        await self.confinement.close()

    def _load(self) -> None:
        for path in sorted(self.directory.glob("instances/*/instance.json")):
            record = RECORD.validate_json(path.read_bytes())
            self._add(Machine(path.parent, record, self._around))
        self._next_address = len(self._machines)
        for name, faults in BUILT_IN.items():
            image = Image(
                id=name,
                name=name,
                state=ImageState.AVAILABLE,
                region=REGION,
                created_at=_BUILT_IN_AT,
                description="A stand-in for Debian 12, built in.",
            )
            self._images[name] = ImageRecord(image=image, faults=faults, has_root=False)
        for path in sorted(self.directory.glob("images/*/image.json")):
            stored = _IMAGE_RECORD.validate_json(path.read_bytes())
            if stored.image.state is ImageState.PENDING:
                failed = replace(stored.image, state=ImageState.FAILED)
                stored = replace(stored, image=failed)
            self._images[stored.image.id] = stored

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._finished)

    def _finished(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and job.exception():
            _log.error("a job failed", exc_info=job.exception())

    # -- instances ---------------------------------------------------------------------------

    def running(self) -> int:
        """How many machines are running."""
        states = [machine.record.state for machine in self._machines.values()]
        return states.count(InstanceState.RUNNING)

    def create_instance(self, request: CreateInstance) -> tuple[Instance, bool]:
        """Create an instance or find the one of this token; True when the reply is to be lost."""
        spec, token = request.spec, request.token
        if not 0 < len(token) <= _TOKEN_LENGTH:
            raise CloudRefused(f"a client token has 1 to {_TOKEN_LENGTH} characters, not {token!r}")
        known = self._by_token.get(token)
        if known is not None:
            machine = self._machines[known]
            if machine.record.spec != spec:
                raise CloudRefused(
                    f"client token {token!r} was used for instance {known} with other parameters"
                )
            return machine.instance(), self._loses_reply(token, machine.faults)
        image = self._checked_image(request)
        if _again(self._refused.get(token, 0), image.faults.capacity_refusals):
            self._refused[token] = self._refused.get(token, 0) + 1
            raise CapacityUnavailable(f"no capacity for {spec.instance_type} in {spec.region} now")
        record = MachineRecord(
            id=f"i-{secrets.token_hex(8)}",
            token=token,
            spec=spec,
            faults=image.faults,
            created_at=self._clock.now(),
            address=self._new_address(),
        )
        machine = Machine(self.directory / "instances" / record.id, record, self._around)
        machine.save()
        self._add(machine)
        machine.resume()
        return machine.instance(), self._loses_reply(token, machine.faults)

    def list_instances(self, tags: Mapping[str, str]) -> list[Instance]:
        """Everything that carries these tags."""
        self._forget_old()
        now = self._clock.now()
        return [
            machine.instance()
            for machine in self._machines.values()
            if tags.items() <= machine.record.spec.tags.items()
            and (now - machine.record.created_at).total_seconds() >= machine.faults.unlisted_s
        ]

    def machine(self, instance_id: str) -> Machine:
        """The machine of this id. Raises `InstanceNotFound`."""
        try:
            return self._machines[instance_id]
        except KeyError:
            raise InstanceNotFound(f"no instance {instance_id!r} in the local cloud") from None

    def terminate(self, instance_id: str) -> None:
        """End it for good; one that is gone is fine."""
        if instance_id in self._machines:
            self._machines[instance_id].terminate()

    def _add(self, machine: Machine) -> None:
        self._machines[machine.record.id] = machine
        self._by_token[machine.record.token] = machine.record.id

    def _checked_image(self, request: CreateInstance) -> ImageRecord:
        spec = request.spec
        if spec.region != REGION:
            raise CloudRefused(f"no region {spec.region!r}; the local cloud has {REGION!r}")
        if spec.instance_type != INSTANCE_TYPE:
            raise CloudRefused(
                f"no instance type {spec.instance_type!r}; the local cloud has {INSTANCE_TYPE!r}"
            )
        if not _USER.fullmatch(spec.login_user):
            raise CloudRefused(f"{spec.login_user!r} is not the name of a Linux account")
        if not _PUBLIC_KEY.fullmatch(spec.ssh_public_key.strip()):
            raise CloudRefused("ssh_public_key is not one line as in authorized_keys")
        record = self._images.get(spec.image_id)
        if record is None:
            raise CloudRefused(f"no image {spec.image_id!r}{self._nearest(spec.image_id)}")
        if record.image.state is not ImageState.AVAILABLE:
            raise CloudRefused(f"image {spec.image_id} is {record.image.state}, not available")
        return record

    def _loses_reply(self, token: str, faults: Faults) -> bool:
        lost = self._replies_lost.get(token, 0)
        if not _again(lost, faults.create_replies_lost):
            return False
        self._replies_lost[token] = lost + 1
        return True

    def _new_address(self) -> str:
        if sys.platform != "linux":
            # macOS answers on 127.0.0.1 alone; the machines differ by port.
            return "127.0.0.1"
        used = {machine.record.address for machine in self._machines.values()}
        while True:
            number = (self._first_address + self._next_address) % _ADDRESSES
            self._next_address += 1
            high, last = divmod(number, 256)
            address = f"127.{64 + (high >> 8)}.{high & 255}.{last}"
            if 0 < last < 255 and address not in used:
                return address

    def _ports_taken(self, address: str) -> set[int]:
        return {
            machine.record.port
            for machine in self._machines.values()
            if machine.record.address == address and not machine.record.ended_at
        }

    def _forget_old(self) -> None:
        limit = self._clock.now() - TERMINATED_LISTED
        for machine in list(self._machines.values()):
            ended = machine.record.ended_at
            if ended is not None and ended < limit:
                del self._machines[machine.record.id]
                del self._by_token[machine.record.token]
                self._background(asyncio.to_thread(disk.remove, machine.folder))

    # -- images --------------------------------------------------------------------------------

    def resolve_image(self, selector: str) -> Image:
        """The image of this id or name. Raises `NotFound` naming the nearest."""
        for record in self._images.values():
            if selector in (record.image.id, record.image.name):
                return record.image
        raise NotFound(f"no image {selector!r} in the local cloud{self._nearest(selector)}")

    def list_images(self, tags: Mapping[str, str]) -> list[Image]:
        """The images that carry these tags."""
        images = [record.image for record in self._images.values()]
        return [image for image in images if tags.items() <= image.tags.items()]

    def register_image(self, name: str, faults: Faults) -> Image:
        """An image on which these things go wrong; replaces the faults of one that exists."""
        if name in BUILT_IN:
            raise Conflict(f"image {name} is built in; register its faults under another name")
        for record in self._images.values():
            if record.image.name == name:
                self._save_image(replace(record, faults=faults))
                return record.image
        image = Image(
            id=f"img-{secrets.token_hex(8)}",
            name=name,
            state=ImageState.AVAILABLE,
            region=REGION,
            created_at=self._clock.now(),
            description="A stand-in for Debian 12, registered with faults.",
        )
        self._save_image(ImageRecord(image=image, faults=faults, has_root=False))
        return image

    def create_image(self, instance_id: str, name: str, tags: Mapping[str, str]) -> Image:
        """Start to copy the machine's disk. Raises `Conflict`, `CloudRefused`."""
        machine = self.machine(instance_id)
        if not machine.record.built or machine.record.terminating:
            state = machine.record.state
            raise CloudRefused(f"instance {instance_id} is {state} and has no disk to save")
        if any(record.image.name == name for record in self._images.values()):
            raise Conflict(f"there is an image named {name!r} in the local cloud")
        image = Image(
            id=f"img-{secrets.token_hex(8)}",
            name=name,
            state=ImageState.PENDING,
            region=REGION,
            created_at=self._clock.now(),
            tags=dict(tags),
            description=f"The disk of {instance_id}.",
        )
        record = ImageRecord(image=image, faults=Faults(), has_root=True)
        self._save_image(record)
        self._background(self._snapshot(machine, record))
        return image

    async def delete_image(self, image_id: str) -> None:
        """Remove an image; one that is gone is fine."""
        if image_id in BUILT_IN:
            raise CloudRefused(f"image {image_id} is built in and stays")
        if self._images.pop(image_id, None) is not None:
            await asyncio.to_thread(disk.remove, self._image_folder(image_id))

    async def _snapshot(self, machine: Machine, record: ImageRecord) -> None:
        state = ImageState.AVAILABLE
        try:
            root = self._image_folder(record.image.id) / "root"
            await asyncio.to_thread(disk.copy, machine.root, root)
        except OSError:
            _log.exception("image %s of %s", record.image.name, machine.record.id)
            state = ImageState.FAILED
        if record.image.id not in self._images:
            # Deleted meanwhile.
            await asyncio.to_thread(disk.remove, self._image_folder(record.image.id))
            return
        current = self._images[record.image.id]
        self._save_image(replace(current, image=replace(current.image, state=state)))

    def _image_folder(self, image_id: str) -> Path:
        return self.directory / "images" / image_id

    def _image_root(self, image_id: str) -> Path | None:
        record = self._images.get(image_id)
        if record is None:
            raise OSError(f"image {image_id} was deleted")
        return self._image_folder(image_id) / "root" if record.has_root else None

    def _save_image(self, record: ImageRecord) -> None:
        folder = self._image_folder(record.image.id)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "image.json", _IMAGE_RECORD.dump_json(record, indent=1))
        self._images[record.image.id] = record

    def _nearest(self, selector: str) -> str:
        names = [
            each
            for record in self._images.values()
            for each in (record.image.name, record.image.id)
        ]
        near = difflib.get_close_matches(selector, names, n=1, cutoff=0.0)
        return f"; the nearest is {near[0]!r}" if near else ""


def _again(times: int, limit: int) -> bool:
    """Whether a fault that has happened so many times happens once more."""
    return limit == FOR_EVER or times < limit
