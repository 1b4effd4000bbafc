"""Asking for a server that calls us: refused before anything is made, where it could not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.clouds.base import Capabilities
from slipway.database import Database
from slipway.errors import InvalidInput
from slipway.launches.creating import instance_spec
from slipway.launches.phoning import expect_agent
from slipway.launches.requests import LaunchRequest, plan_launch, record_launch
from slipway.launches.services import Services
from slipway.settings import Settings
from slipway.testing.fake_cloud import FakeCloud
from tests.api.conftest import make_services, templates
from tests.cli.conftest import IMAGE

__all__ = ["templates"]

REACHED = "https://slipway.example.com"


@pytest.fixture
def services(settings: Settings, database: Database, templates: Path) -> Services:
    changed = settings.model_copy(update={"templates_dir": templates, "api_url": REACHED})
    return make_services(changed, database)


def asked(services: Services, connect: str | None = "agent") -> LaunchRequest:
    return LaunchRequest(template="web", name="web-1", cloud="fake", connect=connect)  # type: ignore[arg-type]


def problems(services: Services) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        plan_launch(services, asked(services))
    return [str(problem) for problem in refused.value.problems]


def with_settings(services: Services, **changed: Any) -> Services:
    return replace(services, settings=services.settings.model_copy(update=changed))


def test_it_is_as_the_request_says_else_the_template(services: Services, templates: Path) -> None:
    """The template decides, the request decides otherwise, and the launch remembers."""
    assert plan_launch(services, asked(services, None)).connect == "ssh"
    path = templates / "web/template.yaml"
    path.write_text(path.read_text() + "connect: agent\n")
    assert plan_launch(services, asked(services, "ssh")).connect == "ssh"
    plan = plan_launch(services, asked(services, None))
    assert record_launch(services, plan, actor="tests").connect == "agent"


def test_an_address_that_servers_cannot_call_is_refused(services: Services) -> None:
    """Loopback is for servers on this computer; anything else is encrypted."""
    loopback = "http://127.0.0.1:4280"
    [problem] = problems(with_settings(services, api_url=loopback))
    assert problem == (
        f"connect: agent: SLIPWAY_API_URL is {loopback}, which leads a server to itself; "
        "give an address that servers reach"
    )
    here = FakeCloud("fake", capabilities=Capabilities(instances_on_this_host=True))
    on_this_host = replace(with_settings(services, api_url=loopback), clouds={"fake": here})
    assert plan_launch(on_this_host, asked(services)).connect == "agent"
    assert "needs https" in problems(with_settings(services, api_url="http://slipway"))[0]


def test_what_is_missing_is_refused(services: Services, templates: Path, tmp_path: Path) -> None:
    """An image that takes no user data, and an authority that is not there: both at once."""
    (templates / "images/plain.yaml").write_text(
        IMAGE.replace("user: admin", "user: admin, user_data_format: none")
    )
    missing = tmp_path / "ca.pem"
    assert problems(with_settings(services, api_ca_file=missing)) == [
        "connect: agent: image debian-12 takes no user data, so nothing can be told to start there",
        f"connect: agent: SLIPWAY_API_CA_FILE names {missing}, and there is no such file",
    ]


def test_every_try_asks_for_the_same_instance(services: Services, tmp_path: Path) -> None:
    """Whatever becomes of our settings between two tries, the user data is the same: with other
    user data a cloud would refuse the token, or make a second instance."""
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    services = with_settings(services, api_ca_file=ca)
    launch = record_launch(services, plan_launch(services, asked(services)), actor="tests")
    with services.database.transaction() as connection:
        expect_agent(services, connection, launch)
    first = instance_spec(services, launch)
    assert REACHED in first.user_data
    assert "AAAA" in first.user_data
    changed = with_settings(services, api_url="https://elsewhere", api_ca_file=None)
    assert instance_spec(changed, launch) == first
    plain = launch.model_copy(update={"connect": "ssh"})
    assert instance_spec(services, plain).user_data == ""
