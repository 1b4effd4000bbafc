"""A dashboard on records of the test's own, and a browser without scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from slipway import audit, tokens
from slipway.api.app import create_app
from slipway.audit import Note
from slipway.database import Database
from slipway.errors import SlipwayError
from slipway.launches.handover import Dispatcher
from slipway.launches.requests import LaunchRequest, find_launch, plan_launch, record_launch
from slipway.launches.services import Services
from slipway.launches.work import Work, get_launch, take_up
from slipway.lifecycle import Event, subject_of
from slipway.records import AuditEntry, AuditKind, Launch, LaunchStatus
from slipway.servertemplates import TemplateStore
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock
from slipway.testing.fake_cloud import FakeCloud
from slipway.testing.fake_remote import FakeConnector, FakeRemote
from slipway.vault import Vault
from tests.api.world import FakeStarter
from tests.pages.document import LARGEST_BYTES, Document

BASE_URL = "http://127.0.0.1:4280"

SCRIPT = """\
#!/bin/bash
# ---
# name: Say it
# description: Says what it was told.
# inputs:
#   GREETING: {type: text, default: Hello, description: What is said., max: 40}
#   COLOR: {type: choice, of: [red, blue], default: red}
#   COUNT: {type: int, default: 1, min: 1, max: 9}
#   LOUD: {type: bool, default: false}
#   NAMES: {type: list, required: false}
#   UPSTREAM: {type: env, required: false}
#   TOKEN: {type: secret, required: false}
# timeout: 60
# ...
echo "$GREETING"
"""

IMAGE = """\
schema: slipway-image-map/1
name: plain
entries:
  fake:
    "*":
      x86_64: {image: debian-12, instance_type: small, user: admin}
      arm64: {image: debian-12, instance_type: small, user: admin}
