"""A whole Slipway in a directory: records, templates, and the real local cloud."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from flows.bringing_up import bring_up
from flows.outcomes import Outcome
from slipway import audit
from slipway.clouds.base import TAG_LAUNCH, Instance, InstanceState
from slipway.clouds.local import DEFAULT_IMAGE, Faults, LocalCloud
from slipway.launches.requests import LaunchRequest, plan_launch, record_launch
from slipway.launches.services import Services, build_services
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import AuditEntry, AuditKind, Launch, Step
from slipway.settings import Settings
from slipway.steps import steps_of
from tasks.services import use_services
from tests.engine import no_engine

#: Longer than any of these launches takes; what is waited for after this never comes.
DEADLINE_S = 60.0

#: A script that leaves a trace of every run, so that a second one shows.
COUNTED = """\
# ---
# retry_safe: {retry_safe}
# timeout: 60
# ...
echo {name} >>"$SLIPWAY_ROOT/var/runs.log"
{body}
"""


def counted(name: str, body: str = "", *, retry_safe: bool = False) -> str:
    """A script that writes its name to the machine's ``var/runs.log`` before anything else."""
    return COUNTED.format(name=name, body=body, retry_safe="true" if retry_safe else "false")


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something another task or machine does."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never came: {what}"
        await asyncio.sleep(0.02)


