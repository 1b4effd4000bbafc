"""An upstream that changes from day to day, and a mirror of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.database import Database
from slipway.mirrors.store import Store
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tests.mirrors.world import World


@pytest.fixture
def archive(tmp_path: Path) -> DebArchive:
    return DebArchive(tmp_path / "upstream")


@pytest.fixture
def web(archive: DebArchive) -> Iterator[Web]:
    with Web(archive.root) as served:
        yield served


@pytest.fixture
def world(tmp_path: Path, database: Database, archive: DebArchive, web: Web) -> World:
    return World(
        archive=archive,
        web=web,
        database=database,
        store=Store(tmp_path / "mirror"),
        clock=FakeClock(archive.now),
    )
