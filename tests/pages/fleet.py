"""A made-up fleet that looks like a day's work: for pictures, and for looking at pages closely."""

from __future__ import annotations

import asyncio
import random
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import yaml
from pydantic import SecretStr

from slipway.audit import Note
from slipway.database import Database
from slipway.errors import ScriptFailed
from slipway.launches.environments import create_environment
from slipway.launches.requests import LaunchRequest, plan_launch, record_launch
from slipway.launches.work import Work
from slipway.lifecycle import Event
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.settings import Settings
from slipway.testing.fake_cloud import FakeCloud
from tests.pages.yard import Yard, make_yard

ROOT = Path(__file__).resolve().parent.parent.parent

NOW = datetime(2026, 11, 25, 18, 42, tzinfo=UTC)

OUTPUT = b"""\x1b[1m== install hello-web ==\x1b[0m
Reading package lists... Done
Building dependency tree... Done
\x1b[32mwrote\x1b[0m /usr/local/lib/hello-web/hello_web.py
\x1b[32mwrote\x1b[0m /etc/systemd/system/hello-web.service
\x1b[33mwarning\x1b[0m: no locale is set, C.UTF-8 it is
"""

#: Key, title, the phase it enters, and how many seconds it takes.
STEPS = (
    ("resolve-template", "Resolve the template", None, 0.1),
    ("resolve-inputs", "Resolve the inputs", None, 0.1),
    ("create-instance", "Create the instance", LaunchStatus.PROVISIONING, 2.4),
    ("wait-for-running", "Wait until it runs", LaunchStatus.BOOTING, 11.2),
    ("wait-for-boot", "Wait until it has booted", None, 24.7),
    ("pass-clock-gate", "Pass the clock gate", LaunchStatus.GATING, 1.3),
    ("run-script:10-updates-off", "Run script 10-updates-off", LaunchStatus.CONFIGURING, 3.1),
    ("run-script:30-logging", "Run script 30-logging", None, 0.9),
    ("run-script:50-install", "Run script 50-install", None, 14.5),
    ("run-script:60-configure", "Run script 60-configure", None, 2.2),
    ("check-health", "Check its health", None, 0.8),
)
INSTALL = 9


def make_fleet(
    settings: Settings, database: Database, tmp_path: Path, runner: asyncio.Runner, *, servers: int
) -> Yard:
    """A yard with this many servers that are up, and one of everything else."""
    templates = tmp_path / "templates"
    shutil.copytree(ROOT / "templates", templates)
    yard = make_yard(settings, database, templates, runner, own_app=True)
    cloud = FakeCloud("local", clock=yard.clock, instance_types=("local.small",))
    image = yaml.safe_load((templates / "images" / "debian-12.yaml").read_text())
    cloud.add_image(image["entries"]["local"]["*"]["x86_64"]["image"])
    yard.services.clouds["local"] = cloud  # type: ignore[index]
    yard.clock.step((NOW - yard.clock.now()).total_seconds() - 5 * 3600)
    made = Fleet(yard)
    made.environments()
    for number in range(servers):
        made.up(f"web-{number + 1}", random.Random(number))
        yard.clock.advance(3 * 3600 / servers)
    made.others()
    return yard


