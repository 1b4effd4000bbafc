"""What every `Cloud` must do, as tests: one class that runs over every adapter, fakes included.

A test module subclasses `CloudContract` and provides a fixture ``case``::

    class TestMyCloud(CloudContract):
        @pytest.fixture
        def case(self):
            with CloudCase(cloud=MyCloud(), region="r", image_id="i", instance_type="t") as case:
                yield case

No test runner is imported here: users who test their own adapter bring their own.
"""

from __future__ import annotations

import time
import unittest
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TypeVar

from slipway.clouds.base import (
    TAG_INSTALLATION,
    TAG_LAUNCH,
    Cloud,
    Image,
    ImageState,
    Instance,
    InstanceSpec,
    InstanceState,
)
from slipway.errors import CloudRefused, Conflict, InstanceNotFound, NotFound, SlipwayError

_T = TypeVar("_T")

#: A public key whose private half nobody has.
NOBODYS_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTz9RDL0Qk6E/ZbBMs6/BMJ6vLXFuA3PBKU+Rm2nprT nobody"
)


def until(ask: Callable[[], _T | None], *, what: str, deadline_s: float, pause_s: float) -> _T:
    """Ask until the answer is true. Raises AssertionError after the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline_s} s still not so: {what}; last: {answer!r}")
        time.sleep(pause_s)


@contextmanager
def refused(error: type[SlipwayError], *, naming: str = "") -> Generator[None, None, None]:
    """The block must raise this error, and its message must hold ``naming``."""
    try:
        yield
    except error as raised:
        if naming not in str(raised):
            raise AssertionError(f"the error does not name {naming!r}") from raised
    else:
        raise AssertionError(f"{error.__name__} was not raised")


@dataclass(kw_only=True)
class CloudCase:
    """One cloud under test. On leaving it terminates what `create` made and deletes the images."""

    cloud: Cloud
    region: str
    image_id: str
    instance_type: str
    ssh_public_key: str = NOBODYS_KEY
    login_user: str = "admin"
    #: How long anything may take.
    deadline_s: float = 60.0
    #: The pause between two looks.
    pause_s: float = 0.02
    #: Every instance of this case carries it, so that tests can share a cloud.
    installation: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex}")
    made: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)

    def __enter__(self) -> CloudCase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for instance_id in self.made:
            self.cloud.terminate(self.region, instance_id)
        for image_id in self.images:
            self.cloud.delete_image(self.region, image_id)

    @property
    def tags(self) -> Mapping[str, str]:
        """What everything of this case carries."""
        return {TAG_INSTALLATION: self.installation}

    def spec(self, *, tags: Mapping[str, str] | None = None, user_data: str = "") -> InstanceSpec:
        """A spec that must work."""
        return InstanceSpec(
            name="contract",
            region=self.region,
            image_id=self.image_id,
            instance_type=self.instance_type,
            ssh_public_key=self.ssh_public_key,
            login_user=self.login_user,
            user_data=user_data,
            tags={**self.tags, **(tags or {})},
        )

    def create(self, spec: InstanceSpec | None = None, *, token: str | None = None) -> Instance:
        """Create an instance that this case removes at its end."""
        instance = self.cloud.create_instance(spec or self.spec(), token=token or uuid.uuid4().hex)
        self.made.add(instance.id)
        return instance

    def listed(self) -> Sequence[Instance]:
        """All instances of this case."""
        return self.cloud.list_instances(self.region, tags=self.tags)

    def seen(self, instance_id: str) -> Instance | None:
        """The instance as listed now."""
        return next((each for each in self.listed() if each.id == instance_id), None)

    def until_state(self, instance_id: str, state: InstanceState) -> Instance:
        """Wait for a state, and return the instance in it."""

        def ask() -> Instance | None:
            instance = self.seen(instance_id)
            return instance if instance and instance.state is state else None

        return until(
            ask,
            what=f"{instance_id} is {state}",
            deadline_s=self.deadline_s,
            pause_s=self.pause_s,
        )

    def running(self, spec: InstanceSpec | None = None) -> Instance:
        """A new instance that runs."""
        return self.until_state(self.create(spec).id, InstanceState.RUNNING)


class CloudContract:
    """Every adapter passes all of this."""

    def test_names_itself(self, case: CloudCase) -> None:
        """A cloud has a name and knows the region and instance type it is tested with."""
        assert case.cloud.name
        assert case.region in case.cloud.regions()
        types = case.cloud.instance_types(case.region)
        assert not types or case.instance_type in types

    def test_create_returns_the_instance_at_once(self, case: CloudCase) -> None:
        """A create answers with the id, the tags and everything else that was asked for."""
        spec = case.spec(tags={TAG_LAUNCH: "l-1"})
        instance = case.create(spec, token="t" + uuid.uuid4().hex)
        assert instance.id
        assert instance.state in (InstanceState.PENDING, InstanceState.RUNNING)
        assert dict(instance.tags) == dict(spec.tags)
        assert instance.region == case.region
        assert instance.image_id == case.image_id
        assert instance.instance_type == case.instance_type
        assert abs(datetime.now(UTC) - instance.created_at) < timedelta(hours=24)

    def test_a_created_instance_runs_and_has_an_address(self, case: CloudCase) -> None:
        """An instance becomes RUNNING and says where it is reached."""
        instance = case.running()
        assert instance.address
        assert 0 < instance.ssh_port < 65536

    def test_one_token_makes_one_instance(self, case: CloudCase) -> None:
        """Creating again with the same token returns the same instance."""
        self._needs(case.cloud.capabilities.client_tokens, "client tokens")
        token = uuid.uuid4().hex
        first = case.create(token=token)
        again = case.create(token=token)
        assert again.id == first.id
        assert first.token in (None, token)
        assert [each.id for each in case.listed()] == [first.id]

    def test_one_token_makes_one_instance_for_many_callers(self, case: CloudCase) -> None:
        """Callers racing with one token get one instance."""
        self._needs(case.cloud.capabilities.client_tokens, "client tokens")
        token, spec = uuid.uuid4().hex, case.spec()
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: case.create(spec, token=token).id, range(8)))
        assert len(set(made)) == 1
        assert [each.id for each in case.listed()] == made[:1]

    def test_a_token_is_for_one_spec(self, case: CloudCase) -> None:
        """The same token with other parameters is refused."""
        self._needs(case.cloud.capabilities.client_tokens, "client tokens")
        token = uuid.uuid4().hex
        case.create(token=token)
        with refused(CloudRefused):
            case.create(case.spec(user_data="#!/bin/sh\n"), token=token)
        assert len(case.listed()) == 1

    def test_bad_specs_are_refused(self, case: CloudCase) -> None:
        """An unknown image or instance type is refused by name, and nothing is created."""
        with refused(CloudRefused, naming="image-that-is-not"):
            case.create(replace(case.spec(), image_id="image-that-is-not"))
        if case.cloud.instance_types(case.region):
            with refused(CloudRefused, naming="type.that.is.not"):
                case.create(replace(case.spec(), instance_type="type.that.is.not"))
        assert case.listed() == []

    def test_an_unknown_region_is_refused(self, case: CloudCase) -> None:
        """A region the cloud does not have is refused by name."""
        with refused(CloudRefused, naming="nowhere-1"):
            case.cloud.list_instances("nowhere-1", tags={})

    def test_listings_filter_by_all_tags(self, case: CloudCase) -> None:
        """A listing has what carries all the tags asked for, and nothing else."""
        one = case.create(case.spec(tags={"colour": "red", "size": "s"}))
        two = case.create(case.spec(tags={"colour": "red", "size": "l"}))

        def found(**tags: str) -> set[str]:
            wanted = {**case.tags, **tags}
            return {each.id for each in case.cloud.list_instances(case.region, tags=wanted)}

        assert found() == {one.id, two.id}
        assert found(colour="red") == {one.id, two.id}
        assert found(colour="red", size="l") == {two.id}
        assert found(colour="blue") == set()

    def test_listings_have_full_detail(self, case: CloudCase) -> None:
        """A listed instance is what creating it returned, but for its state and address."""
        created = case.create()
        (listed,) = case.listed()

        def settled(instance: Instance) -> Instance:
            state = InstanceState.PENDING
            return replace(instance, state=state, private_ip=None, public_ip=None, ssh_port=22)

        assert settled(listed) == settled(created)

    def test_terminated_instances_stay_listed(self, case: CloudCase) -> None:
        """Terminating ends in TERMINATED, is still listed, and doing it twice succeeds."""
        instance = case.running()
        case.cloud.terminate(case.region, instance.id)
        case.until_state(instance.id, InstanceState.TERMINATED)
        case.cloud.terminate(case.region, instance.id)
        assert case.until_state(instance.id, InstanceState.TERMINATED).id == instance.id

    def test_terminating_what_is_gone_succeeds(self, case: CloudCase) -> None:
        """Terminating an instance the cloud does not know is no error."""
        case.cloud.terminate(case.region, self._unknown_id(case))

    def test_unknown_instances_are_not_found(self, case: CloudCase) -> None:
        """Every other call about an instance the cloud does not know says so."""
        unknown = self._unknown_id(case)
        with refused(InstanceNotFound):
            case.cloud.reboot(case.region, unknown)
        with refused(InstanceNotFound):
            case.cloud.console_output(case.region, unknown)
        if case.cloud.capabilities.stop_start:
            with refused(InstanceNotFound):
                case.cloud.stop(case.region, unknown)
            with refused(InstanceNotFound):
                case.cloud.start(case.region, unknown)

    def test_stop_and_start(self, case: CloudCase) -> None:
        """A stopped instance starts again under the same id; repeating either is no error."""
        self._needs(case.cloud.capabilities.stop_start, "stop and start")
        instance = case.running()
        case.cloud.stop(case.region, instance.id)
        case.until_state(instance.id, InstanceState.STOPPED)
        case.cloud.stop(case.region, instance.id)
        case.cloud.start(case.region, instance.id)
        assert case.until_state(instance.id, InstanceState.RUNNING).address
        case.cloud.start(case.region, instance.id)
        assert len(case.listed()) == 1

    def test_reboot_keeps_the_instance(self, case: CloudCase) -> None:
        """A rebooted instance runs, under the same id and address."""
        instance = case.running()
        case.cloud.reboot(case.region, instance.id)
        assert case.until_state(instance.id, InstanceState.RUNNING).address == instance.address

    def test_console_output_is_text(self, case: CloudCase) -> None:
        """The console of a running instance can be read."""
        self._needs(case.cloud.capabilities.console_output, "console output")
        instance = case.running()
        text = until(
            lambda: case.cloud.console_output(case.region, instance.id),
            what="the console has printed something",
            deadline_s=case.deadline_s,
            pause_s=case.pause_s,
        )
        assert isinstance(text, str)

    def test_images_resolve_by_id_and_name(self, case: CloudCase) -> None:
        """An image is found by its id and by its name."""
        image = case.cloud.resolve_image(case.region, case.image_id)
        assert image.id == case.image_id
        assert image.state is ImageState.AVAILABLE
        assert case.cloud.resolve_image(case.region, image.name).id == image.id

    def test_an_unknown_image_names_the_nearest(self, case: CloudCase) -> None:
        """A misspelt image is not found, and the message names the one that was meant."""
        name = case.cloud.resolve_image(case.region, case.image_id).name
        with refused(NotFound, naming=name):
            case.cloud.resolve_image(case.region, name + "x")

    def test_an_image_is_saved_and_removed(self, case: CloudCase) -> None:
        """An instance's disk becomes an image that can be launched, listed by tag and deleted."""
        self._needs(case.cloud.capabilities.images, "images")
        instance = case.running()
        name = f"image-{uuid.uuid4().hex}"
        image = case.cloud.create_image(case.region, instance.id, name=name, tags=case.tags)
        case.images.add(image.id)
        assert image.state in (ImageState.PENDING, ImageState.AVAILABLE)

        def available() -> Image | None:
            found = case.cloud.list_images(case.region, tags=case.tags)
            ready = [each for each in found if each.state is ImageState.AVAILABLE]
            return ready[0] if ready else None

        ready = until(
            available, what="the image is there", deadline_s=case.deadline_s, pause_s=case.pause_s
        )
        assert (ready.id, ready.name) == (image.id, name)
        assert dict(ready.tags) == dict(case.tags)
        assert case.cloud.resolve_image(case.region, name).id == image.id
        with refused(Conflict, naming=name):
            case.cloud.create_image(case.region, instance.id, name=name, tags=case.tags)
        assert case.running(replace(case.spec(), image_id=image.id)).image_id == image.id
        case.cloud.delete_image(case.region, image.id)
        case.cloud.delete_image(case.region, image.id)
        assert case.cloud.list_images(case.region, tags=case.tags) == []
        with refused(NotFound):
            case.cloud.resolve_image(case.region, name)

    def _unknown_id(self, case: CloudCase) -> str:
        """An id in the form this cloud gives out, of an instance it never had."""
        known = case.create().id
        return known[:-1] + ("0" if known[-1] != "0" else "1")

    @staticmethod
    def _needs(capability: bool, what: str) -> None:
        if not capability:
            raise unittest.SkipTest(f"this cloud has no {what}")
