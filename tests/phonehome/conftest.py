"""Fixtures of every test of servers that call us."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.clouds.local import LocalCloud
from slipway.settings import Settings
from tests.launches.fixtures import keep_outputs, launch_cloud, quick_gates
from tests.launches.world import World, make_world
from tests.phonehome.serving import Api, JumpingClock

__all__ = ["keep_outputs", "launch_cloud", "quick_gates"]


@pytest.fixture
def calling(
    settings: Settings,
    launch_cloud: LocalCloud,
    database_url: str,
    quick_gates: None,
    tmp_path: Path,
) -> Iterator[tuple[World, Api]]:
    """A Slipway of the test's own whose servers refuse SSH and call its API instead."""
    templates = tmp_path / "templates"
    templates.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = make_world(
        Settings(
            state_dir=settings.state_dir,
            database_url=database_url,
            templates_dir=templates,
            poll_interval_s=0.05,
            api_url=f"http://127.0.0.1:{port}",
        ),
        launch_cloud,
    )
    made.services = replace(made.services, clock=JumpingClock())
    api = Api(made.services, port)
    api.start()
    yield made, api
    api.stop()
    made.end()
