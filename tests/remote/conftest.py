"""A real SSH server per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway.remote.base import Remote
from slipway.remote.ssh import SshConnector
from tests.ssh_server import SshServer, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with running(tmp_path / "machine") as it:
        yield it


@pytest.fixture
def connector() -> SshConnector:
    return SshConnector(8)


@pytest.fixture
def connect(server: SshServer, connector: SshConnector) -> Iterator[Callable[[], Remote]]:
    """Opens connections that are closed at the end."""
    opened: list[Remote] = []

    def open_one() -> Remote:
        opened.append(connector.connect(server.endpoint, timeout_s=20))
        return opened[-1]

    yield open_one
    for remote in opened:
        remote.close()
