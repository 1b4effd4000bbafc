"""Local clouds for tests: one per worker for most, one of their own for those that break it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from slipway.clouds.local import LocalCloud
from slipway.errors import CloudUnavailable
from slipway.settings import Settings
from slipway.testing.weather import Weather
from tests.clouds.ec2 import TYPES, Moto, running_moto
from tests.clouds.shell import LocalCase, local_case


def _end(cloud: LocalCloud) -> None:
    """End a cloud and everything that ran on its machines, whatever state it is in."""
    try:
        cloud.down()
    except CloudUnavailable:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if str(cloud.directory) in process.cmdline():
                        process.kill()
        raise
    finally:
        cloud.close()
        for process in machine_processes(cloud.directory):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def machine_processes(directory: Path) -> list[psutil.Process]:
    """Everything that runs on any machine of the cloud in this directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            root = process.environ().get("SLIPWAY_ROOT", "")
            if Path(root).is_relative_to(directory) and process.pid != os.getpid():
                found.append(process)
    return found


@pytest.fixture(scope="session")
def shared_local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud for all tests of this worker; a test sees its own instances by tag."""
    cloud = LocalCloud(Settings(state_dir=tmp_path_factory.mktemp("local")))
    yield cloud
    _end(cloud)


@pytest.fixture
def case(shared_local_cloud: LocalCloud) -> Iterator[LocalCase]:
    """The shared local cloud, with this test's instances removed at its end."""
    with local_case(shared_local_cloud) as made:
        assert isinstance(made, LocalCase)
        yield made


@pytest.fixture
def new_local_cloud(tmp_path: Path) -> Iterator[Callable[[], LocalCloud]]:
    """Makes clients of a local cloud that is this test's own; all share one state directory."""
    settings = Settings(state_dir=tmp_path / "state")
    made: list[LocalCloud] = []

    def make() -> LocalCloud:
        made.append(LocalCloud(settings))
        return made[-1]

    yield make
    for cloud in made:
        _end(cloud)


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """One moto for all tests of this worker."""
    with running_moto() as found:
        yield found


@pytest.fixture
def weather(moto: Moto) -> Iterator[Weather]:
    """Weather of this test's own in front of it."""
    with Weather(upstream=moto.url, instance_types=TYPES) as found:
        yield found
