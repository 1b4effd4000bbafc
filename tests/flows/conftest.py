"""A Prefect server for the few tests that need one, and what it tells."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine import Api, prefect_server
from tests.launches.fixtures import launch_cloud, quick_gates, world

__all__ = ["launch_cloud", "quick_gates", "world"]


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Any:
    """Where the session's Prefect server keeps its files; the same for all workers."""
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "engine"


@pytest.fixture(autouse=True)
def left_behind() -> Iterator[None]:
    """Collect what Prefect's clients leave behind here, not in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def api(prefect_home: Any) -> Iterator[Api]:
    """The session's Prefect server, with this process as its client."""
    with prefect_server(prefect_home) as server, Api(server.api_url) as found:
        yield found
