"""The command line on records of the test's own, with a cloud in memory and an engine that drives
launches here and now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slipway.audit import Note
from slipway.cli import app
from slipway.cli.wiring import (
    Action,
    Change,
    EngineStatus,
    FieldChange,
    ServiceStatus,
    StackRequest,
    StackStatus,
    Wiring,
)
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.errors import SlipwayError
from slipway.launches.inputs import Values
from slipway.launches.operations import OperationRequest, check
from slipway.launches.requests import LaunchRequest, find_launch, request_launch
from slipway.launches.services import Services
from slipway.launches.work import Work, take_up
from slipway.lifecycle import Event
from slipway.records import AuditKind, LaunchStatus
from slipway.servertemplates import TemplateStore
from slipway.settings import Settings
from slipway.testing.fake_cloud import FakeCloud
from slipway.testing.fake_remote import FakeConnector, FakeRemote
from slipway.vault import Vault

SCRIPT = """\
#!/bin/bash
# ---
# name: Say it
# inputs:
#   GREETING: {type: text, default: Hello, description: What is said.}
#   COLOR: {type: choice, of: [red, blue], default: red}
#   COUNT: {type: int, default: 1}
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
image: plain
boot: [scripts/say.sh]
operational: {greet: scripts/say.sh}
"""


@dataclass
class FakeSubmission:
    """A flow run that was over before it was handed over."""

    code: int | None = 0
    log_file: str = "/somewhere/runner.log"

    def ended(self) -> int | None:
        return self.code


@dataclass
class FakeEngine:
    """Drives launches in this process, with the domain's own means, when they are submitted."""

    services: Services
    submitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    #: Server names whose launches strand, with the cause.
    strands: dict[str, str] = field(default_factory=dict)
    #: Server names whose driver dies in the middle.
    dies: set[str] = field(default_factory=set)
    refuses_to_start: str = ""
    output: bytes = b"Hello\nand goodbye\n"

    def ready(self) -> str:
        if self.refuses_to_start:
            raise SlipwayError(self.refuses_to_start)
        return "http://127.0.0.1:4200"

    def submit(self, flow: str, parameters: Mapping[str, Any]) -> FakeSubmission:
        # What travels is JSON.
        given = json.loads(json.dumps(dict(parameters)))
        self.submitted.append((flow, given))
        code = 0
        if flow == "launch_server":
            code = self._launch(given["request"])
        elif flow == "launch_servers":
            code = max(self._launch(request) for request in given["requests"])
        elif flow == "resume_launch":
            code = self._drive(given["launch"])
        elif flow == "decommission_server":
            self._end(given["server"])
        else:
            self._run(OperationRequest(**given["request"]))
        return FakeSubmission(code)

    def _launch(self, request: dict[str, Any]) -> int:
        made = request_launch(self.services, LaunchRequest(**request), actor="engine")
        return self._drive(made.id)

    def _drive(self, name: str) -> int:
        work = self._work(name)
        work.reopen()
        code = self._steps(work)
        work.driver.release()
        return code

    def _steps(self, work: Work) -> int:
        done = work.begin("resolve-inputs", "Resolve the inputs")
        launch = work.launch()
        plain = {key: str(each) for key, each in launch.inputs.items() if "cred:" not in str(each)}
        creds = {
            key: str(each).removeprefix("cred:")
            for key, each in launch.inputs.items()
            if "cred:" in str(each)
        }
        if not done.finished:
            result = {"plain": {"GREETING": "Hello", **plain}, "credentials": creds}
            done.succeed("inputs resolved", result=result)
        secrets = Values(credentials=creds).secrets(self.services)
        run = work.begin("run-script:10-say", "Run script 10-say", phase=LaunchStatus.CONFIGURING)
        if work.server in self.dies:
            self.dies.discard(work.server)
            return -9
        assert all(each.get_secret_value() for each in secrets.values())
        if run.attempt == 1:
            self._print(work, run.key)
        if work.server in self.strands:
            error = SlipwayError(self.strands.pop(work.server))
            run.fail(error)
            work.strand(error)
            return 1
        outputs = {"url": "http://192.0.2.1/"}
        run.succeed(
            "script Say it finished",
            also=lambda c: work.update(c, outputs=outputs, private_ip="192.0.2.1"),
        )
        with work.driver.transaction() as connection:
            work.update(connection, host_key="ssh-ed25519 AAAA", instance_id="i-1")
            work.enter(connection, LaunchStatus.OPERATIONAL)
        return 0

    def _print(self, work: Work, step: str) -> None:
        note = Note(
            kind=AuditKind.OUTPUT,
            summary="output",
            step=step,
            stream="run-1",
            offset=0,
            raw_bytes=len(self.output),
            data=self.output,
        )
        work.driver.note(note)

    def _end(self, name: str) -> None:
        work = self._work(name)
        work.cancel()
        with work.driver.transaction() as connection:
            work.advance(connection, Event.DECOMMISSION)
            self.services.vault.remove_of(connection, work.launch_id)
            work.advance(connection, Event.TERMINATE)
        work.driver.release()

    def _run(self, request: OperationRequest) -> None:
        check(self.services, find_launch(self.services, request.server), request)
        work = self._work(request.server)
        run = work.begin(f"operational:{request.script}:{request.key}", "Run script greet")
        run.succeed("it ran")
        work.driver.release()

    def _work(self, name: str) -> Work:
        return take_up(self.services, find_launch(self.services, name).id, actor="engine")