@dataclass(kw_only=True)
class World:
    """One Slipway and what a test asks of it."""

    services: Services
    cloud: LocalCloud

    # -- templates and images --------------------------------------------------------------------

    def image(self, faults: Faults) -> str:
        """The name of an image map whose machines have these faults."""
        name = f"image-{uuid.uuid4().hex[:12]}"
        self.write_image(name, self.cloud.register_image(name, faults=faults).id)
        return name

    def write_image(self, name: str, image_id: str) -> None:
        choice = {"image": image_id, "instance_type": "local.small", "user": "admin"}
        self.write_entries(name, {"local": {"*": {"x86_64": choice, "arm64": choice}}})

    def write_entries(self, name: str, entries: Mapping[str, Any]) -> None:
        path = self.templates_dir / "images" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML as well.
        path.write_text(
            json.dumps({"schema": "slipway-image-map/1", "name": name, "entries": entries})
        )

    def template(
        self,
        boot: Mapping[str, str] | None = None,
        *,
        name: str = "tiny",
        faults: Faults | None = None,
        operational: Mapping[str, str] | None = None,
        decommission: Mapping[str, str] | None = None,
        **document: Any,
    ) -> str:
        """Write a template whose scripts are given by name and text; answers its name."""
        folder = self.templates_dir / name / "scripts"
        folder.mkdir(parents=True, exist_ok=True)
        groups = {"boot": boot or {}, "decommission": decommission or {}}
        written: dict[str, Any] = {"schema": "slipway/1", "name": name}
        written["image"] = "plain" if faults is None else self.image(faults)
        for key, scripts in groups.items():
            written[key] = [f"scripts/{script}.sh" for script in scripts]
        written["operational"] = {key: f"scripts/{key}.sh" for key in operational or {}}
        for scripts in (*groups.values(), operational or {}):
            for script, text in scripts.items():
                (folder / f"{script}.sh").write_text(f"#!/bin/bash\n{text}\n")
        path = self.templates_dir / name / "template.yaml"
        path.write_text(json.dumps({**written, **document}))
        return name

    @property
    def templates_dir(self) -> Path:
        return self.services.settings.templates_dir

    # -- launches --------------------------------------------------------------------------------

    def record(
        self,
        template: str = "tiny",
        *,
        name: str | None = None,
        secrets: Mapping[str, str] | None = None,
        **request: Any,
    ) -> Launch:
        """Plan a launch and put it on record."""
        made = LaunchRequest(template=template, name=name or f"s-{uuid.uuid4().hex[:8]}", **request)
        given = {key: SecretStr(value) for key, value in (secrets or {}).items()}
        plan = plan_launch(self.services, made, secrets=given)
        return record_launch(self.services, plan, actor="tests")

    def drive(self, *launches: Launch) -> list[Outcome]:
        """Bring launches up side by side, without an engine."""

        async def together() -> list[Outcome]:
            return list(await asyncio.gather(*(bring_up(launch.id) for launch in launches)))

        return self.run(together())

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine of the flows on these services, without an engine."""

        async def limited() -> Any:
            return await asyncio.wait_for(coroutine, DEADLINE_S)

        with use_services(self.services), no_engine():
            return asyncio.run(limited())

    def launch(self, template: str = "tiny", **request: Any) -> tuple[Launch, Outcome]:
        """Record and drive one launch; the launch as it is then on record."""
        recorded = self.record(template, **request)
        [outcome] = self.drive(recorded)
        return self.now(recorded), outcome

    def now(self, launch: Launch) -> Launch:
        """The launch as it is on record now."""
        return get_launch(self.services, launch.id)

    # -- what came of them -----------------------------------------------------------------------

    def instances(self, launch: Launch) -> Sequence[Instance]:
        """Every instance ever made for the launch, by asking the cloud for everything."""
        return [
            instance
            for instance in self.cloud.list_instances("local", tags={})
            if instance.tags.get(TAG_LAUNCH) == launch.id
        ]

    def machine(self, launch: Launch) -> Path:
        """The directory that is the machine's file system."""
        instance_id = self.now(launch).instance_id
        assert instance_id is not None
        return self.cloud.directory / "instances" / instance_id / "root"

    def runs(self, launch: Launch) -> list[str]:
        """Which counted scripts ran, in order."""
        log = self.machine(launch) / "var/runs.log"
        return log.read_text().split() if log.exists() else []

    def entries(self, launch: Launch) -> list[AuditEntry]:
        return audit.entries(self.services.database, subject_of(launch.id))

    def summaries(self, launch: Launch) -> list[str]:
        return [entry.summary for entry in self.entries(launch)]

    def verify(self, launch: Launch) -> None:
        """The audit chain holds."""
        audit.verify(self.services.database, subject_of(launch.id))

    def steps(self, launch: Launch) -> dict[str, Step]:
        return {step.key: step for step in steps_of(self.services.database, subject_of(launch.id))}

    def outputs_on_record(self, launch: Launch) -> dict[str, bytes]:
        """The output of each run; fails for a gap or an overlap."""
        found: dict[str, bytes] = {}
        ends: dict[str, int] = {}
        for entry in self.entries(launch):
            if entry.kind != AuditKind.OUTPUT:
                continue
            stream, data = entry.stream, entry.data
            assert stream is not None
            assert data is not None
            assert entry.offset == ends.get(stream, 0), f"{stream}: gap or overlap"
            found[stream] = found.get(stream, b"") + data
            ends[stream] = entry.offset + (entry.raw_bytes or 0)
        return found

    def outputs_on_machine(self, launch: Launch) -> dict[str, bytes]:
        """What the runs wrote, as far as the machine has kept it; runs without output are left
        out."""
        runs = self.machine(launch) / "var/lib/slipway/runs"
        found = {file.parent.name: file.read_bytes() for file in runs.glob("*/output")}
        return {run: output for run, output in found.items() if output}

    def check_invariants(self, launch: Launch, *, instances: int = 1) -> None:
        """One instance, a chain that holds, output complete, no finished step begun again."""
        assert len(self.instances(launch)) == instances
        done: set[str | None] = set()
        for entry in self.entries(launch):
            assert not (entry.kind == AuditKind.SECTION and entry.step in done), entry.step
            if json.loads(entry.detail).get("outcome") == "succeeded":
                done.add(entry.step)
        self.verify(launch)
        # Where it is forgotten, there is nothing to compare; see the fixture `keep_outputs`.
        if kept := self.outputs_on_machine(launch):
            assert self.outputs_on_record(launch) == kept

    def end(self) -> None:
        """Terminate everything of this world."""
        for launch_id in self.launch_ids():
            for instance in self.cloud.list_instances("local", tags={TAG_LAUNCH: launch_id}):
                if instance.state is not InstanceState.TERMINATED:
                    self.cloud.terminate("local", instance.id)
        self.services.database.close()

    def launch_ids(self) -> list[str]:
        with self.services.database.reading() as connection:
            return list(connection.execute(sa.text("SELECT id FROM launch")).scalars())


def make_world(settings: Settings, cloud: LocalCloud) -> World:
    """A world on a new database, with an image map named ``plain`` and no templates."""
    services = build_services(settings)
    world = World(services=replace(services, clouds={"local": cloud}), cloud=cloud)
    world.write_image("plain", DEFAULT_IMAGE)
    return world
