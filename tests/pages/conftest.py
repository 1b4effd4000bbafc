"""A dashboard of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.database import Database
from slipway.settings import Settings
from tests.launches.fixtures import launch_cloud, quick_gates, world
from tests.pages.yard import Browser, Yard, make_yard, write_templates

__all__ = ["launch_cloud", "quick_gates", "world"]


@pytest.fixture
def yard(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Yard]:
    """A dashboard with one template and no server."""
    templates = tmp_path / "templates"
    write_templates(templates)
    with asyncio.Runner() as runner:
        yield make_yard(settings, database, templates, runner)


@pytest.fixture
def browser(yard: Yard) -> Browser:
    """A browser whose token may read, launch and write."""
    return yard.browser()