@dataclass
class FakeServer:
    """The engine's server, which is up or not."""

    running: bool = False

    def up(self) -> str:
        self.running = True
        return "http://127.0.0.1:4200"

    def down(self) -> bool:
        was, self.running = self.running, False
        return was

    def status(self) -> EngineStatus:
        url = "http://127.0.0.1:4200" if self.running else ""
        return EngineStatus(
            reachable=self.running,
            ui_url=url,
            api_url=url and f"{url}/api",
            ours=True,
            pid=42 if self.running else None,
            problem="" if self.running else "no Prefect server runs",
        )


@dataclass
class FakeStack:
    """What `slipway up` would run."""

    running: StackStatus | None = None
    asked: list[StackRequest] = field(default_factory=list)
    code: int = 0

    def up(self, request: StackRequest) -> int:
        self.asked.append(request)
        if request.detach:
            self.set("ready")
        return self.code

    def down(self) -> bool:
        was, self.running = self.running, None
        return was is not None

    def status(self) -> StackStatus | None:
        return self.running

    def set(self, state: str, problem: str = "") -> None:
        """One service runs and is like this."""
        url = "http://127.0.0.1:4280"
        api = ServiceStatus(
            name="api", state=state, pid=7, url="" if problem else url, restarts=2, problem=problem
        )
        self.running = StackStatus(
            pid=6, since="2026-11-25T12:00:00+00:00", log_file="/var/up.log", services=(api,)
        )


@dataclass
class CommandLine:
    """Runs commands and keeps what they did at hand."""

    services: Services
    engine: FakeEngine
    cloud: FakeCloud
    wiring: Wiring
    server: FakeServer
    stack: FakeStack

    def __call__(self, *arguments: str, stdin: str | None = None) -> Any:
        """Run one command; code, stdout and stderr are in the result."""
        return CliRunner().invoke(app, list(arguments), obj=self.wiring, input=stdin)

    def ok(self, *arguments: str, stdin: str | None = None) -> Any:
        """Run one command, which has to end with code 0."""
        result = self(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.stdout + result.stderr
        return result

    def json(self, *arguments: str) -> Any:
        """What a command prints as JSON, and nothing else, on stdout."""
        return json.loads(self.ok(*arguments, "--json").stdout)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A directory with one template."""
    directory = tmp_path / "templates"
    (directory / "images").mkdir(parents=True)
    (directory / "images" / "plain.yaml").write_text(IMAGE)
    (directory / "web" / "scripts").mkdir(parents=True)
    (directory / "web" / "scripts" / "say.sh").write_text(SCRIPT)
    (directory / "web" / "template.yaml").write_text(TEMPLATE)
    return directory


@pytest.fixture
def slipway(
    settings: Settings,
    database: Database,
    database_url: str,
    templates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> CommandLine:
    """The command line, wired to fakes."""
    monkeypatch.setenv("SLIPWAY_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("SLIPWAY_DATABASE_URL", database_url)
    monkeypatch.setenv("SLIPWAY_TEMPLATES_DIR", str(templates))
    # Wide enough that no name is folded.
    monkeypatch.setenv("COLUMNS", "200")
    settings.state_dir.mkdir(mode=0o700)
    clock, cloud = SystemClock(), FakeCloud("fake")
    services = Services(
        settings=Settings(),
        database=database,
        clock=clock,
        clouds={"fake": cloud},
        templates=TemplateStore(database, templates, clock),
        vault=Vault(database, settings.state_dir / "keys" / "vault.key", clock),
        connector=FakeConnector(FakeRemote()),
    )
    engine, server, stack = FakeEngine(services), FakeServer(), FakeStack()

    def no_demo(settings: Settings, *, faults: bool, keep: bool) -> int:
        return 10 + faults + 2 * keep

    def deployed(
        settings: Settings, *, file: Path | None, pool: str | None, dry_run: bool
    ) -> Iterator[Change]:
        yield Change(kind="work pool", name=pool or "slipway", action=Action.UNCHANGED)
        changed = FieldChange(path="tags", before=["a"], after=["a", "b"])
        yield Change(
            kind="deployment",
            name=f"{file} {dry_run}",
            action=Action.CHANGED,
            fields=(changed,),
        )
        yield Change(kind="block", name="b", action=Action.LEFT_OUT, note="nothing to notify with")

    wiring = Wiring(
        engine=lambda _: engine,
        services=lambda _: services,
        server=lambda _: server,
        stack=lambda _: stack,
        demo=no_demo,
        deploy=deployed,
    )
    return CommandLine(services, engine, cloud, wiring, server, stack)


@pytest.fixture
def launch(slipway: CommandLine) -> Callable[..., Any]:
    """Launch ``web`` in the cloud in memory."""
    return lambda *arguments, **more: slipway(
        "launch", "web", "--cloud", "fake", *arguments, **more
    )
