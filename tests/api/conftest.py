"""Fixtures of the API's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.api.app import create_app
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.launches.services import Services
from slipway.servertemplates import TemplateStore
from slipway.settings import Settings
from slipway.testing.fake_cloud import FakeCloud
from slipway.testing.fake_remote import FakeConnector, FakeRemote
from slipway.vault import Vault
from tests.api.world import ApiWorld, FakeStarter
from tests.cli.conftest import IMAGE, SCRIPT, TEMPLATE


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A directory with one template, ``web``."""
    directory = tmp_path / "templates"
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "plain.yaml").write_text(IMAGE)
    (directory / "web" / "scripts").mkdir(parents=True)
    (directory / "web" / "scripts" / "say.sh").write_text(SCRIPT)
    (directory / "web" / "template.yaml").write_text(TEMPLATE)
    return directory


def make_services(settings: Settings, database: Database) -> Services:
    """Services on a cloud in memory, named ``fake``."""
    settings.state_dir.mkdir(mode=0o700, exist_ok=True)
    clock = SystemClock()
    return Services(
        settings=settings,
        database=database,
        clock=clock,
        clouds={"fake": FakeCloud("fake")},
        templates=TemplateStore(database, settings.templates_dir, clock),
        vault=Vault(database, settings.state_dir / "keys" / "vault.key", clock),
        connector=FakeConnector(FakeRemote()),
    )


@pytest.fixture
def services(settings: Settings, database: Database, templates: Path) -> Services:
    """Services on SQLite."""
    return make_services(settings.model_copy(update={"templates_dir": templates}), database)


@pytest.fixture
def world(services: Services) -> ApiWorld:
    """An API on them, without its background work."""
    starter = FakeStarter()
    return ApiWorld(services=services, starter=starter, app=create_app(services, starter))
