"""One local cloud per worker, one world on it per test; for the conftest of whoever launches."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipway.gates.linux
from slipway.clouds.local import LocalCloud
from slipway.launches import scripts
from slipway.settings import Settings
from tests.launches.world import World, make_world


@pytest.fixture(scope="session")
def launch_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud for all launches of this worker."""
    cloud = LocalCloud(Settings(state_dir=tmp_path_factory.mktemp("launches")))
    yield cloud
    cloud.down()


@pytest.fixture
def quick_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two probes of the boot gate come at once: what they see is what counts here."""
    quick = dataclasses.replace(
        slipway.gates.linux.LINUX, spacing_s=0.05, first_pause_s=0.05, max_pause_s=0.2
    )
    monkeypatch.setattr(slipway.gates.linux, "LINUX", quick)


@pytest.fixture
def keep_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scripts print stays on the machine, to be compared with the record."""
    monkeypatch.setattr(scripts, "forget_outputs", lambda _work: None)


@pytest.fixture
def world(
    settings: Settings,
    launch_cloud: LocalCloud,
    database_url: str,
    quick_gates: None,
    tmp_path: Path,
) -> Iterator[World]:
    """A Slipway of the test's own, on the worker's local cloud."""
    templates = tmp_path / "templates"
    templates.mkdir()
    made = make_world(
        Settings(
            state_dir=settings.state_dir,
            database_url=database_url,
            templates_dir=templates,
            poll_interval_s=0.05,
        ),
        launch_cloud,
    )
    yield made
    made.end()
    shutil.rmtree(templates)
