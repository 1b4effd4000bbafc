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


def write_templates(directory: Path) -> Path:
    """A directory of templates with one in it, ``web``."""
    found = directory / "templates"
    (found / "images").mkdir(parents=True)
    (found / "images" / "plain.yaml").write_text(IMAGE)
    (found / "web" / "scripts").mkdir(parents=True)
    (found / "web" / "scripts" / "say.sh").write_text(SCRIPT)
    (found / "web" / "template.yaml").write_text(TEMPLATE)
    return found


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


def make_world(settings: Settings, database: Database) -> ApiWorld:
    """An API on such services, without its background work."""
    services, starter = make_services(settings, database), FakeStarter()
    return ApiWorld(services=services, starter=starter, app=create_app(services, starter))


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A directory with one template, ``web``."""
    return write_templates(tmp_path)


@pytest.fixture
def world(settings: Settings, database: Database, templates: Path) -> ApiWorld:
    """An API on SQLite."""
    return make_world(settings.model_copy(update={"templates_dir": templates}), database)