class Fleet:
    """Makes servers on a yard."""

    def __init__(self, yard: Yard) -> None:
        self.yard = yard

    def environments(self) -> None:
        services, clock = self.yard.services, self.yard.clock
        services.vault.put("prod-api-token", SecretStr("not shown anywhere"))
        for name, inputs, freeze in (
            ("prod", {"GREETING": "Welcome", "API_TOKEN": "cred:prod-api-token"}, "2026-11-01"),
            ("staging", {"GREETING": "Hello from staging"}, None),
        ):
            create_environment(
                services.database,
                clock,
                name,
                actor="token/anna (dashboard)",
                inputs=inputs,
                freeze=date.fromisoformat(freeze) if freeze else None,
            )
        services.templates.commit("hello-web", "First version", "anna@ops-1")
        services.templates.tag("hello-web", "r1", "prod", actor="anna@ops-1")

    def request(self, name: str, environment: str | None) -> Launch:
        asked = LaunchRequest(
            template="hello-web@prod", name=name, cloud="local", environment=environment
        )
        plan = plan_launch(
            self.yard.services, asked, secrets={"API_TOKEN": SecretStr(f"secret-of-{name}")}
        )
        return record_launch(self.yard.services, plan, actor="token/ci")

    def up(self, name: str, dice: random.Random) -> Launch:
        launch = self.request(name, dice.choice(["prod", "prod", "staging", None]))
        work = self.yard.take_up(launch)
        self.drive(work, dice)
        work.driver.release()
        return launch

    def others(self) -> None:
        """One that stranded, one that was resumed, one cancelled, one going, one coming."""
        yard, dice = self.yard, random.Random(7)
        work = yard.take_up(self.request("api-1", "prod"))
        self.drive(work, dice, upto=INSTALL, fails=True)
        yard.clock.advance(1400)
        work.reopen()
        self.drive(work, dice)
        work.driver.release()
        yard.clock.advance(300)
        work = yard.take_up(self.request("cache-2", "staging"))
        self.drive(work, dice, upto=INSTALL, fails=True)
        work.driver.release()
        yard.clock.advance(200)
        work = yard.take_up(self.request("web-next", "prod"))
        self.drive(work, dice, upto=3)
        with work.driver.transaction() as connection:
            work.advance(connection, Event.CANCEL, reason="cancelled on request")
        work.driver.release()
        yard.clock.advance(40)
        leaving = yard.take_up(self.request("edge-1", None))
        self.drive(leaving, dice)
        yard.clock.step((NOW - yard.clock.now()).total_seconds() - 64)
        with leaving.driver.transaction() as connection:
            leaving.advance(connection, Event.DECOMMISSION, reason="decommissioned by token/ci")
        work = yard.take_up(self.request("hello-1", "staging"))
        self.drive(work, dice, upto=INSTALL, stays=True)
        yard.clock.step((NOW - yard.clock.now()).total_seconds())
        work.driver.renew()
        leaving.driver.renew()

    def drive(
        self,
        work: Work,
        dice: random.Random,
        *,
        upto: int = len(STEPS),
        fails: bool = False,
        stays: bool = False,
    ) -> None:
        """Work through steps; in the last one of ``upto`` it fails or stays, when told to."""
        for number, (key, title, phase, usual_s) in enumerate(STEPS[:upto], start=1):
            run = work.begin(key, title, phase=phase)
            if run.finished:
                continue
            if key.startswith("run-script"):
                self._print(work, key, run.attempt)
            if stays and number == upto:
                return
            self.yard.clock.advance(usual_s * dice.uniform(0.7, 1.4))
            if fails and number == upto:
                error = ScriptFailed("script Install hello-web ended with exit code 100")
                run.fail(error)
                work.strand(error)
                return
            self._succeed(work, run, key, title, dice)
        if upto < len(STEPS):
            return
        with work.driver.transaction() as connection:
            outputs = {"url": f"http://{work.launch().public_ip}:8080/", "version": "1.4.2"}
            work.update(connection, outputs=outputs)
            work.enter(connection, LaunchStatus.OPERATIONAL)

    def _succeed(self, work: Work, run: object, key: str, title: str, dice: random.Random) -> None:
        from slipway.steps import StepRun

        assert isinstance(run, StepRun)
        if key == "resolve-inputs":
            plain = {"GREETING": f"Welcome to {work.server}", "COLOR": "teal", "PORT": "8080"}
            credentials = {"API_TOKEN": f"launch/{work.launch_id}/API_TOKEN"}
            run.succeed("4 inputs resolved", result={"plain": plain, "credentials": credentials})
            return
        place = {
            "instance_id": f"i-0{dice.randrange(16**10):010x}",
            "private_ip": f"10.0.{dice.randrange(8)}.{dice.randrange(2, 250)}",
            "public_ip": f"192.0.2.{dice.randrange(2, 250)}",
        }
        run.succeed(
            f"{title}: done",
            also=(lambda c: work.update(c, **place)) if key == "create-instance" else None,
        )

    def _print(self, work: Work, key: str, attempt: int) -> None:
        note = Note(
            kind=AuditKind.OUTPUT,
            summary=f"{len(OUTPUT)} bytes of output",
            step=key,
            stream=f"{work.launch_id}.{key}.{attempt}",
            offset=0,
            raw_bytes=len(OUTPUT),
            data=OUTPUT,
        )
        work.driver.note(note)
