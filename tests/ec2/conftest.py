"""EC2 with real machines behind it: moto, some weather, and the local cloud's stand-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from slipway.clouds.local import LocalCloud
from slipway.launches.services import build_services
from slipway.settings import Settings
from slipway.testing.machines import LocalMachines
from slipway.testing.weather import Weather
from tests.clouds.conftest import moto
from tests.clouds.ec2 import KEYS, REGION, TYPES, Moto
from tests.launches.fixtures import keep_outputs, launch_cloud, quick_gates
from tests.launches.world import World

__all__ = ["keep_outputs", "launch_cloud", "moto", "quick_gates"]

#: Where the image is looked up, as a distribution publishes its newest.
PARAMETER = "/slipway-testing/image"


@pytest.fixture
def machines(launch_cloud: LocalCloud) -> LocalMachines:
    return LocalMachines(launch_cloud)


@pytest.fixture
def weather(moto: Moto, machines: LocalMachines | None) -> Iterator[Weather]:
    """New instances are pending, and unknown to every other call, for a moment."""
    moto.client("ssm").put_parameter(
        Name=PARAMETER, Value=moto.image_id, Type="String", Overwrite=True
    )
    with Weather(
        upstream=moto.url,
        instance_types=TYPES,
        machines=machines,
        pending_s=0.2,
        unlisted_s=0.1,
    ) as found:
        yield found


@pytest.fixture
def spot() -> str:
    """Whether spot instances are asked for, as the clouds file says it."""
    return "never"


@pytest.fixture
def lacks() -> list[str]:
    """What the cloud cannot do, as the clouds file says it."""
    return []


@pytest.fixture
def clouds_file(weather: Weather, spot: str, lacks: list[str], tmp_path: Path) -> Path:
    """One account of EC2, named ``aws``."""
    entry = {
        "type": "ec2",
        "regions": {REGION: {}},
        "keys": {"access_key_id": KEYS.access_key_id, "secret_access_key": "cred:aws"},
        "endpoint_url": weather.url,
        "spot": spot,
        "lacks": lacks,
        "ssh_port_tag": Weather.SSH_PORT_TAG,
    }
    path = tmp_path / "clouds.yaml"
    # JSON is YAML as well.
    path.write_text(json.dumps({"schema": "slipway-clouds/1", "clouds": {"aws": entry}}))
    return path


@pytest.fixture
def ec2_world(
    clouds_file: Path,
    launch_cloud: LocalCloud,
    database_url: str,
    quick_gates: None,
    tmp_path: Path,
) -> Iterator[World]:
    """A Slipway that launches in that account."""
    templates = tmp_path / "templates"
    settings = Settings(
        state_dir=tmp_path / "state",
        database_url=database_url,
        templates_dir=templates,
        clouds_file=clouds_file,
        poll_interval_s=0.05,
    )
    services = build_services(settings)
    services.vault.put("aws", SecretStr(KEYS.secret_access_key.get_secret_value()))
    made = World(services=services, cloud=launch_cloud)
    choice = {"image": f"ssm:{PARAMETER}", "instance_type": TYPES[0], "user": "admin"}
    made.write_entries("plain", {"ec2": {"*": {"x86_64": choice}}})
    yield made
    services.database.close()
