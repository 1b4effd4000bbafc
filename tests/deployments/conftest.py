"""A Prefect server with Slipway's deployments, and a Slipway that worker processes can open."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.deploying import deploy
from deployments.prefect_api import PrefectApi
from tests.deployments.crew import Crew, crew, world_in
from tests.engine import prefect_server, turn
from tests.flows.conftest import left_behind, prefect_home
from tests.launches.fixtures import keep_outputs, quick_gates
from tests.launches.world import World

__all__ = ["keep_outputs", "left_behind", "prefect_home", "quick_gates"]


@pytest.fixture(scope="session")
def prefect(prefect_home: Path) -> Iterator[PrefectApi]:
    """The session's Prefect server, with Slipway's deployments."""
    with prefect_server(prefect_home) as server:
        api = PrefectApi(server.api_url)
        # One at a time: whoever comes second finds everything unchanged.
        with turn(prefect_home), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            list(deploy(api))
        yield api
        api.close()


@pytest.fixture
def shared_world(database_url: str, quick_gates: None, tmp_path: Path) -> Iterator[World]:
    """A Slipway whose parts are all below one state directory, for processes to share."""
    with world_in(tmp_path, database_url) as made:
        yield made


@pytest.fixture
def the_crew(shared_world: World, prefect: PrefectApi, tmp_path: Path) -> Iterator[Crew]:
    """Workers on the session's Prefect server."""
    with crew(shared_world, prefect, tmp_path) as made:
        yield made
