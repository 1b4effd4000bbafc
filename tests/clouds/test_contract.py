"""Every adapter, the fake included, passes the same contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipway.clouds.local import LocalCloud
from slipway.testing.cloud_contract import CloudCase, CloudContract
from slipway.testing.fake_cloud import FakeCloud
from slipway.testing.weather import Weather
from tests.clouds.ec2 import Moto, ec2_case
from tests.clouds.shell import local_case


class TestFakeCloud(CloudContract):
    @pytest.fixture
    def case(self) -> Iterator[CloudCase]:
        cloud = FakeCloud()
        image = cloud.resolve_image("region-1", "debian-12")
        with CloudCase(
            cloud=cloud, region="region-1", image_id=image.id, instance_type="small"
        ) as case:
            yield case


class TestLocalCloud(CloudContract):
    @pytest.fixture
    def case(self, shared_local_cloud: LocalCloud) -> Iterator[CloudCase]:
        with local_case(shared_local_cloud) as case:
            yield case


class TestEc2Cloud(CloudContract):
    @pytest.fixture
    def case(self, moto: Moto, weather: Weather) -> Iterator[CloudCase]:
        # Some of what moto leaves out: a while of pending.
        weather.pending_s = 0.02
        with ec2_case(moto, weather) as case:
            yield case