"""

TEMPLATE = """\
schema: slipway/1
name: web
description: Says it to the web.
image: plain
boot: [scripts/say.sh]
operational: {greet: scripts/say.sh}
decommission: [scripts/say.sh]
"""


@dataclass(kw_only=True)
class Page:
    """What came back."""

    response: httpx.Response

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def html(self) -> str:
        return self.response.text

    @property
    def document(self) -> Document:
        return Document(self.response.text)

    @property
    def location(self) -> str:
        return self.response.headers["location"]


class Browser:
    """Follows links and sends forms. Every page it sees is checked."""

    def __init__(self, yard: Yard, base_url: str = BASE_URL) -> None:
        self._runner = yard.runner
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(yard.app), base_url=base_url)

    def get(self, address: str, *, largest_bytes: int = LARGEST_BYTES, **headers: str) -> Page:
        found = self._runner.run(self.client.get(address, headers=_headers(headers)))
        page = Page(response=found)
        if page.response.headers.get("content-type", "").startswith("text/html"):
            check_page(page, largest_bytes=largest_bytes)
        return page

    def open(self, address: str) -> Document:
        """A page that has to be there."""
        page = self.get(address)
        assert page.status == 200, page.html
        return page.document

    def send(self, address: str, button: str, **values: str | None) -> Page:
        """Fill in the form that a button on a page sends, and press it."""
        form = self.open(address).form(button)
        return self.post(form.action or address, {**form.values, **values})

    def post(self, address: str, values: Mapping[str, str | None], **headers: str) -> Page:
        """Send a form that no page was asked for."""
        given = {name: value for name, value in values.items() if value is not None}
        found = self._runner.run(self.client.post(address, data=given, headers=_headers(headers)))
        page = Page(response=found)
        if page.response.headers.get("content-type", "").startswith("text/html"):
            check_page(page)
        return page


def _headers(given: Mapping[str, str]) -> dict[str, bytes]:
    # Nothing says that a header is ASCII, and what sends one may not care.
    return {name: value.encode("latin-1") for name, value in given.items()}


def check_page(page: Page, *, largest_bytes: int = LARGEST_BYTES) -> None:
    """What holds for every page: its headers, and `Document.check`."""
    headers = page.response.headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    document = page.document
    document.check()
    assert document.size < largest_bytes, f"{document.size} bytes"


@dataclass(kw_only=True)
class Yard:
    """Services with a cloud in memory and a clock in the test's hands, and the app on them."""

    services: Services
    clock: FakeClock
    cloud: FakeCloud
    starter: FakeStarter
    app: FastAPI
    runner: asyncio.Runner

    def token(self, *scopes: str, name: str = "anna") -> str:
        """A new token."""
        issued = tokens.create(
            self.services.database,
            self.clock,
            name,
            scopes=scopes or ("read", "launch", "write"),
            expires_in=None,
            actor="tests",
        )
        return issued.value.get_secret_value()

    def find_token(self, name: str) -> bool:
        """Whether a token of this name opens anything."""
        found = tokens.list_tokens(self.services.database)
        return any(each.name == name and each.revoked_at is None for each in found)

    def browser(self, *scopes: str, name: str = "anna", base_url: str = BASE_URL) -> Browser:
        """A browser that is logged in."""
        made = Browser(self, base_url)
        page = made.post("/login", {"token": self.token(*scopes, name=name), "next": "/"})
        assert page.status == 303, page.html
        return made

    # -- records -----------------------------------------------------------------------------------

    def record(self, name: str = "web-1", *, actor: str = "anna", **request: Any) -> Launch:
        """A launch that was requested."""
        secrets = {key: SecretStr(value) for key, value in request.pop("secrets", {}).items()}
        asked = LaunchRequest(name=name, template="web", cloud="fake", **request)
        plan = plan_launch(self.services, asked, secrets=secrets)
        return record_launch(self.services, plan, actor=actor)

    def launch(
        self,
        name: str = "web-1",
        *,
        to: LaunchStatus = LaunchStatus.OPERATIONAL,
        output: bytes = b"Hello\n",
        reason: str = "script Say it ended with exit code 3",
        **request: Any,
    ) -> Launch:
        """A launch that was driven as far as this."""
        made = self.record(name, **request)
        if to is LaunchStatus.REQUESTED:
            return made
        work = take_up(self.services, made.id, actor="driver")
        self.drive(work, to=to, output=output, reason=reason)
        work.driver.release()
        return self.now(made)

    def drive(
        self, work: Work, *, to: LaunchStatus, output: bytes = b"Hello\n", reason: str = ""
    ) -> None:
        """Work on a launch until it is in a state."""
        inputs = work.begin("resolve-inputs", "Resolve the inputs")
        credentials = {
            key: str(value).removeprefix("cred:")
            for key, value in work.launch().inputs.items()
            if str(value).startswith("cred:")
        }
        plain = {
            key: str(value) for key, value in work.launch().inputs.items() if key not in credentials
        }
        plain = {"GREETING": "Hello", **plain}
        if not inputs.finished:
            self.clock.advance(1)
            result = {"plain": plain, "credentials": credentials}
            inputs.succeed("inputs resolved", result=result)
        created = work.begin(
            "create-instance", "Create the instance", phase=LaunchStatus.PROVISIONING
        )
        if not created.finished:
            self.clock.advance(3)
            created.succeed(
                "instance i-1 created",
                also=lambda c: work.update(c, instance_id="i-1", private_ip="192.0.2.1"),
            )
        run = work.begin("run-script:10-say", "Run script 10-say", phase=LaunchStatus.CONFIGURING)
        if output:
            self.say(work, run.key, output)
        if to is LaunchStatus.CONFIGURING:
            return
        self.clock.advance(5)
        if to is LaunchStatus.STRANDED:
            error = SlipwayError(reason)
            run.fail(error)
            work.strand(error)
            return
        run.succeed(
            "script Say it finished",
            also=lambda c: work.update(c, outputs={"url": "http://192.0.2.1/"}),
        )
        with work.driver.transaction() as connection:
            work.enter(connection, LaunchStatus.OPERATIONAL)
        if to in (LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED):
            with work.driver.transaction() as connection:
                work.advance(connection, Event.DECOMMISSION)
        if to is LaunchStatus.TERMINATED:
            with work.driver.transaction() as connection:
                work.advance(connection, Event.TERMINATE, reason="decommissioned")

    def say(self, work: Work, step: str, output: bytes, *, offset: int = 0) -> None:
        """Put what a script prints on record."""
        note = Note(
            kind=AuditKind.OUTPUT,
            summary=f"{len(output)} bytes of output",
            step=step,
            stream=f"{work.launch_id}.{step}",
            offset=offset,
            raw_bytes=len(output),
            data=output,
        )
        work.driver.note(note)

    def take_up(self, launch: Launch) -> Work:
        return take_up(self.services, launch.id, actor="driver")

    def handed(self) -> list[tuple[str, dict[str, Any]]]:
        """The flows that are handed to the engine, with their parameters."""
        Dispatcher(self.services, self.starter).tick()
        return list(self.starter.runs.values())

    def entries(self, launch: Launch) -> list[AuditEntry]:
        return audit.entries(self.services.database, subject_of(launch.id))

    def now(self, launch: Launch) -> Launch:
        return get_launch(self.services, launch.id)

    def find(self, name: str) -> Launch:
        return find_launch(self.services, name)


def write_templates(directory: Path) -> None:
    """A directory with one template."""
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "plain.yaml").write_text(IMAGE)
    (directory / "web" / "scripts").mkdir(parents=True)
    (directory / "web" / "scripts" / "say.sh").write_text(SCRIPT)
    (directory / "web" / "template.yaml").write_text(TEMPLATE)


#: FastAPI takes a sixth of a second to look at all routes, which are the same for all tests.
_apps: list[FastAPI] = []


def _shared_app(services: Services, starter: FakeStarter) -> FastAPI:
    if not _apps:
        _apps.append(create_app(services, starter))
    [app] = _apps
    app.state.slipway = replace(app.state.slipway, services=services)
    app.state.slipway_pages = None
    return app


def make_yard(
    settings: Settings,
    database: Database,
    templates: Path,
    runner: asyncio.Runner,
    *,
    own_app: bool = False,
) -> Yard:
    """A yard on an empty database. Its application is shared with other tests of this process, and
    has no background work; ``own_app`` is for one that is served."""
    clock, cloud, starter = FakeClock(), FakeCloud("fake"), FakeStarter()
    services = Services(
        settings=settings,
        database=database,
        clock=clock,
        clouds={"fake": cloud},
        templates=TemplateStore(database, templates, clock),
        vault=Vault(database, settings.state_dir / "keys" / "vault.key", clock),
        connector=FakeConnector(FakeRemote()),
    )
    app = create_app(services, starter) if own_app else _shared_app(services, starter)
    return Yard(
        services=services,
        clock=clock,
        cloud=cloud,
        starter=starter,
        app=app,
        runner=runner,
    )
