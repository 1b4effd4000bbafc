"""The fake does what a test tells it to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from slipway.clouds.base import Capabilities, InstanceSpec, InstanceState
from slipway.errors import CloudThrottled, CloudUnavailable
from slipway.testing.cloud_contract import NOBODYS_KEY
from slipway.testing.fake_cloud import FakeCloud


class StandingClock:
    """Moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def spec(cloud: FakeCloud) -> InstanceSpec:
    return InstanceSpec(
        name="web",
        region="region-1",
        image_id=cloud.resolve_image("region-1", "debian-12").id,
        instance_type="small",
        ssh_public_key=NOBODYS_KEY,
        login_user="admin",
    )


def test_states_move_with_the_clock() -> None:
    """An instance is PENDING for as long as was said, by the clock that was passed in."""
    clock = StandingClock()
    cloud = FakeCloud(clock=clock, boot_s=10)
    cloud.create_instance(spec(cloud), token="t")
    clock.sleep(9)
    assert cloud.list_instances("region-1", tags={})[0].state is InstanceState.PENDING
    clock.sleep(1)
    (running,) = cloud.list_instances("region-1", tags={})
    assert (running.state, running.address is None) == (InstanceState.RUNNING, False)


def test_new_instances_are_listed_late() -> None:
    """Listings leave a new instance out for as long as was said."""
    clock = StandingClock()
    cloud = FakeCloud(clock=clock, unlisted_s=5)
    cloud.create_instance(spec(cloud), token="t")
    assert cloud.list_instances("region-1", tags={}) == []
    clock.sleep(5)
    assert len(cloud.list_instances("region-1", tags={})) == 1


def test_terminated_instances_are_forgotten() -> None:
    """A terminated instance is listed for an hour."""
    clock = StandingClock()
    cloud = FakeCloud(clock=clock)
    instance = cloud.create_instance(spec(cloud), token="t")
    cloud.terminate("region-1", instance.id)
    clock.sleep(3599)
    assert cloud.list_instances("region-1", tags={})[0].state is InstanceState.TERMINATED
    clock.sleep(1)
    assert cloud.list_instances("region-1", tags={}) == []


def test_scripted_failures() -> None:
    """A scripted error comes as often as said, and leaves no effect behind."""
    cloud = FakeCloud()
    wanted = spec(cloud)
    cloud.fail_next("create_instance", CloudThrottled("slow down"), times=2)
    for _ in range(2):
        with pytest.raises(CloudThrottled, match="slow down"):
            cloud.create_instance(wanted, token="t")
    assert cloud.list_instances("region-1", tags={}) == []
    cloud.create_instance(wanted, token="t")


def test_a_lost_reply() -> None:
    """An error after the effect: the instance exists, and its token finds it."""
    cloud = FakeCloud()
    wanted = spec(cloud)
    cloud.fail_next("create_instance", CloudUnavailable(), after=True)
    with pytest.raises(CloudUnavailable):
        cloud.create_instance(wanted, token="t")
    (listed,) = cloud.list_instances("region-1", tags={})
    assert cloud.create_instance(wanted, token="t").id == listed.id


def test_a_fault_needs_a_method() -> None:
    """A fault for a method that clouds do not have is a mistake in the test."""
    with pytest.raises(ValueError, match="create_server"):
        FakeCloud().fail_next("create_server", CloudUnavailable())


def test_without_client_tokens() -> None:
    """A cloud that has no client tokens makes two instances of one token, and tells none."""
    cloud = FakeCloud(capabilities=Capabilities(client_tokens=False))
    first, second = (cloud.create_instance(spec(cloud), token="t") for _ in range(2))
    assert first.id != second.id
    assert first.token is None


def test_it_remembers_what_it_was_asked() -> None:
    """Calls are kept in order with their arguments, failed ones included."""
    cloud = FakeCloud()
    cloud.fail_next("list_instances", CloudUnavailable())
    with pytest.raises(CloudUnavailable):
        cloud.list_instances("region-1", tags={"a": "b"})
    cloud.terminate("region-1", "i-1")
    assert [call.method for call in cloud.calls] == ["list_instances", "terminate"]
    assert cloud.calls[0].arguments == {"region": "region-1", "tags": {"a": "b"}}
    assert cloud.count("terminate") == 1


def test_what_the_cloud_does_by_itself() -> None:
    """A test can fail, hide and move an instance."""
    cloud = FakeCloud()
    instance = cloud.create_instance(spec(cloud), token="t")
    cloud.set_state(instance.id, InstanceState.FAILED, reason="no power")
    cloud.set_address(instance.id, private_ip="127.0.0.1", ssh_port=2222)
    (seen,) = cloud.list_instances("region-1", tags={})
    assert (seen.state, seen.state_reason) == (InstanceState.FAILED, "no power")
    assert (seen.address, seen.ssh_port) == ("127.0.0.1", 2222)
    cloud.set_listed(instance.id, False)
    assert cloud.list_instances("region-1", tags={}) == []
    cloud.set_listed(instance.id, True)
    assert len(cloud.list_instances("region-1", tags={})) == 1


def test_the_console_shows_the_host_key() -> None:
    """The console has the key of the instance between the lines cloud-init prints."""
    cloud = FakeCloud()
    instance = cloud.create_instance(spec(cloud), token="t")
    assert cloud.host_key(instance.id) in cloud.console_output("region-1", instance.id)
